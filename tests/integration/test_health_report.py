"""The health report: right after every change, in its place alone, never in the entity's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.commands.run_once import run_once
from ecr_catalog_pipeline.commands.sync import sync
from ecr_catalog_pipeline.core.health import markers, section_of
from ecr_catalog_pipeline.core.parity import ParityState
from ecr_catalog_pipeline.defs.event_log import read_parity
from ecr_catalog_pipeline.mirroring import Outcome, Past, PlannedRegistry, ReportPublished
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.conftest import EXECUTABLE, SUBMODULE, SYMLINK, Entry
from tests.integration.worlds import (
    MIRROR,
    FileTarget,
    GitTarget,
    Synced,
    World,
    a_world,
)
from tests.reports import ReadReport, read_report

PATH: Final = "docs/PLATFORM_HEALTH.md"
BRANCH: Final = GitTarget.branch
BEGIN, END = (marker.encode() for marker in markers(MIRROR))
ABOVE: Final = b"\xef\xbb\xbf# Platform health\r\n\r\nKept by hand \xff\xfe.\n```\n| a | b\r\n  "
BELOW: Final = b" \t\r\n\r\n## Costs\n<!-- ecr-catalog:other:begin -->\nno newline at the end"
PAGE: Final = ABOVE + BEGIN + b"\r\n" + END + BELOW
FIVE: Final = tuple(f"team/app-{number}" for number in range(5))
CHECK: Final = "health_report_published"


@pytest.fixture
def target(tmp_path: Path) -> GitTarget:
    return GitTarget(tmp_path)


@pytest.fixture
def world(tmp_path: Path, target: GitTarget) -> Iterator[World]:
    """A world whose report goes into a team's page; nothing is published yet."""
    with a_world(tmp_path, target) as world:
        put(target, PAGE)
        world.write_mirror(health={"path": PATH})
        world.have(*FIVE)
        yield world


def put(target: GitTarget, content: bytes | Entry | None, path: str = PATH) -> str:
    """Let a human push a file."""
    return target.repository.commit({path: content}, branch=BRANCH)


def page(target: GitTarget) -> bytes:
    content = target.repository.content(PATH, BRANCH)
    assert content is not None
    return content


def report(target: GitTarget, mirror: str = MIRROR) -> ReadReport:
    section = section_of(page(target), mirror)
    assert section is not None
    return read_report(section)


def commits(target: GitTarget) -> int:
    return len(target.history())


def files_of(target: GitTarget, commit: str = BRANCH) -> set[str]:
    """The files that a commit changed."""
    changed = target.repository.git("diff-tree", "-r", "--name-only", f"{commit}^", commit)
    return set(changed.splitlines())


def files_since(target: GitTarget, before: int) -> list[set[str]]:
    """The files that each commit changed, of those that followed the first `before` ones."""
    new = target.repository.git("rev-list", "--reverse", BRANCH).split()[before:]
    return [files_of(target, commit) for commit in new]


def version(run: Synced) -> str:
    """The blob of the report that a run wrote; empty when it wrote none."""
    shown = run.materialization("health_report").metadata["version"].value
    assert isinstance(shown, str)
    return shown


def report_alone(world: World) -> None:
    """Change something that the report says and the entity does not."""
    world.fake.create("tmp-debug-jo")
    world.govern("tmp-debug-jo", status="decommissioned")


def warning(run: Synced) -> str:
    """What the check warns of; it never says that something is an error."""
    evaluation = run.evaluations[CHECK]
    assert evaluation.passed or evaluation.severity is dg.AssetCheckSeverity.WARN
    return "" if evaluation.passed else evaluation.description or ""


# The report is right


STATES: Final = {
    ("pending", True): "live",
    ("active", True): "live",
    ("decommissioned", True): "lingering",
    ("pending", False): "pending",
    ("active", False): "ghost",
    ("decommissioned", False): "retired",
}


