"""Runs git with what the user configured for transport, credentials and identity, and no more.

Everything else of a user's configuration and environment, such as hooks, signatures, colours or
object formats, reaches neither our clones nor what git prints.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecr_catalog_pipeline.core.text import clean_text

if TYPE_CHECKING:
    from git.cmd import Git

Configuration = Sequence[tuple[str, str]]
"""Keys and values, in git's order: for most keys the last one counts."""

# The keys of a user's configuration that reach our git, as git spells them: in lower case. One
# that ends in a dot stands for all below it.
_KEPT: Final[Mapping[str, str]] = {
    "author.": "who commits",
    "committer.": "who commits",
    "core.askpass": "gives credentials",
    "core.sshcommand": "reaches a server by SSH",
    "credential.": "gives credentials",
    "credentialcache.": "gives credentials",
    "credentialstore.": "gives credentials",
    "http.": "proxies, certificates and headers",
    "protocol.": "the version that a server understands; GIT_ALLOW_PROTOCOL says which are allowed",
    "safe.directory": "which repositories of other users are trusted",
    "ssh.variant": "reaches a server by SSH",
    "url.": "another address of a server",
    "user.email": "who commits",
    "user.name": "who commits",
}
_OURS: Final[Configuration] = (
    # An older clone of ours may hold hooks of a template.
    ("core.hooksPath", os.devnull),
    # Garbage is collected in a time of its own, and by nothing that stays behind.
    ("gc.autoDetach", "false"),
    ("maintenance.auto", "false"),
)
# What a user's or a surrounding git's environment would change of our commands. Names that git does
# not know stay: helpers that give credentials read them.
_REMOVED: Final = frozenset(
    {
        # Another repository, such as that of a hook we run in.
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_PROTOCOL",
        "GIT_PUSH_OPTION_COUNT",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
        # How a repository is made.
        "GIT_DEFAULT_HASH",
        "GIT_DEFAULT_REF_FORMAT",
        "GIT_TEMPLATE_DIR",
        # How objects and paths are read.
        "GIT_ATTR_SOURCE",
        "GIT_GLOB_PATHSPECS",
        "GIT_ICASE_PATHSPECS",
        "GIT_NOGLOB_PATHSPECS",
        "GIT_NO_LAZY_FETCH",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_REF_PARANOIA",
        # What is printed, and what runs to show it.
        "GIT_CURL_VERBOSE",
        "GIT_DIFF_OPTS",
        "GIT_EXTERNAL_DIFF",
        "GIT_PAGER",
        "GIT_TRANSLOOP_DEBUG",
        "GIT_TRANSPORT_HELPER_DEBUG",
        # When a commit was made: that is when we make it.
        "GIT_AUTHOR_DATE",
        "GIT_COMMITTER_DATE",
        # The user's configuration, of which `users_configuration` keeps a part.
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_SYSTEM",
    }
)
_REMOVED_NUMBERED: Final = re.compile(r"GIT_(CONFIG_(KEY|VALUE)|PUSH_OPTION)_\d+")

_WORDS_SHOWN: Final = 6
MAX_WORDS: Final = 2_000
_DENIAL: Final = re.compile(r"Authentication failed|returned error: 4\d\d|HTTP 4\d\d")
_GENERALITIES: Final = frozenset({"fatal: Could not read from remote repository."})
_PROGRESS: Final = re.compile(r"remote: (Enumerating|Counting|Compressing|Total|Resolving)\b")
CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]+@")
_IMPORT_LOCK: Final = threading.Lock()


class GitFailed(Exception):
    """A git command failed; the message is git's own, without credentials.

    Args:
        remediation: what to do about it, where that is known here.
    """

    def __init__(self, problem: str, *, remediation: str = "") -> None:
        super().__init__(problem)
        self.remediation = remediation


class GitUnusable(GitFailed):
    """No git can be run here: it is missing, or its configuration cannot be read."""


def users_configuration(address: str, folder: Path, seconds: float) -> Configuration:
    """Read what the user configured for transport, credentials and identity.

    Args:
        address: of the repository that is used; a configuration may be for some addresses only.
        folder: the clone's; the same holds for it.

    Raises:
        GitUnusable: git is missing, or cannot read its configuration.
    """
    environment = _environment(os.environ, keep_configuration=True)
    # A folder in the clone's that never exists: neither the clone's configuration nor that of a
    # repository around it is read.
    environment["GIT_DIR"] = str(folder / "none")
    arguments = ("-c", f"remote.origin.url={address}", "config", "--list", "--includes", "-z")
    try:
        listed = run_git(arguments, environment, folder=folder.parent, seconds=seconds)
    except GitUnusable:
        raise
    except GitFailed as error:
        raise GitUnusable(
            str(error),
            remediation="Correct git's configuration; `git config --list` says the same.",
        ) from None
    entries = listed.decode("utf-8", "surrogateescape").split("\0")
    return [
        (key, value if separator else "true")
        for key, separator, value in (entry.partition("\n") for entry in entries)
        if key in _KEPT or f"{key.partition('.')[0]}." in _KEPT
    ]


