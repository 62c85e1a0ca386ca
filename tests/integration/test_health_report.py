"""The health report: right after every change, in its place alone, never in the entity's way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest
import yaml

from ecr_catalog_pipeline import mirroring, wiring
from ecr_catalog_pipeline.adapters.publish_git import MAX_BESIDE, GitPublisher
from ecr_catalog_pipeline.adapters.publisher import BesidePublished
from ecr_catalog_pipeline.core.health import (
    Origin,
    RegistryHealth,
    Style,
    markers,
    registry_health,
    section_of,
)
from ecr_catalog_pipeline.core.parity import ParityState
from ecr_catalog_pipeline.core.plan import Plan
from ecr_catalog_pipeline.defs.event_log import read_parity
from ecr_catalog_pipeline.mirroring import Outcome, Publication, ReportTarget
from ecr_catalog_pipeline.settings import load_mirrors
from tests.fakes.aws import Fault
from tests.fakes.backstage import FakeBackstage
from tests.integration.conftest import EXECUTABLE, SUBMODULE, SYMLINK, Entry
from tests.integration.worlds import (
    GOVERNANCE_PATH,
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


def told(run: Synced) -> str:
    """What the check says; it warns at the most."""
    evaluation = run.evaluations[CHECK]
    assert evaluation.passed or evaluation.severity is dg.AssetCheckSeverity.WARN
    return "" if evaluation.passed else evaluation.description or ""


def settle(world: World) -> None:
    """Run until the times of what was published are reported, too."""
    world.sync()
    world.sync()


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
    settle(world)
    truth.check(report(target))
    for number, change in enumerate(changes, 1):
        before, said, measured = commits(target), report(target), truth.measured
        change()

        published = world.sync().outcome == "published"

        files = files_of(target)
        assert (target.path in files) is published, f"change {number}"
        assert (PATH in files) is (report(target) != said), f"change {number}"
        assert commits(target) == before + 1, f"change {number}: one commit with both"
        world.sync()
        truth.check(report(target))
        assert commits(target) == before + 1 + (truth.measured > measured), f"change {number}"
        assert page(target).startswith(ABOVE + BEGIN + b"\r\n")
        assert page(target).endswith(END + BELOW)

    longest = (datetime.now(UTC) - began).total_seconds() + 6
    p50, p95, maximum = (
        int(report(target).parity[row][0].removesuffix(" s")) for row in ("p50", "p95", "max")
    )
    assert 0 < p50 <= p95 <= maximum <= longest
    within = f"100 % ({truth.measured} of {truth.measured})"
    assert report(target).parity["within 180 s"] == (within, within)


def test_a_quiet_hour_makes_no_commit(world: World, target: GitTarget) -> None:
    settle(world)
    before = commits(target)

    for tick in range(30):
        if tick == 15:
            world.commit("hello\n", path="README.md")
            world.commit(world.governance_file.read_text() + "# Reviewed.\n")
        run = world.sync()
        assert run.outcome == "unchanged"
        assert run.publication.report == BesidePublished()
        assert run.checks[CHECK]

    assert commits(target) == before


def test_nine_days_of_ticks_renew_nothing_but_what_leaves_its_window(
    world: World, target: GitTarget
) -> None:
    """The clock runs by itself; everything else is real."""
    settle(world)
    world.have("team/new")
    settle(world)
    measured = read_parity(world.instance, world.mirror)
    assert measured.measured == 1
    publisher = wiring.publisher(world.mirror, world.cache)
    assert isinstance(publisher, GitPublisher)
    before, start = commits(target), datetime.now(UTC)

    def tick(now: datetime) -> None:
        planned = plan_at(world, publisher, now)
        health = registry_health(
            mirror=MIRROR,
            title=world.mirror.identity.title,
            registry=planned.registry,
            plan=planned.plan,
            published_change=planned.published_change,
            parity=measured,
            held_since=None,
            slo_seconds=180,
            now=now,
        )
        run = publish_at(publisher, planned.plan, health, now)
        assert run.outcome is Outcome.UNCHANGED
        assert run.report
        assert not run.report.problem

    for minutes in (2, 30, 58):
        tick(start + timedelta(minutes=minutes))
    assert commits(target) == before
    for hours in range(12, 9 * 24, 12):
        tick(start + timedelta(hours=hours))
    assert commits(target) == before + 2, "it leaves the day, and then the week"
    assert report(target).parity["changes measured"] == ("0", "0")


def plan_at(world: World, publisher: GitPublisher, now: datetime) -> mirroring.PlannedRegistry:
    """Read and plan as a run does at that time."""
    mirror = world.mirror
    return mirroring.plan_publication(
        mirror,
        mirroring.read_governance(
            wiring.governance_repo(mirror, world.cache), GOVERNANCE_PATH, clock=lambda: now
        ),
        mirroring.read_inventory(wiring.ecr_registry(mirror), clock=lambda: now),
        ecr=wiring.ecr_registry(mirror),
        publisher=publisher,
        clock=lambda: now,
    )


def publish_at(
    publisher: GitPublisher, plan: Plan, health: RegistryHealth, now: datetime
) -> Publication:
    origin = Origin("main", plan.source_sha, f"{MIRROR}_sync", "a-run", MIRROR)
    return mirroring.publish_with_report(
        publisher,
        plan,
        health,
        ReportTarget(PATH, Style.SECTION, origin),
        mirror=MIRROR,
        run_id="a-run",
        clock=lambda: now,
    )


def test_a_run_that_wakes_late_publishes_no_report(world: World, target: GitTarget) -> None:
    settle(world)
    world.fake.create("tmp-debug-jo")
    world.govern("team/app-0", status="active")
    publisher = wiring.publisher(world.mirror, world.cache)
    assert isinstance(publisher, GitPublisher)
    now = datetime.now(UTC)
    planned = plan_at(world, publisher, now)
    unchanged = replace(planned.plan, unchanged=True)
    health = registry_health(
        mirror=MIRROR,
        title="A title",
        registry=planned.registry,
        plan=unchanged,
        published_change=None,
        parity=ParityState(),
        held_since=None,
        slo_seconds=180,
        now=now,
    )
    before = page(target)

    late = publish_at(publisher, unchanged, health, now + timedelta(seconds=91))

    assert late.outcome is Outcome.UNCHANGED
    assert late.report
    assert "91 s ago" in late.report.problem
    assert page(target) == before
    in_time = publish_at(publisher, unchanged, health, now + timedelta(seconds=90))
    assert in_time.report
    assert in_time.report.commit == target.repository.tip(BRANCH)
    assert report(target).named["Orphans"] == "tmp-debug-jo"


def test_a_commit_of_the_report_alone_says_so(world: World, target: GitTarget) -> None:
    world.sync()
    world.fake.create("tmp-debug-jo")
    world.govern("tmp-debug-jo", status="decommissioned")

    run = world.sync()

    assert files_of(target) == {PATH}
    assert run.outcome == "unchanged"
    message = target.repository.git("log", "-1", "--format=%s%n%(trailers:only)", BRANCH)
    subject, *trailers = message.splitlines()
    assert subject == f"ecr-catalog({MIRROR}): health report, entity unchanged"
    assert [each.split(": ")[0] for each in trailers] == ["Source-Sha", "Plan-Hash", "Run-Id"]
    shown = run.materialization("published_entity").metadata
    assert shown["health_report_commit"].value == target.repository.tip(BRANCH)
    assert "health_report_commit" not in world.sync().materialization("published_entity").metadata


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
        settle(world)
        world.have("team/new")
        settle(world)

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
        settle(world)
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

        world.sync(approve=held.planned.plan.plan_hash)

        assert files_of(target) == {PATH, target.path}
        assert report(target).publication.endswith("Nothing is held.")
        tip = target.repository.tip(BRANCH)
        world.sync()
        assert report(target).parity["changes measured"] == ("4", "4")
        assert target.repository.git("rev-parse", f"{BRANCH}^") == tip


def test_refused_governance_leaves_the_report_as_it_was(world: World, target: GitTarget) -> None:
    settle(world)
    before = target.history()
    world.fake.create("tmp-debug-jo")
    world.commit("repositories: [\n")

    world.sync_fails()

    assert target.history() == before
    world.revert()
    world.sync()
    assert report(target).counts["orphan"] == 1


def test_a_failed_inventory_leaves_the_report_as_it_was(world: World, target: GitTarget) -> None:
    settle(world)
    before = target.history()
    world.fake.create("tmp-debug-jo")
    world.fake.fail("DescribeRepositories", Fault.ACCESS_DENIED)

    world.sync_fails()

    assert target.history() == before


# The entity never waits for its report


def published_without_report(world: World, target: GitTarget, *words: str) -> None:
    """Publish a change whose report cannot go along, for the reason that the check gives."""
    world.have("team/new")
    run = world.sync()
    assert run.outcome == "published"
    assert "team/new" in world.listed
    assert files_of(target) == {target.path}
    unchanged = world.sync()
    assert unchanged.outcome == "unchanged"
    for each in (run, unchanged):
        assert told(each).startswith(f"{PATH} on branch {BRANCH} of ")
        for word in words:
            assert word in told(each)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "there is no such file"),
        (Entry(b"# No markers\n"), "begin --> is missing"),
        (Entry(PAGE + PAGE), "stands there 2 times"),
        (Entry("../README.md", SYMLINK), "a symbolic link"),
        (Entry("3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e", SUBMODULE), "a submodule"),
        (Entry(PAGE + b"x" * MAX_BESIDE), "has more than 5000000 bytes"),
    ],
    ids=["no file", "no markers", "two sections", "symbolic link", "submodule", "too large"],
)
def test_a_report_that_has_no_place_never_stops_the_entity(
    world: World, target: GitTarget, entry: Entry | None, words: str
) -> None:
    settle(world)
    put(target, entry)

    published_without_report(world, target, words)


def test_a_folder_in_the_reports_place_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    settle(world)
    put(target, None)
    put(target, b"x\n", f"{PATH}/inside.md")

    published_without_report(world, target, "it is a folder")


def test_a_file_where_the_report_needs_a_folder_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    put(target, None)
    put(target, b"x\n", "docs")
    world.write_mirror(health={"path": PATH, "style": "file"})

    published_without_report(world, target, "health.path")

    assert target.repository.content("docs", BRANCH) == b"x\n"


def test_markers_that_someone_removed_are_asked_for_and_used_again(
    world: World, target: GitTarget
) -> None:
    settle(world)
    put(target, ABOVE + BELOW)

    published_without_report(world, target, BEGIN.decode(), END.decode())

    assert page(target) == ABOVE + BELOW
    put(target, PAGE)
    assert told(world.sync()) == ""
    assert "6" in str(report(target).counts["live"])
    assert page(target).startswith(ABOVE)
    assert page(target).endswith(BELOW)


def test_a_report_that_the_server_refuses_never_stops_the_entity(
    world: World, target: GitTarget
) -> None:
    settle(world)
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
    settle(world)
    world.have("team/new")
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(
            dg.AssetKey([MIRROR, "backstage_parity"]), metadata={"state": {"hours": "many"}}
        )
    )

    upstream = ["governance_catalog", "ecr_inventory", "reconciled_registry", "health_report"]
    run = world.sync(only=[*upstream, "published_entity"])

    assert run.outcome == "published"
    assert report(target).counts["live"] == 6


def test_the_file_keeps_its_mode(world: World, target: GitTarget) -> None:
    put(target, Entry(PAGE, EXECUTABLE))

    world.sync()

    assert report(target).counts["live"] == 5
    assert target.repository.git("ls-tree", BRANCH, "--", PATH).startswith(EXECUTABLE)


# Races


# A server on which someone adds a line to the page before it takes a push, a few times.
EDIT: Final = f"""
unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
echo try >> tries
[ "$(wc -l < tries)" -le {{times}} ] || exit 0
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@x
export GIT_INDEX_FILE=moving-index
git read-tree {BRANCH}
blob=$( {{edit}} | git hash-object -w --stdin)
git update-index --add --cacheinfo 100644,$blob,{PATH}
commit=$(git commit-tree "$(git write-tree)" -p {BRANCH} -m "Edit the page")
git update-ref refs/heads/{BRANCH} "$commit"
"""
ADD_A_LINE: Final = f"(echo pushed by hand; git cat-file blob {BRANCH}:{PATH})"
REMOVE_THE_MARKERS: Final = "echo all new"


def edited_at_each_push(target: GitTarget, edit: str, *, times: int) -> None:
    target.repository.hook("pre-receive", EDIT.format(edit=edit, times=times))


@pytest.mark.parametrize("times", [1, 2])
def test_a_human_who_pushes_to_the_page_loses_nothing_and_stops_nothing(
    world: World, target: GitTarget, times: int
) -> None:
    settle(world)
    edited_at_each_push(target, ADD_A_LINE, times=times)
    world.have("team/new")

    run = world.sync()

    assert run.outcome == "published"
    assert told(run) == ""
    assert files_of(target) == {PATH, target.path}
    assert page(target).startswith(b"pushed by hand\n" * times + ABOVE)
    assert page(target).endswith(BELOW)
    assert report(target).counts["live"] == 6


def test_a_report_alone_is_placed_into_what_a_human_has_just_pushed(
    world: World, target: GitTarget
) -> None:
    world.sync()
    world.fake.create("tmp-debug-jo")
    world.govern("tmp-debug-jo", status="decommissioned")
    edited_at_each_push(target, ADD_A_LINE, times=1)

    run = world.sync()

    assert (run.outcome, told(run)) == ("unchanged", "")
    assert page(target).startswith(b"pushed by hand\n" + ABOVE)
    assert report(target).named["Lingering"] == "tmp-debug-jo"


def test_markers_that_vanish_while_we_push_cost_the_report_alone(
    world: World, target: GitTarget
) -> None:
    settle(world)
    edited_at_each_push(target, REMOVE_THE_MARKERS, times=1)
    world.have("team/new")

    run = world.sync()

    assert run.outcome == "published"
    assert "team/new" in world.listed
    assert "begin --> is missing" in told(run)
    assert page(target) == b"all new\n"


def test_a_report_that_keeps_losing_is_told_and_tried_again(
    world: World, target: GitTarget
) -> None:
    world.sync()
    world.fake.create("tmp-debug-jo")
    world.govern("tmp-debug-jo", status="decommissioned")
    edited_at_each_push(target, ADD_A_LINE, times=3)

    run = world.sync()

    assert run.outcome == "unchanged"
    assert "moved 3 times" in told(run)
    again = world.sync()
    assert told(again) == ""
    assert page(target).startswith(b"pushed by hand\n" * 3 + ABOVE)
    assert report(target).named["Lingering"] == "tmp-debug-jo"


@pytest.mark.parametrize(
    ("status", "outcome", "state", "count"),
    [("active", "published", "live", 6), ("decommissioned", "unchanged", "lingering", 1)],
    ids=["both", "the report alone"],
)
def test_a_push_whose_answer_was_lost_counts(
    world: World, target: GitTarget, *, status: str, outcome: str, state: str, count: int
) -> None:
    settle(world)
    before = target.repository.tip(BRANCH)
    world.fake.create("team/new")
    world.govern("team/new", status=status)
    # The branch has moved, and the process that would say so dies.
    target.repository.hook("reference-transaction", '[ "$1" = committed ] && kill -9 $PPID; exit 0')

    run = world.sync()

    assert (run.outcome, told(run)) == (outcome, "")
    assert report(target).counts[state] == count
    assert target.repository.git("rev-parse", f"{BRANCH}^@") == before
    written = run.publication.report
    assert written
    assert written.commit == target.repository.tip(BRANCH)


def test_a_branch_that_takes_no_report_leaves_an_unchanged_entity_as_good_as_it_was(
    world: World, target: GitTarget
) -> None:
    world.sync()
    world.fake.create("tmp-debug-jo")
    world.govern("tmp-debug-jo", status="decommissioned")
    target.repository.hook("pre-receive", "echo only people may push here >&2; exit 1")

    run = world.sync()

    assert run.outcome == "unchanged"
    assert f"{PATH} on branch {BRANCH}" in told(run)
    assert "only people may push here" in told(run)
    assert all(passed for name, passed in run.checks.items() if name != CHECK)


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
            assert {told(run) for run in runs} == {""}
            assert {report(target, world.name).counts["live"] for world in worlds} == {count}
        settle(one)
        before = section_of(page(target), "other")
        one.fake.create("tmp-debug-jo")
        one.sync()

    assert section_of(page(target), "other") == before
    assert report(target).named == {"Orphans": "tmp-debug-jo"}
    pieces = page(target).split(section_of(page(target), MIRROR) or b"-")
    assert pieces[0] == above + BEGIN + b"\n"
    assert pieces[1].startswith(END + between + begin + b"\n")
    assert pieces[1].endswith(end + below)


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
    settle(world)
    before = commits(target)
    world.commit("hello\n", path="README.md")
    world.sync()
    assert commits(target) == before, "another run alone is no reason"


def test_a_foreign_file_is_never_overwritten(world: World, target: GitTarget) -> None:
    put(target, b"# Ours\n", FILE["path"])
    world.write_mirror(health=FILE)

    run = world.sync()

    assert run.outcome == "published"
    assert "not overwritten" in told(run)
    assert target.repository.content(FILE["path"], BRANCH) == b"# Ours\n"


def test_a_file_that_someone_changed_is_written_anew(world: World, target: GitTarget) -> None:
    world.write_mirror(health=FILE)
    settle(world)
    good = target.repository.content(FILE["path"], BRANCH) or b""
    put(target, good.replace(b"| live | 5 |", b"| live | 50 |"), FILE["path"])

    assert told(world.sync()) == ""

    mended = target.repository.content(FILE["path"], BRANCH) or b""
    assert read_report(mended).counts["live"] == 5


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
        "reconciled_registry"
    }
    assert {each.asset_key.path[-1] for each in with_report["published_entity"].deps} == {
        "reconciled_registry",
        "health_report",
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
    assert run.publication.report is None


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
        ({"path": PATH, "colour": "red"}, "health.colour: is no key"),
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