@dataclass
class Script:
    """Changes a world, and keeps its own account of what is true in it."""

    world: World
    governed: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    measured: int = 0

    def govern(self, name: str, status: str = "active", *, timed: int = 0, **metadata: str) -> None:
        self.world.govern(name, status=status, **metadata)
        self.governed[name] = status
        self.owners[name] = metadata.get("owner", "platform-team")
        self.measured += timed

    def create(self, name: str, *, timed: int = 0) -> None:
        self.world.fake.create(name)
        self.measured += timed

    def delete(self, name: str, *, timed: int = 0) -> None:
        self.world.fake.delete(name)
        self.measured += timed

    def in_state(self, state: str) -> list[str]:
        present = set(self.world.fake.names())
        if state == "orphan":
            return sorted(present - self.governed.keys())
        return sorted(
            name
            for name, status in self.governed.items()
            if STATES[status, name in present] == state
        )

    def check(self, said: ReadReport) -> None:
        states = ("live", "pending", "ghost", "orphan", "lingering", "retired")
        counts = {state: len(self.in_state(state)) for state in states}
        assert said.counts == counts
        assert said.pies["Repositories by state"] == {s: n for s, n in counts.items() if n}
        words = {"Ghosts": "ghost", "Orphans": "orphan", "Lingering": "lingering"}
        assert said.named == {
            word: ", ".join(self.in_state(state)) for word, state in words.items() if counts[state]
        }
        found = +self.findings
        for name, status in self.governed.items():
            if status == "pending" and name in self.world.fake.names():
                found[self.owners[name], "info"] += 1
        severities = ("error", "warning", "info")
        by_owner = {
            owner: tuple(found[owner, severity] for severity in severities)
            for owner in {owner for owner, _ in found}
        }
        assert said.owners == by_owner
        assert sum(said.severities.values()) == found.total()
        assert said.parity["changes measured"] == (str(self.measured), str(self.measured))


def test_the_section_is_right_after_each_of_ten_changes_and_the_rest_stays(
    world: World, target: GitTarget
) -> None:
    began = datetime.now(UTC)
    truth = Script(world)
    for name in FIVE:
        truth.govern(name)
    truth.govern("wanted", "pending")

    def odd_risk() -> None:
        truth.govern("team/app-4", risk="extreme", timed=1)
        truth.findings["platform-team", "warning"] += 1

    changes: Sequence[Callable[[], None]] = [
        lambda: truth.create("wanted", timed=1),
        lambda: truth.delete("team/app-1", timed=1),
        lambda: truth.govern("soon", "pending", created_date="2026-01-06", timed=1),
        lambda: truth.create("tmp-debug-jo"),
        lambda: truth.govern("team/app-2", "decommissioned", timed=1),
        lambda: truth.delete("team/app-2"),
        lambda: truth.govern("team/app-3", owner="team-shop", timed=1),
        odd_risk,
        lambda: truth.create("team/app-1", timed=1),
        lambda: truth.govern("never-made"),
    ]
    world.sync()
    truth.check(report(target))
    for number, change in enumerate(changes, 1):
        before = commits(target)
        change()

        published = world.sync().outcome == "published"

        entity: list[set[str]] = [{target.path}] if published else []
        assert files_since(target, before) == [*entity, {PATH}], f"change {number}"
        truth.check(report(target))
        world.sync()
        assert commits(target) == before + len(entity) + 1, f"change {number}: all is said"
        assert page(target).startswith(ABOVE + BEGIN + b"\r\n")
        assert page(target).endswith(END + BELOW)

    longest = (datetime.now(UTC) - began).total_seconds() + 6
    p50, p95, maximum = (
        int(report(target).parity[row][0].removesuffix(" s")) for row in ("p50", "p95", "max")
    )
    assert 0 < p50 <= p95 <= maximum <= longest
    within = f"100 % ({truth.measured} of {truth.measured})"
    assert report(target).parity["within 180 s"] == (within, within)


def test_quiet_ticks_make_no_commit(world: World, target: GitTarget) -> None:
    world.sync()
    before = commits(target)

    for tick in range(6):
        if tick == 3:
            world.commit("hello\n", path="README.md")
            world.commit(world.governance_file.read_text() + "# Reviewed.\n")
        run = world.sync()
        assert run.outcome == "unchanged"
        assert version(run) == ""
        assert run.checks[CHECK]

    assert commits(target) == before


