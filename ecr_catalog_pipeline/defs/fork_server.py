"""The process that runs are forked from: it has imported what a run needs, and executes nothing.

`run_launcher` starts it and writes one line of JSON for each run: `arguments` of the command
`dagster`, and `environment`, variables to add. The answer is the number of the run's process. It
ends when its input ends; runs go on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ecr_catalog_pipeline import __file__ as package

PRELOADED: Final = ("dagster._cli", "dagster._cli.api", "ecr_catalog_pipeline.definitions")
"""A run imports these, and what they import: 1.2 of the 2.0 CPU-s that it costs otherwise."""


def main() -> None:
    """Import what a run needs, then fork a process for each line of the input."""
    imported_at = time.time()
    # What an import prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in PRELOADED:
        importlib.import_module(module)
    # What is imported is never garbage; to look at it there would copy its memory for every run.
    gc.freeze()
    signal.signal(signal.SIGCHLD, _forget_ended)
    # Ctrl-C reaches every process of a terminal. The runs decide for themselves what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _run(request, imported_at)
        print(pid, file=answers, flush=True)


def _run(request: dict[str, Any], imported_at: float) -> None:
    """Become the process of a run: execute its command, and exit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.update(request["environment"])
    arguments = request["arguments"]
    if _code_changed(imported_at):
        os.execv(sys.executable, [sys.executable, "-m", "dagster", *arguments])  # noqa: S606 - ours

    from dagster._cli import cli  # noqa: PLC0415 - imported by `main`, for all runs

    cli.main(arguments, prog_name="dagster")


def _code_changed(since: float) -> bool:
    """Whether our code is newer than what was imported, so that a run has to import it again."""
    return any(path.stat().st_mtime > since for path in Path(package).parent.rglob("*.py"))


def _forget_ended(*_: object) -> None:
    """Take note of the processes that ended, or they would stay as zombies."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
