/* The wall clock with an offset that another process may change at any moment, for LD_PRELOAD.
 *
 * JUMPING_CLOCK names a file that holds the offset in seconds as one int64. The monotonic clock
 * stays as it is. So does what gRPC is told: it waits for absolute moments of the wall clock
 * straight in the kernel, which knows of no offset.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void map_offset(void) {
  const char *path = getenv("JUMPING_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) offset = mapped;
  close(file);
}

static int64_t ahead(const void *caller) {
  Dl_info of;
  if (!offset) return 0;
  if (dladdr(caller, &of) && of.dli_fname && strstr(of.dli_fname, "grpc")) return 0;
  return *offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += ahead(__builtin_return_address(0));
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int failed = (int)syscall(SYS_gettimeofday, now, zone);
  if (!failed) now->tv_sec += ahead(__builtin_return_address(0));
  return failed;
}

time_t time(time_t *into) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  now.tv_sec += ahead(__builtin_return_address(0));
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}