def test_nine_days_of_ticks_renew_nothing_but_what_leaves_its_window(
    world: World, target: GitTarget
) -> None:
    """The clock runs by itself; everything else is real."""
    world.sync()
    world.have("team/new")
    world.sync()
    measured = read_parity(world.instance, world.mirror)
    assert measured.measured == 1
    before, start = commits(target), datetime.now(UTC)

    def tick(now: datetime) -> None:
        published = report_at(world, plan_at(world, now), now, measured)
        assert not published.problem

    for minutes in (2, 30, 58):
        tick(start + timedelta(minutes=minutes))
    assert commits(target) == before
    for hours in range(12, 9 * 24, 12):
        tick(start + timedelta(hours=hours))
    assert commits(target) == before + 2, "it leaves the day, and then the week"
    assert report(target).parity["changes measured"] == ("0", "0")


def plan_at(world: World, now: datetime) -> PlannedRegistry:
    """Read and plan as a run does at that time."""
    adapters = world.adapters
    return mirroring.plan_publication(
        world.mirror,
        adapters,
        mirroring.read_governance(world.mirror, adapters, clock=lambda: now),
        mirroring.read_inventory(adapters.registry, clock=lambda: now),
        Past(),
        clock=lambda: now,
    )


def report_at(
    world: World, planned: PlannedRegistry, now: datetime, measured: ParityState
) -> ReportPublished:
    """Publish what an unchanged plan comes to, and its report, as a run does at that time."""
    mirror, adapters = world.mirror, world.adapters
    publication = mirroring.publish(
        adapters.publisher, planned, mirror=MIRROR, run_id="a-run", clock=lambda: now
    )
    assert publication.outcome is Outcome.UNCHANGED
    health = mirroring.gather_health(
        mirror, planned, publication, measured, held_since=None, clock=lambda: now
    )
    published = mirroring.publish_report(
        mirror, adapters, health, planned, "a-run", clock=lambda: now
    )
    assert published
    return published


def test_a_run_that_wakes_late_publishes_no_report(world: World, target: GitTarget) -> None:
    world.sync()
    report_alone(world)
    now = datetime.now(UTC)
    planned = plan_at(world, now)
    before = target.history()

    late = report_at(world, planned, now + timedelta(seconds=91), ParityState())

    assert "91 s ago" in late.problem
    assert late.version is None
    assert target.history() == before
    in_time = report_at(world, planned, now + timedelta(seconds=90), ParityState())
    assert in_time.version == target.repository.git("rev-parse", f"{BRANCH}:{PATH}")
    assert report(target).named["Lingering"] == "tmp-debug-jo"


def test_the_report_is_written_when_the_entity_stays_and_its_commit_says_so(
    world: World, target: GitTarget
) -> None:
    world.sync()
    report_alone(world)

    run = world.sync()

    assert files_of(target) == {PATH}
    assert run.outcome == "unchanged"
    message = target.repository.git("log", "-1", "--format=%s%n%(trailers:only)", BRANCH)
    subject, *trailers = message.splitlines()
    assert subject == f"ecr-catalog({MIRROR}): health report"
    assert [each.split(": ")[0] for each in trailers] == ["Source-Sha", "Plan-Hash", "Run-Id"]
    assert version(run) == target.repository.git("rev-parse", f"{BRANCH}:{PATH}")
    assert version(world.sync()) == ""


def test_the_asset_shows_the_report(world: World, target: GitTarget) -> None:
    run = world.sync()

    shown = run.materialization("health_report").metadata["report"]
    assert isinstance(shown, dg.MarkdownMetadataValue)
    assert read_report(shown.md_str or "") == report(target)
    assert run.data_version("health_report") == world.sync().data_version("health_report")


def test_with_backstage_the_times_are_those_until_it_showed_the_change(
    world: World, target: GitTarget
) -> None:
    with FakeBackstage() as backstage:
        backstage.source = target.content
        world.write_mirror(health={"path": PATH}, backstage={"url": backstage.url})
        world.sync()
        world.have("team/new")
        world.sync()

    assert report(target).parity["changes measured"] == ("1", "1")


# While a plan is held, or governance refused


def hold(world: World) -> None:
    for name in FIVE[1:]:
        world.fake.delete(name)