def git_environment(configuration: Configuration, ours: Mapping[str, str] = {}) -> dict[str, str]:
    """Give the whole environment of a git command of ours.

    Args:
        configuration: what `users_configuration` gave.
        ours: what one command needs besides.
    """
    entries = [*configuration, *_OURS]
    numbered = {
        name: text
        for index, (key, value) in enumerate(entries)
        for name, text in (
            (f"GIT_CONFIG_KEY_{index}", key),
            (f"GIT_CONFIG_VALUE_{index}", value),
        )
    }
    return {
        **_environment(os.environ),
        **numbered,
        "GIT_CONFIG_COUNT": str(len(entries)),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "file:https:ssh",
        # A path of the settings is a path, never a pattern.
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        **ours,
    }


def configuration_text(configuration: Configuration) -> str:
    """Write configuration as git reads it from a file."""
    return "".join(
        f"{_header(key)}\t{key.rpartition('.')[2]} = {_quoted(value)}\n"
        for key, value in configuration
    )


def run_git(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path,
    seconds: float,
    given: bytes | None = None,
) -> bytes:
    """Run one git command, which ends with this process, and give what it prints.

    Args:
        environment: the command's whole environment.
        folder: where it runs.
        seconds: after which it is ended, with all that it started.
        given: what it reads.

    Raises:
        GitUnusable: git is missing.
        GitFailed: with git's own words.
    """
    command = (*_ending_with_us(), find_git(environment), *arguments)
    try:
        process = subprocess.Popen(  # noqa: S603  # settings were checked; no shell reads them
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A group of its own, to be ended as a whole; without a terminal, nothing can ask there.
            start_new_session=True,
        )
    except OSError as error:
        raise GitUnusable(
            f"git cannot be run: {error.strerror}",
            remediation="Check the permissions of git, and the memory of this machine.",
        ) from None
    with process:
        try:
            output, errors = process.communicate(given, timeout=seconds)
        except subprocess.TimeoutExpired:
            end_group(process.pid)
            raise GitFailed(f"git {_verb(arguments)} did not end in {seconds:g} s") from None
        except BaseException:
            end_group(process.pid)
            raise
    if process.returncode:
        raise GitFailed(git_words(errors.decode("utf-8", "replace"), process.returncode))
    return output


def find_git(environment: Mapping[str, str]) -> str:
    """Give the path of git.

    Raises:
        GitUnusable: there is none.
    """
    found = shutil.which("git", path=environment.get("PATH"))
    if found is None:
        raise GitUnusable("git is not installed", remediation="Install git 2.32 or newer.")
    return found


def end_group(leader: int) -> None:
    """End a process and all that it started, by the process's id."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def git_words(errors: str, status: int) -> str:
    """Git's last words, on one line, without what it may say of credentials."""
    lines = [line.strip() for line in re.split(r"[\r\n]", errors) if line.strip()]
    relevant = [
        line.removeprefix("fatal: ").rstrip(".")
        for line in lines
        if line.startswith(("fatal:", "error:", "remote:", "!"))
        and line not in _GENERALITIES
        and not _PROGRESS.match(line)
    ]
    if any(_DENIAL.search(line) for line in relevant):
        # Who refuses credentials may repeat them.
        relevant = [line for line in relevant if not line.startswith("remote:")]
    shown = relevant or lines
    if len(shown) > _WORDS_SHOWN:
        shown = [*shown[: _WORDS_SHOWN // 2], "...", *shown[-_WORDS_SHOWN // 2 :]]
    text = "; ".join(shown) or f"git ended with {status}"
    return clean_text(CREDENTIALS.sub("", text), MAX_WORDS)


def git_python() -> type[Git]:
    """Import GitPython without the git that it runs then, and without which it fails."""
    with _IMPORT_LOCK:
        if "git" not in sys.modules:
            quiet = {"GIT_PYTHON_REFRESH": "quiet", "GIT_PYTHON_GIT_EXECUTABLE": os.devnull}
            before = {variable: os.environ.get(variable) for variable in quiet}
            os.environ.update(quiet)
            try:
                import git  # noqa: F401, PLC0415
            finally:
                for variable, value in before.items():
                    if value is None:
                        del os.environ[variable]
                    else:
                        os.environ[variable] = value
    from git.cmd import Git  # noqa: PLC0415

    return Git


def _environment(
    inherited: Mapping[str, str], *, keep_configuration: bool = False
) -> dict[str, str]:
    return {
        **{
            name: value
            for name, value in inherited.items()
            if (keep_configuration and name.startswith("GIT_CONFIG_"))
            or not (
                name in _REMOVED
                or _REMOVED_NUMBERED.fullmatch(name)
                # A trace to a file is the user's own affair; any other one is mixed into answers.
                or (name.startswith("GIT_TRACE") and not value.startswith("/"))
            )
        },
        "LANGUAGE": "C",
        "LC_ALL": "C",
    }


@functools.cache
def _ending_with_us() -> tuple[str, ...]:
    """What makes Linux end a command when the thread that waits for it is gone."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL")
    # Not every setpriv knows the option.
    tried = subprocess.run((*prefix, setpriv, "--version"), capture_output=True, check=False)  # noqa: S603
    return () if tried.returncode else prefix


def _verb(arguments: Iterable[str]) -> str:
    return next((word for word in arguments if not word.startswith("-") and "=" not in word), "")


def _header(key: str) -> str:
    section, _, rest = key.partition(".")
    subsection = rest.rpartition(".")[0]
    return f"[{section} {_quoted(subsection)}]\n" if subsection else f"[{section}]\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
