"""Runs a function in a process of its own, for what must not share one.

Dagster captures the output of a step by redirecting the process's own streams, so two runs in two
threads would take each other's. The processes are forked off one that has imported Dagster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Final, TypeVar

from ecr_catalog_pipeline.core.errors import CatalogError

_IMPORTED_ONCE: Final = (
    "ecr_catalog_pipeline.cli",
    "ecr_catalog_pipeline.commands.run_assets",
    "ecr_catalog_pipeline.defs.instance",
)
SECONDS: Final = 180
"""How long a process may take; run monitoring ends a run earlier, each source earlier still."""

_Result = TypeVar("_Result")


def in_child_process(work: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function in a process of its own, with this environment and working folder.

    Args:
        work: a function of a module; it, its arguments and its result are pickled.

    Raises:
        CatalogError: the process ended without a result, or did not end in time.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED_ONCE])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_result, args=(sender, dict(os.environ), work, arguments), daemon=True
    )
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            raise CatalogError(
                f"the process of this run did not end in {SECONDS} s",
                remediation="It was ended. Run again; if this repeats, run with -m NAME.",
            )
        result: _Result = receiver.recv()
    except EOFError:
        raise CatalogError(
            "the process of this run ended without a result",
            remediation="It may have been killed: look for a lack of memory, and run again.",
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    return result


def _send_result(
    sender: Connection,
    environ: Mapping[str, str],
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    sender.send(work(*arguments))
    sender.close()