def test_a_held_plan_is_reported_and_the_entity_stays(
    world: World, target: GitTarget, tmp_path: Path
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        world.instance = instance
        world.sync()
        good = target.content()
        hold(world)
        began = datetime.now(UTC)

        held = world.sync()

        assert held.outcome == "held"
        assert target.content() == good
        assert files_of(target) == {PATH}
        said = report(target)
        assert said.publication.startswith("**A plan is held since ")
        assert "4 of 5 repositories (80 %)" in said.publication
        assert said.counts["ghost"] == 4
        since = datetime.fromisoformat(said.publication.split("since ")[1][:16] + "Z")
        assert began - timedelta(minutes=1) < since <= datetime.now(UTC)
        commit = target.repository.tip(BRANCH)
        assert world.sync().outcome == "held"
        assert world.sync().outcome == "held"
        assert target.repository.tip(BRANCH) == commit, "the same hold is reported once"

        before = commits(target)
        world.sync(approve=held.planned.plan.plan_hash)

        assert files_since(target, before) == [{target.path}, {PATH}]
        assert report(target).publication.endswith("Nothing is held.")
        assert report(target).parity["changes measured"] == ("4", "4")
        tip = target.repository.tip(BRANCH)
        world.sync()
        assert target.repository.tip(BRANCH) == tip


def test_refused_governance_leaves_the_report_as_it_was(world: World, target: GitTarget) -> None:
    world.sync()
    before = target.history()
    world.fake.create("tmp-debug-jo")
    world.commit("repositories: [\n")

    world.sync_fails()

    assert target.history() == before
    world.revert()
    world.sync()
    assert report(target).counts["orphan"] == 1


def test_a_failed_inventory_leaves_the_report_as_it_was(world: World, target: GitTarget) -> None:
    world.sync()
    before = target.history()
    world.fake.create("tmp-debug-jo")
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)

    world.sync_fails()

    assert target.history() == before


# The entity never waits for its report


def published_without_report(world: World, target: GitTarget, *words: str) -> None:
    """Publish a change whose report cannot be written, for the reason that the check gives."""
    world.have("team/new")
    run = world.sync()
    assert run.outcome == "published"
    assert "team/new" in world.listed
    assert files_of(target) == {target.path}
    unchanged = world.sync()
    assert unchanged.outcome == "unchanged"
    for each in (run, unchanged):
        assert warning(each).startswith(f"{PATH} on branch {BRANCH} of ")
        for word in words:
            assert word in warning(each)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "there is no such file"),
        (Entry(b"# No markers\n"), " is missing. "),
        (Entry((BEGIN + b"\n" + END + b"\n") * 2), "is there 2 times"),
        (Entry("../README.md", SYMLINK), "a symbolic link"),
        (Entry("3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e", SUBMODULE), "a submodule"),
    ],
    ids=["no file", "no markers", "two sections", "symbolic link", "submodule"],
)
def test_a_report_that_has_no_place_never_stops_the_entity(
    world: World, target: GitTarget, entry: Entry | None, words: str
) -> None:
    world.sync()
    put(target, entry)

    published_without_report(world, target, words)


def test_a_folder_in_the_reports_place_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    world.sync()
    put(target, None)
    put(target, b"x\n", f"{PATH}/inside.md")

    published_without_report(world, target, "is a folder")


def test_a_file_where_the_report_needs_a_folder_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    put(target, None)
    put(target, b"x\n", "docs")
    world.write_mirror(health={"path": PATH, "style": "file"})

    published_without_report(world, target, "cannot be written", "choose another path")

    assert target.repository.content("docs", BRANCH) == b"x\n"


def test_markers_that_someone_removed_are_asked_for_and_used_again(
    world: World, target: GitTarget
) -> None:
    world.sync()
    put(target, ABOVE + BELOW)

    published_without_report(world, target, BEGIN.decode(), END.decode())

    assert page(target) == ABOVE + BELOW
    put(target, PAGE)
    assert warning(world.sync()) == ""
    assert "6" in str(report(target).counts["live"])
    assert page(target).startswith(ABOVE)
    assert page(target).endswith(BELOW)


