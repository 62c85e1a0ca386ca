"""What the change sensor does at an unchanged look, in a process that already runs.

    python -m benchmarks.listing_look MIRROR TIMES

Asks git for the tip of governance, reads the registry and takes its fingerprint; Dagster's own part
of a tick is not in it. Prints the median seconds and CPU-seconds as a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
import time
from statistics import median

from ecr_catalog_pipeline.settings import load_mirrors, mirrors_folder
from ecr_catalog_pipeline.wiring import adapters_of


def main() -> None:
    """Take one look to warm up, then measure the others."""
    name, times = sys.argv[1], int(sys.argv[2])
    adapters = adapters_of(load_mirrors(mirrors_folder(os.environ)).get(name), os.environ)
    took: list[tuple[float, float]] = []
    for _ in range(times + 1):
        began, used = time.perf_counter(), os.times()
        found = adapters.governance.tip(), adapters.registry.read().fingerprint
        assert all(found)
        now = os.times()
        # Of this process and of the gits that it ran: all but the time on the clock.
        cpu = sum(now[:4]) - sum(used[:4])
        took.append((time.perf_counter() - began, cpu))
    seconds, cpu_seconds = zip(*took[1:], strict=True)
    print(json.dumps([median(seconds), median(cpu_seconds)]))


if __name__ == "__main__":
    main()
