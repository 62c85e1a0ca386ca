from __future__ import annotations

from dataclasses import replace

import pytest

from ecr_catalog_pipeline.core.last_publication import LastPublication, left_behind

HERE = "s3://bucket/registry.yaml"
LAST = LastPublication(
    digest="sha256:0",
    live=841,
    last_sync="2026-01-09T23:03:13Z",
    kind="s3",
    target=HERE,
    entity="resource:default/registry",
    account_id="123456789012",
)


@pytest.mark.parametrize(
    ("last", "where", "words"),
    [
        (
            LAST,
            HERE,
            "841 repositories were published there, content of 2026-01-09T23:03:13Z",
        ),
        (
            LAST,
            "elsewhere",
            f"841 repositories were published at {HERE}, content of 2026-01-09T23:03:13Z",
        ),
        (
            LastPublication("sha256:0"),
            HERE,
            "an entity was published there, content of an unknown time",
        ),
    ],
)
def test_what_was_published_last_is_said_with_its_place_and_time(
    last: LastPublication, where: str, words: str
) -> None:
    assert last.in_words(where) == words


@pytest.mark.parametrize(
    "last",
    [None, LAST, replace(LAST, entity="resource:default/Registry"), replace(LAST, entity="")],
)
def test_a_mirror_that_publishes_where_it_did_leaves_nothing_behind(
    last: LastPublication | None,
) -> None:
    assert left_behind(last, HERE, "resource:default/registry") == ""


@pytest.mark.parametrize(
    ("kind", "command"), [("git", "git rm"), ("s3", "aws s3 rm"), ("file", "rm"), ("", "there")]
)
def test_what_stays_at_the_former_target_is_said_with_how_to_remove_it(
    kind: str, command: str
) -> None:
    said = left_behind(replace(LAST, kind=kind), "elsewhere", "resource:default/registry")

    assert said.startswith(f"the last publication went to {HERE}, and that file stays.")
    assert command in said
