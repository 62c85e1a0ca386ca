"""The command `ecr-catalog metrics`."""

from __future__ import annotations

import os
import re
import signal
import threading
from importlib.metadata import version
from typing import Final

import click

from ecr_catalog_pipeline.commands.common import OK
from ecr_catalog_pipeline.commands.run_once import dagster_home
from ecr_catalog_pipeline.core.errors import SettingsError
from ecr_catalog_pipeline.core.metrics import families
from ecr_catalog_pipeline.settings import load_mirrors, mirrors_folder
from ecr_catalog_pipeline.terminal import echo

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})"
)


def _address(_: click.Context, __: click.Parameter, value: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65_535:
        raise click.BadParameter(
            f"{value} is no ADDRESS:PORT, such as 127.0.0.1:9780 or [::1]:9780"
        )
    return match["v6"] or match["host"], int(match["port"])


@click.command()
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    callback=_address,
    default="127.0.0.1:9780",
    show_default=True,
    help="Where to serve /metrics and /healthz. Nobody has to log in there.",
)
@click.option("--once", is_flag=True, help="Print the metrics and end.")
def metrics(listen: tuple[str, int], *, once: bool) -> int:
    """Serve Prometheus metrics of all mirrors, out of Dagster's history.

    Needs DAGSTER_HOME. A scrape asks neither AWS nor git nor Backstage.

    Exit code: 0 stopped, 1 error.
    """
    home = dagster_home(os.environ)
    if home is None:
        raise SettingsError(
            "DAGSTER_HOME is not set, and the metrics come out of Dagster's history",
            remediation="Set it to the folder of the Dagster instance. Where no Dagster runs, let "
            "`ecr-catalog sync --metrics-file FILE` write the metrics for a textfile collector.",
        )
    folder, ours = mirrors_folder(os.environ), version("ecr-catalog-pipeline")
    # Dagster takes seconds to import.
    from ecr_catalog_pipeline.adapters.exposition import (  # noqa: PLC0415
        Address,
        serving,
        write_text,
    )
    from ecr_catalog_pipeline.defs.instance import kept_instance  # noqa: PLC0415
    from ecr_catalog_pipeline.defs.metrics import Exporter, MetricsReader  # noqa: PLC0415

    if once:
        with kept_instance(home) as instance:
            found = MetricsReader(instance).read(load_mirrors(folder))
        click.echo(write_text(families(found, ours)), nl=False)
        return OK
    load_mirrors(folder)
    stopped = _stopped_by_signals()
    exporter = Exporter(home, folder, ours, lambda words: echo(f"warning: {words}", err=True))
    with exporter.reading(), serving(Address(*listen), exporter.page) as address:
        echo(f"Serving http://{address}/metrics")
        stopped.wait()
    return OK


def _stopped_by_signals() -> threading.Event:
    stopped = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.set())
    return stopped
