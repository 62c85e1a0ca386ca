"""`ecr-catalog demo`: run the embedded world, and change something in it."""

from __future__ import annotations

import os
from pathlib import Path

import click
from botocore.exceptions import BotoCoreError, ClientError

from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.demo import world as worlds
from ecr_catalog_pipeline.demo.watch import watch_change
from ecr_catalog_pipeline.demo.world import DEMO_MIRROR, DemoWorld
from ecr_catalog_pipeline.settings import MIRRORS_VARIABLE, Mirror, load_mirrors, mirrors_folder

_NEXT = "A sensor sees it within seconds."


@click.group()
def demo() -> None:
    """Run the embedded demo, and change something in it.

    Exit code of each command: 0 done, or ended with Ctrl-C, 1 error.
    """


@demo.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option("--ecr-port", type=int, help="Port of the demo's ECR; by default as in its mirror.")
@click.option("--backstage-port", type=int, help="Port of its Backstage; by default the same.")
def run(port: int, ecr_port: int | None, backstage_port: int | None) -> None:
    """Serve the demo until Ctrl-C: ECR, two git repositories, Dagster.

    With another port for ECR or Backstage only the demo's mirror runs.
    """
    try:
        from ecr_catalog_pipeline.demo.supervisor import run_demo  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise CatalogError(
            f"the demo needs the package {error.name}",
            remediation="Install ecr-catalog-pipeline[demo], or run `make run` in a checkout.",
        ) from None
    if ecr_port or backstage_port:
        # Dagster's processes find the mirror on these ports by this, too.
        folder = worlds.write_mirror_with_ports(_mirror(), ecr_port, backstage_port)
        os.environ[MIRRORS_VARIABLE] = str(folder)
    run_demo(_mirror(), Path.cwd(), port)


@demo.command()
@click.argument("name")
@click.option("--owner", default="app-team-shop", show_default=True, help="The team that asks.")
def request(name: str, owner: str) -> None:
    """Govern the repository NAME as pending, as a merged request would."""
    worlds.request_repository(_world(), name, owner)
    click.echo(f"{name} is governed as pending. {_NEXT}")


@demo.command()
@click.argument("name")
def create(name: str) -> None:
    """Create the repository NAME in the demo's ECR."""
    _in_ecr(worlds.create_in_ecr, name)
    click.echo(f"{name} is in ECR. {_NEXT}")


@demo.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete the repository NAME in the demo's ECR."""
    _in_ecr(worlds.delete_in_ecr, name)
    click.echo(f"{name} is gone from ECR. {_NEXT}")


@demo.command("break")
def break_() -> None:
    """Commit a governance file that is not valid YAML."""
    worlds.break_governance(_world())
    click.echo(
        "The governance file is broken: the next run refuses it, and the entity stays. "
        "Repair it with: ecr-catalog demo repair"
    )


@demo.command()
def repair() -> None:
    """Revert the commit that broke the governance file."""
    worlds.repair_governance(_world())
    click.echo(f"The governance file is valid again. {_NEXT}")


@demo.command()
@click.argument("name", default="edge-cache")
@click.option("--seconds", default=180, show_default=True, help="How long to watch at the most.")
def watch(name: str, seconds: int) -> None:
    """Change the repository NAME in ECR and watch it pass each stage.

    NAME must be governed. It is created in ECR when it is not there, else deleted.
    """
    mirror = _mirror()
    world = worlds.demo_world(mirror)
    worlds.share_token(mirror, world)
    for stage in watch_change(mirror, world, name, seconds):
        click.echo(stage)


def _mirror() -> Mirror:
    return load_mirrors(mirrors_folder(os.environ)).get(DEMO_MIRROR)


def _world() -> DemoWorld:
    return worlds.demo_world(_mirror())


def _in_ecr(change: worlds.EcrChange, name: str) -> None:
    world = _world()
    try:
        change(world, name)
    except ClientError as error:
        raise CatalogError(
            f"ECR refuses: {error.response['Error']['Message']}",
            remediation="See `ecr-catalog plan -m demo`.",
        ) from None
    except BotoCoreError:
        raise CatalogError(
            f"the demo's ECR does not answer at {world.endpoint_url}",
            remediation="Start the demo with `make run`.",
        ) from None
