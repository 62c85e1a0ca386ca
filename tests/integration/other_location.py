"""A code location that has nothing to do with ours."""

import dagster as dg


@dg.op
def nothing() -> None: ...


@dg.job
def theirs() -> None:
    nothing()


defs = dg.Definitions(jobs=[theirs])