def test_a_report_that_the_server_refuses_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    world.sync()
    target.repository.hook(
        "pre-receive",
        "read old new ref\n"
        f'git diff-tree -r --name-only "$old" "$new" | grep -qx {PATH} || exit 0\n'
        "echo docs belong to the docs team >&2; exit 1",
    )

    published_without_report(world, target, "docs belong to the docs team")


def test_measured_times_that_cannot_be_read_never_stop_the_entity(
    world: World, target: GitTarget
) -> None:
    world.sync()
    world.have("team/new")
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey([MIRROR, "backstage_parity"]), metadata={"state": {"hours": "many"}}
        )
    )

    run = world.sync()

    assert (run.outcome, warning(run)) == ("published", "")
    assert report(target).counts["live"] == 6


def test_the_file_keeps_its_mode(world: World, target: GitTarget) -> None:
    put(target, Entry(PAGE, EXECUTABLE))

    world.sync()

    assert report(target).counts["live"] == 5
    assert target.repository.git("ls-tree", BRANCH, "--", PATH).startswith(EXECUTABLE)


# Races


# A server on which someone commits a file before it takes a push, a few times.
EDIT: Final = f"""
unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
echo try >> tries
[ "$(wc -l < tries)" -le {{times}} ] || exit 0
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@x
export GIT_INDEX_FILE=moving-index
git read-tree {BRANCH}
blob=$( {{edit}} | git hash-object -w --stdin)
git update-index --add --cacheinfo 100644,$blob,{{path}}
commit=$(git commit-tree "$(git write-tree)" -p {BRANCH} -m "Edit a file")
git update-ref refs/heads/{BRANCH} "$commit"
"""
ADD_A_LINE: Final = f"(echo pushed by hand; git cat-file blob {BRANCH}:{PATH})"
REMOVE_THE_MARKERS: Final = "echo all new"
BY_HAND: Final = b"pushed by hand\n"


def edited_at_each_push(target: GitTarget, edit: str, *, times: int, path: str = PATH) -> None:
    target.repository.hook("pre-receive", EDIT.format(edit=edit, times=times, path=path))


@pytest.mark.parametrize("times", [1, 2])
def test_a_person_who_edits_the_page_while_the_entity_is_pushed_loses_nothing_and_stops_nothing(
    world: World, target: GitTarget, times: int
) -> None:
    world.sync()
    edited_at_each_push(target, ADD_A_LINE, times=times)
    world.have("team/new")

    run = world.sync()

    assert (run.outcome, warning(run)) == ("published", "")
    assert "team/new" in world.listed
    assert page(target).startswith(BY_HAND * times + ABOVE)
    assert page(target).endswith(BELOW)
    assert report(target).counts["live"] == 6


def test_a_person_who_edits_the_page_while_the_report_is_pushed_loses_nothing_and_the_next_run_writes_it(  # noqa: E501
    world: World, target: GitTarget
) -> None:
    world.sync()
    report_alone(world)
    edited_at_each_push(target, ADD_A_LINE, times=1)

    run = world.sync()

    assert (run.outcome, version(run)) == ("unchanged", "")
    assert "was changed by someone else" in warning(run)
    assert page(target).startswith(BY_HAND + ABOVE)
    assert "Lingering" not in report(target).named
    assert warning(world.sync()) == ""
    assert page(target).startswith(BY_HAND + ABOVE)
    assert page(target).endswith(BELOW)
    assert report(target).named["Lingering"] == "tmp-debug-jo"


def test_a_person_who_commits_another_file_while_the_report_is_pushed_delays_nothing(
    world: World, target: GitTarget
) -> None:
    world.sync()
    report_alone(world)
    edited_at_each_push(target, "echo notes", times=2, path="docs/NOTES.md")

    run = world.sync()

    assert (run.outcome, warning(run)) == ("unchanged", "")
    assert target.repository.content("docs/NOTES.md", BRANCH) == b"notes\n"
    assert report(target).named["Lingering"] == "tmp-debug-jo"


def test_markers_that_vanish_while_we_push_cost_the_report_alone(
    world: World, target: GitTarget
) -> None:
    world.sync()
    edited_at_each_push(target, REMOVE_THE_MARKERS, times=1)
    world.have("team/new")

    run = world.sync()

    assert run.outcome == "published"
    assert "team/new" in world.listed
    assert " is missing. " in warning(run)
    assert BEGIN.decode() in warning(run)
    assert page(target) == b"all new\n"


