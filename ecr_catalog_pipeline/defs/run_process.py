"""What the process of a run defines: the mirror of that run, and no other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from typing import Final

# Not exported: what Dagster's default launcher gives to the process that it starts.
from dagster._core.definitions.reconstruct import ReconstructableJob

from ecr_catalog_pipeline.settings import LoadedMirrors, Mirror, sync_job_name

JOB_VARIABLE: Final = "DAGSTER_RUN_JOB_NAME"
"""Names the job of a run: the launchers for Kubernetes and ECS set it, and ours."""


def mirror_of_this_run(loaded: LoadedMirrors, environ: Mapping[str, str]) -> Mirror | None:
    """Give the mirror whose run this process executes; None where it may need every mirror."""
    job = _job_of_this_process(environ)
    return next(
        (mirror for name, mirror in loaded.mirrors.items() if sync_job_name(name) == job), None
    )


def _job_of_this_process(environ: Mapping[str, str]) -> str | None:
    """The job that this process was started for.

    Dagster's default launcher passes it to the process as an argument, others in the environment.
    """
    for argument in getattr(multiprocessing.current_process(), "_args", ()):
        if isinstance(argument, ReconstructableJob):
            return argument.job_name
    return environ.get(JOB_VARIABLE)
