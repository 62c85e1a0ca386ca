"""The command `ecr-catalog`. Exit codes are a contract; a traceback is never what a user sees."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Final, NoReturn

import click

from ecr_catalog_pipeline.commands.common import ERROR
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.terminal import echo, print_what_cannot_be_encoded_as_escapes

COMMANDS: Final = {
    "plan": "commands.plan:plan",
    "sync": "commands.sync:sync",
    "verify": "commands.verify:verify",
    "adopt": "commands.adopt:adopt",
    "guard": "commands.guard:guard",
    "retire": "commands.retire:retire",
    "init": "commands.init:init",
    "metrics": "commands.metrics:metrics",
    "schema": "commands.schema:schema_command",
    "demo": "demo.commands:demo",
}
"""Where each command is."""


class _Commands(click.Group):
    """Imports a command when it is used: all of them take longer than most of them run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"ecr_catalog_pipeline.{module}"), name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="ecr-catalog-pipeline")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.pass_context
def cli(context: click.Context, *, debug: bool) -> None:
    """Keep one Backstage entity in sync with ECR and your governance file.

    Mirrors are the files of the folder ECR_CATALOG_MIRRORS, or of mirrors/ here.
    """
    context.obj = {"debug": debug}


def main() -> None:
    """Run `ecr-catalog`."""
    # What a command reads it keeps to its end: looking for garbage in it takes a fifth of the time.
    gc.set_threshold(100_000)
    run(cli)


def run(command: click.Command) -> NoReturn:
    """Run a command; every error becomes a sentence and an exit code."""
    debug = "--debug" in sys.argv
    print_what_cannot_be_encoded_as_escapes()
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        _show_usage(error)
        code = ERROR
    except click.Abort:
        echo("Stopped.", err=True)
        code = ERROR
    except CatalogError as error:
        echo(f"Error: {error}", *getattr(error, "__notes__", ()), err=True)
        code = ERROR
    except Exception as error:
        if debug:
            raise
        echo(
            f"Error: unexpected {type(error).__name__}: {error}. This is a defect of ours; run "
            "again with `ecr-catalog --debug ...` and report what it prints.",
            err=True,
        )
        code = ERROR
    # Python searches all that is loaded for garbage at its end; with Dagster that takes 0.4 s.
    gc.freeze()
    sys.exit(code)


def _show_usage(error: click.ClickException) -> None:
    """Print what click would, but for what the arguments hold."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(context.get_usage(), err=True)
        echo(f"Try '{context.command_path} {context.help_option_names[0]}' for help.", "", err=True)
    echo(f"Error: {error.format_message()}", err=True)