def test_a_report_that_keeps_losing_warns_and_is_tried_again(
    world: World, target: GitTarget
) -> None:
    world.sync()
    report_alone(world)
    edited_at_each_push(target, "date +%N", times=3, path="docs/NOTES.md")

    run = world.sync()

    assert run.outcome == "unchanged"
    assert "moved 3 times" in warning(run)
    assert warning(world.sync()) == ""
    assert report(target).named["Lingering"] == "tmp-debug-jo"


@pytest.mark.parametrize(
    ("status", "outcome", "state", "count"),
    [("active", "published", "live", 6), ("decommissioned", "unchanged", "lingering", 1)],
    ids=["both", "the report alone"],
)
def test_a_push_whose_answer_was_lost_counts(
    world: World, target: GitTarget, *, status: str, outcome: str, state: str, count: int
) -> None:
    world.sync()
    before = commits(target)
    world.fake.create("team/new")
    world.govern("team/new", status=status)
    # The branch has moved, and the process that would say so dies.
    target.repository.hook("reference-transaction", '[ "$1" = committed ] && kill -9 $PPID; exit 0')

    run = world.sync()

    assert (run.outcome, warning(run)) == (outcome, "")
    assert report(target).counts[state] == count
    assert files_since(target, before)[-1] == {PATH}
    assert commits(target) == before + 1 + (outcome == "published")
    assert version(run) == target.repository.git("rev-parse", f"{BRANCH}:{PATH}")


def test_a_branch_that_takes_no_report_leaves_an_unchanged_entity_as_good_as_it_was(
    world: World, target: GitTarget
) -> None:
    world.sync()
    report_alone(world)
    target.repository.hook("pre-receive", "echo only people may push here >&2; exit 1")

    run = world.sync()

    assert run.outcome == "unchanged"
    assert f"{PATH} on branch {BRANCH}" in warning(run)
    assert "only people may push here" in warning(run)
    assert all(passed for name, passed in run.checks.items() if name != CHECK)


def test_an_entity_that_is_not_published_leaves_the_report_as_it_was(
    world: World, target: GitTarget
) -> None:
    world.sync()
    before = target.history()
    world.have("team/new")
    target.repository.hook("pre-receive", "echo only people may push here >&2; exit 1")

    failure = world.sync_fails()

    assert target.path in (failure.description or "")
    assert target.history() == before


class Another(GitTarget):
    """Another entity in the same repository and on the same branch."""

    def __init__(self, beside: GitTarget) -> None:
        self.repository = beside.repository

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "path": "catalog/resources/other.yaml"}


