"""Counting runs, and what Prometheus reads of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecr_catalog_pipeline.adapters.exposition import read_text, write_text
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.metrics import (
    BUCKETS,
    EndedRun,
    Histogram,
    LastRun,
    MirrorMetrics,
    RunOutcome,
    RunTotals,
    Sample,
    Source,
    Standing,
    StoredRun,
    Totals,
    after_run,
    count_by_rule,
    families,
    for_histogram,
    read_samples,
    sources_of,
    unix_time,
)
from ecr_catalog_pipeline.core.reconcile import State

MIRRORS = ("goldenpath", "other")
SOME_TIMES = st.floats(0, 2_000).map(for_histogram)

ended_runs = st.builds(
    EndedRun,
    outcome=st.sampled_from([*RunOutcome, None]),
    sources=st.frozensets(st.sampled_from(Source)),
    times=st.lists(SOME_TIMES, max_size=4).map(tuple),
    ended_at=st.floats(1e9, 2e9),
)


@st.composite
def histories(draw: st.DrawFn) -> list[StoredRun]:
    """Runs in the order in which they were stored, all of which end at last."""
    count = draw(st.integers(0, 30))
    return [
        StoredRun(place, f"run-{place}", draw(st.sampled_from(MIRRORS)), draw(ended_runs))
        for place in range(1, count + 1)
    ]


def counted_at_once(history: list[StoredRun]) -> dict[str, Totals]:
    found: dict[str, Totals] = {}
    for run in history:
        assert run.ended
        found[run.mirror] = found.get(run.mirror, Totals()).plus(run.place, run.ended)
    return found


@given(histories(), st.data())
def test_every_run_is_counted_once_whenever_it_ends_and_however_it_is_paged(
    history: list[StoredRun], data: st.DataObject
) -> None:
    totals = RunTotals()
    under_way = {run.run_id for run in history}
    shown: list[Totals] = []
    for _ in range(len(history) + 2):
        under_way -= set(data.draw(st.lists(st.sampled_from(sorted(under_way or {"-"})))))
        seen = [replace(r, ended=None) if r.run_id in under_way else r for r in history]
        through = data.draw(st.integers(totals.through, max(totals.through, len(history))))
        waiting = [run for run in seen if run.run_id in totals.waiting]
        totals = totals.after([*waiting, *(r for r in seen if r.place > totals.through)], through)
        shown.append(totals.mirrors.get("goldenpath", Totals()))
    waiting = [run for run in history if run.run_id in totals.waiting]
    after = [run for run in history if run.place > totals.through]
    totals = totals.after([*waiting, *after], len(history) + 1)

    expected = counted_at_once(history)
    assert not totals.waiting
    assert totals.mirrors == expected
    for before, now in pairwise(shown):
        assert all(now.runs[each] >= count for each, count in before.runs.items())
        assert now.times
        assert before.times
        assert now.times.milliseconds >= before.times.milliseconds


def test_a_run_that_waits_and_is_removed_is_forgotten() -> None:
    queued = StoredRun(1, "queued", "goldenpath", None)
    totals = RunTotals().after([queued], 1)
    assert totals.waiting == {"queued"}

    assert totals.after([], 2) == RunTotals(through=2)


def test_the_last_run_is_the_last_by_its_place_whatever_the_clock_says() -> None:
    totals = (
        Totals()
        .plus(1, EndedRun(RunOutcome.UNCHANGED, ended_at=5_000))
        .plus(2, EndedRun(RunOutcome.UNCHANGED, ended_at=1_000))
        .plus(3, EndedRun(RunOutcome.FAILED, ended_at=1_100))
    )

    assert totals.last_run == LastRun(3, 1_100)
    assert totals.last_success == LastRun(2, 1_000)


def test_a_history_that_was_emptied_is_counted_on_from_its_new_end() -> None:
    totals = RunTotals(through=900, mirrors={"goldenpath": Totals(runs={"held": 3})}).up_to(4)
    run = StoredRun(5, "new", "goldenpath", EndedRun(RunOutcome.HELD))

    assert totals.after([run], 5).mirrors["goldenpath"].runs == {"held": 4}


@given(st.lists(SOME_TIMES), st.randoms(use_true_random=False))
def test_a_histogram_is_what_a_count_of_its_times_gives_in_any_order(
    times: list[float], random: object
) -> None:
    shuffled = list(times)
    random.shuffle(shuffled)  # type: ignore[attr-defined] # a random.Random
    histogram = Histogram().plus(times)

    assert Histogram().plus(shuffled) == histogram
    assert histogram.count == len(times)
    for place, bound in enumerate(BUCKETS):
        assert sum(histogram.buckets[: place + 1]) == sum(each <= bound for each in times)
    assert histogram.milliseconds == pytest.approx(sum(times) * 1000, abs=1)


@given(st.floats(180, 200))
def test_what_is_late_is_counted_as_late(seconds: float) -> None:
    in_time = sum(Histogram().plus([for_histogram(seconds)]).buckets[:7])
    assert in_time == (seconds <= 180)


def test_errors_belong_to_the_source_that_raised_them() -> None:
    assert sources_of(["GovernanceRefused", "InventoryFailed"]) == {Source.GOVERNANCE, Source.ECR}
    assert sources_of(["TargetRefused"]) == {Source.TARGET}
    assert sources_of(["BackstageUnavailable"]) == {Source.BACKSTAGE}
    assert not sources_of(["LostRace", "StalePlan", "EntityInvalid", "", "KeyError"])


# What is shown

names = st.from_regex(r"\A[a-z][a-z0-9_]{0,40}\Z")
counts = st.integers(0, 10**6)
marks = st.none() | st.builds(LastRun, st.just(0), st.floats(1e9, 2e9))
mirror_metrics = st.builds(
    MirrorMetrics,
    mirror=names,
    slo_seconds=st.none() | st.floats(1, 1e6),
    standing=st.builds(
        Standing,
        repositories=st.just({}) | st.fixed_dictionaries({state.value: counts for state in State}),
        findings=st.dictionaries(
            st.tuples(st.text(min_size=1, max_size=9), st.sampled_from([*map(str, Severity)])),
            counts,
            max_size=4,
        ),
        excepted=st.none() | counts,
        held=st.none() | st.booleans(),
        in_parity=st.none() | st.booleans(),
        verified_at=st.none() | st.floats(1e9, 2e9),
        changed_at=st.none() | st.floats(1e9, 2e9),
    ),
    totals=st.builds(
        Totals,
        runs=st.fixed_dictionaries({outcome.value: counts for outcome in RunOutcome}),
        source_errors=st.fixed_dictionaries({source.value: counts for source in Source}),
        times=st.none() | st.lists(SOME_TIMES, max_size=5).map(Histogram().plus),
        last_run=marks,
        last_success=marks,
    ),
)


@given(st.lists(mirror_metrics, max_size=3, unique_by=lambda each: each.mirror))
def test_what_is_written_for_prometheus_is_read_back_as_it_was(known: list[MirrorMetrics]) -> None:
    text = write_text(families(known, "1.2.3"))

    found = read_samples(read_text(text))

    assert found == {each.mirror: each for each in known}


@given(st.lists(mirror_metrics, max_size=3, unique_by=lambda each: each.mirror))
def test_no_series_is_written_twice_and_none_names_a_repository(
    known: list[MirrorMetrics],
) -> None:
    samples = [each for family in families(known, "1") for each in family.samples]

    series = Counter((each.name, tuple(sorted(each.labels.items()))) for each in samples)
    assert set(series.values()) <= {1}
    allowed = {"mirror", "state", "rule", "severity", "outcome", "source", "le", "version"}
    assert all(set(each.labels) <= allowed for each in samples)


def test_a_mirror_without_any_run_has_its_counters_at_zero_and_no_state() -> None:
    (lines,) = [write_text(families([MirrorMetrics("new", 180)], "1")).decode().splitlines()]

    assert 'ecr_catalog_runs_total{mirror="new",outcome="failed"} 0.0' in lines
    assert 'ecr_catalog_source_errors_total{mirror="new",source="ecr"} 0.0' in lines
    assert 'ecr_catalog_time_to_parity_seconds_bucket{le="180",mirror="new"} 0.0' in lines
    assert 'ecr_catalog_slo_seconds{mirror="new"} 180.0' in lines
    assert not any(line.startswith("ecr_catalog_repositories{") for line in lines)
    assert not any(line.startswith("ecr_catalog_in_parity{") for line in lines)


def test_what_is_not_ours_is_not_read() -> None:
    samples = [
        Sample("node_load1", {"mirror": "goldenpath"}, 3),
        Sample("ecr_catalog_findings", {"mirror": "a", "rule": "r", "severity": "odd"}, 3),
        Sample("ecr_catalog_excepted", {"mirror": "a"}, float("nan")),
        Sample("ecr_catalog_build_info", {"version": "1"}, 1),
    ]
    assert read_samples(samples) == {"a": MirrorMetrics("a", totals=Totals(times=None))}


@pytest.mark.parametrize(
    "text", ["ecr_catalog_excepted{", "a b c d e", 'x{mirror="a} 1', "\xff\xfe", "x NaNa"]
)
def test_a_text_in_another_format_is_refused_as_such(text: str) -> None:
    with pytest.raises(ValueError, match="not in Prometheus' text format"):
        read_text(text.encode("latin-1"))


@given(mirror_metrics, ended_runs)
def test_a_run_that_failed_leaves_how_the_mirror_stood(
    before: MirrorMetrics, run: EndedRun
) -> None:
    failed = replace(run, outcome=RunOutcome.FAILED)
    after = after_run(before, failed, None, 180)

    assert after.standing == before.standing
    assert after.totals.runs["failed"] == before.totals.runs["failed"] + 1
    assert after.totals.last_success == before.totals.last_success
    assert after.totals.last_run
    assert after.totals.last_run.ended_at == run.ended_at
    assert after.totals.times is None


def test_parity_stays_verified_when_it_was_where_a_run_finds_none() -> None:
    before = MirrorMetrics("goldenpath", standing=Standing(verified_at=5.0))
    after = after_run(before, EndedRun(RunOutcome.HELD), Standing(in_parity=False), 180)

    assert after.standing == Standing(in_parity=False, verified_at=5.0)


def test_findings_are_counted_by_rule_and_severity() -> None:
    def finding(rule: str, severity: Severity) -> Finding:
        return Finding("team/api", rule, severity, "it is so", "Change it.")

    assert count_by_rule(
        [finding("b", Severity.INFO), finding("a", Severity.ERROR), finding("b", Severity.INFO)]
    ) == {"a": {"error": 1}, "b": {"info": 2}}


def test_a_time_that_is_none_is_unknown() -> None:
    assert unix_time("2026-01-09T23:03:13Z") == 1767999793.0
    assert unix_time("2026-01-09T23:03:13") is None
    assert unix_time("yesterday") is None
    assert unix_time(None) is None