def test_two_mirrors_publish_into_one_page_at_once(tmp_path: Path, target: GitTarget) -> None:
    begin, end = (marker.encode() for marker in markers("other"))
    above, between, below = b"# Platform health\n\n", b"\n\n## The other\n\n", b"\n\nThe end"
    put(target, above + BEGIN + b"\n" + END + between + begin + b"\n" + end + below)
    with (
        a_world(tmp_path / "one", target) as one,
        a_world(tmp_path / "two", Another(target), "other") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        worlds = (one, other)
        for world in worlds:
            world.write_mirror(health={"path": PATH})
        for count in range(1, 4):
            for world in worlds:
                world.have(f"{world.name}/app-{count}")
            runs = [run.result() for run in [pool.submit(world.sync) for world in worlds]]
            assert {run.outcome for run in runs} == {"published"}
            # Who wrote the page second may have lost the race, and writes it with the next run.
            assert {warning(world.sync()) for world in worlds} == {""}
            assert {report(target, world.name).counts["live"] for world in worlds} == {count}
        one.sync()
        before = section_of(page(target), "other")
        one.fake.create("tmp-debug-jo")
        one.sync()

    assert section_of(page(target), "other") == before
    assert report(target).named == {"Orphans": "tmp-debug-jo"}
    pieces = page(target).split(section_of(page(target), MIRROR) or b"-")
    assert pieces[0] == above + BEGIN + b"\n"
    assert pieces[1].startswith(END + between + begin + b"\n")
    assert pieces[1].endswith(end + below)


# Without a Dagster history


def test_a_sync_that_keeps_no_history_publishes_the_report_once(
    world: World, target: GitTarget
) -> None:
    before = commits(target)

    done = run_once(world.mirror, world.settings_environ)

    assert done.report
    assert not done.report.problem
    assert done.report.version == target.repository.git("rev-parse", f"{BRANCH}:{PATH}")
    assert files_since(target, before) == [{target.path}, {PATH}]
    assert page(target).startswith(ABOVE + BEGIN)
    assert page(target).endswith(END + BELOW)
    assert report(target).counts["live"] == 5
    again = run_once(world.mirror, world.settings_environ)
    assert again.report
    assert (again.report.problem, again.report.version) == ("", None)
    assert commits(target) == before + 2


def test_a_sync_that_keeps_no_history_reports_a_held_plan_and_its_approval(
    world: World, target: GitTarget
) -> None:
    world.sync()
    hold(world)

    held = run_once(world.mirror, world.settings_environ)

    assert files_of(target) == {PATH}
    assert report(target).publication.startswith("**A plan is held**: ")
    before = commits(target)
    run_once(world.mirror, world.settings_environ, approve=held.planned.plan.plan_hash)
    assert files_since(target, before) == [{target.path}, {PATH}]
    assert report(target).publication.endswith("Nothing is held.")


def test_the_command_sync_says_why_the_report_is_missing_and_exits_with_0(
    world: World, target: GitTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(target, b"# No markers\n")
    monkeypatch.setenv("ECR_CATALOG_MIRRORS", str(world.mirrors))
    monkeypatch.setenv("ECR_CATALOG_CACHE", str(world.cache))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    done = CliRunner().invoke(sync, [], standalone_mode=False)

    assert (done.exception, done.return_value) == (None, 0)
    assert done.stdout.startswith("published: ")
    assert f"health report: {PATH} on branch {BRANCH} of " in done.stderr
    assert "begin --> is missing" in done.stderr
    assert BEGIN.decode() in done.stderr
    assert len(world.listed) == 5


# A file of its own


FILE: Final = {"path": "reports/ecr.md", "style": "file"}


def frontmatter(content: bytes | None) -> Any:
    assert content is not None
    return yaml.safe_load(content.decode().split("---\n")[1])


def test_a_file_of_its_own_says_where_it_comes_from(world: World, target: GitTarget) -> None:
    world.write_mirror(health={**FILE, "env": "prod"})

    run = world.sync()

    content = target.repository.content(FILE["path"], BRANCH)
    head = frontmatter(content)
    generated_at = datetime.fromisoformat(head.pop("generated_at"))
    assert abs((datetime.now(UTC) - generated_at).total_seconds()) < 300
    assert head == {
        "type": "governance-report",
        "env": "prod",
        "source": {"branch": "main", "sha": world.governance.git("rev-parse", "HEAD")},
        "pipeline": {"workflow": f"{MIRROR}_sync", "run_id": run.result.run_id},
        "integrity": {"derived_only": True},
    }
    assert read_report(content or b"").counts["live"] == 5
    assert page(target) == PAGE, "nobody asked for a section"
    world.sync()
    before = commits(target)
    world.commit("hello\n", path="README.md")
    world.sync()
    assert commits(target) == before, "another run alone is no reason"


def test_a_foreign_file_is_never_overwritten(world: World, target: GitTarget) -> None:
    put(target, b"# Ours\n", FILE["path"])
    world.write_mirror(health=FILE)

    run = world.sync()

    assert run.outcome == "published"
    assert "not overwritten" in warning(run)
    assert target.repository.content(FILE["path"], BRANCH) == b"# Ours\n"


def test_a_file_that_someone_changed_is_rewritten(world: World, target: GitTarget) -> None:
    world.write_mirror(health=FILE)
    world.sync()
    good = target.repository.content(FILE["path"], BRANCH) or b""
    put(target, good.replace(b"| live | 5 |", b"| live | 50 |"), FILE["path"])

    assert warning(world.sync()) == ""

    fixed = target.repository.content(FILE["path"], BRANCH) or b""
    assert read_report(fixed).counts["live"] == 5


# What is defined


def specs(world: World) -> dict[str, dg.AssetSpec]:
    found = world.definitions.resolve_all_asset_specs()
    return {each.key.path[-1]: each for each in found}


def test_a_mirror_with_a_report_has_one_more_asset_and_one_more_check(world: World) -> None:
    def checks() -> set[str]:
        graph = world.definitions.resolve_asset_graph()
        return {each.name for each in graph.asset_check_keys}

    with_report = specs(world)
    with_check = checks()
    world.write_mirror()

    assert set(with_report) - set(specs(world)) == {"health_report"}
    assert with_check - checks() == {CHECK}
    assert {each.asset_key.path[-1] for each in with_report["health_report"].deps} == {
        "reconciled_registry",
        "published_entity",
        "backstage_parity",
    }
    assert {each.asset_key.path[-1] for each in with_report["published_entity"].deps} == {
        "reconciled_registry",
    }
    job = world.definitions.resolve_job_def(f"{MIRROR}_sync")
    assert job.asset_layer.executable_asset_keys == {
        dg.AssetKey([MIRROR, name])
        for name in (
            "governance_catalog",
            "ecr_inventory",
            "reconciled_registry",
            "published_entity",
            "backstage_parity",
        )
    }


def test_without_health_nothing_but_the_entity_is_written(world: World, target: GitTarget) -> None:
    world.write_mirror()

    run = world.sync()

    assert page(target) == PAGE
    assert files_of(target) == {target.path}
    assert CHECK not in run.checks


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path": "../x.md"}, "health.path: must be a path inside the repository"),
        ({"path": ".git/x"}, "health.path: must not lie in .git"),
        ({"path": GitTarget.path}, "health.path: must name another file than publish.path"),
        ({"path": f"./{GitTarget.path}"}, "health.path: must name another file"),
        ({"path": f"{GitTarget.path}/x.md"}, "health.path: must name another file"),
        ({"path": "catalog"}, "health.path: must name another file"),
        ({"path": PATH, "style": "page"}, "health.style: "),
        ({"path": PATH, "env": "a b"}, "health.env: "),
        ({"style": "file"}, "health.path: is required"),
        ({"path": PATH, "colour": "red"}, "health.colour: is not a key"),
    ],
)
def test_a_report_that_cannot_be_placed_is_refused_when_loaded(
    world: World, settings: dict[str, str], words: str
) -> None:
    world.write_mirror(health=settings)

    assert words in str(load_mirrors(world.mirrors).errors[MIRROR])


def test_a_report_needs_a_git_target(tmp_path: Path) -> None:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.write_mirror(health={"path": PATH})
        error = str(load_mirrors(world.mirrors).errors[MIRROR])

    assert "goldenpath.yaml: health: " in error
    assert "use publish.kind git" in error


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ({"path": PATH}, {"path": PATH}, {}),
        ({"path": PATH, "style": "file"}, {"path": "another.md", "style": "file"}, {}),
        (
            {"path": PATH, "style": "file"},
            {"path": PATH, "style": "file"},
            {"one": "health.path", "other": "health.path"},
        ),
        (
            {"path": PATH},
            {"path": PATH, "style": "file"},
            {"one": "health.path", "other": "health.path"},
        ),
        (
            {"path": "catalog/other.yaml"},
            {"path": PATH},
            {"one": "health.path", "other": "publish"},
        ),
    ],
    ids=["sections", "files", "one file", "section in a file", "report on an entity"],
)
def test_only_sections_share_a_file(
    tmp_path: Path, one: dict[str, str], other: dict[str, str], refused: dict[str, str]
) -> None:
    for name, health in (("one", one), ("other", other)):
        publish = {"kind": "git", "repository": "../repo", "path": f"catalog/{name}.yaml"}
        mirror = {
            "governance": {"repository": "../governance"},
            "registry": {"region": "eu-west-2"},
            "publish": publish,
            "health": health,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(mirror))

    loaded = load_mirrors(tmp_path)

    assert set(loaded.errors) == set(refused)
    assert set(loaded.mirrors) == {"one", "other"} - set(refused)
    for name, key in refused.items():
        others = {"one": "other", "other": "one"}
        problem = loaded.errors[name].problem
        assert f"{name}.yaml: {key}: is also the target of {others[name]}" in problem
