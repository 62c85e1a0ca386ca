"""The metrics of mirrors: what is counted of their runs, and the families that Prometheus reads.

Counters and the histogram are running totals. A run is counted once, when it has ended, whichever
page of the history it is read in.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.reconcile import State

PREFIX: Final = "ecr_catalog_"
BUCKETS: Final = (5, 10, 15, 30, 60, 120, 180, 300, 600)
"""Upper bounds of the histogram in seconds; one more bucket has none."""

_NO_TIMES: Final = (0,) * (len(BUCKETS) + 1)


class RunOutcome(StrEnum):
    """What a run of a mirror came to."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    HELD = "held"
    FAILED = "failed"


class Source(StrEnum):
    """What a run reads from, or publishes to."""

    GOVERNANCE = "governance"
    ECR = "ecr"
    TARGET = "target"
    BACKSTAGE = "backstage"


_SOURCE_OF: Final = {
    "GovernanceRefused": Source.GOVERNANCE,
    "GovernanceUnavailable": Source.GOVERNANCE,
    "InventoryFailed": Source.ECR,
    "TargetUnavailable": Source.TARGET,
    "TargetRefused": Source.TARGET,
    "BackstageUnavailable": Source.BACKSTAGE,
}
"""By the class of the error; all others are no source's."""


def sources_of(kinds: Iterable[str]) -> frozenset[Source]:
    """Give the sources that failed, by the classes of a run's errors."""
    return frozenset(_SOURCE_OF[kind] for kind in kinds if kind in _SOURCE_OF)


# What is counted


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that has ended.

    Attributes:
        outcome: None of a run that came to none of them: it was cancelled, or asked for other
            assets alone.
        sources: those that failed.
        times: what `for_histogram` gives.
        ended_at: Unix time.
    """

    outcome: RunOutcome | None
    sources: frozenset[Source] = frozenset()
    times: tuple[float, ...] = ()
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the history holds it.

    Attributes:
        place: grows with every run that is stored.
        ended: None while it is queued or under way.
    """

    place: int
    run_id: str
    mirror: str
    ended: EndedRun | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a kind: its place in the history, and when it ended, in Unix time."""

    place: int
    ended_at: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times to parity.

    Attributes:
        buckets: how many times fell into each bucket alone; the last one has no upper bound.
        milliseconds: their sum. A whole number, so that it does not depend on the order of adding.
    """

    buckets: tuple[int, ...] = _NO_TIMES
    milliseconds: int = 0

    @property
    def count(self) -> int:
        """How many times there are."""
        return sum(self.buckets)

    def plus(self, times: Iterable[float]) -> Histogram:
        """Add times in seconds."""
        buckets, milliseconds = list(self.buckets), self.milliseconds
        for seconds in times:
            buckets[bisect_left(BUCKETS, seconds)] += 1
            milliseconds += round(seconds * 1000)
        return Histogram(tuple(buckets), milliseconds)


def for_histogram(seconds: float) -> float:
    """A time to parity as it is counted: rounded up to a millisecond, so that late stays late."""
    return math.ceil(seconds * 1000) / 1000


@dataclass(frozen=True, slots=True)
class Totals:
    """What is counted of the runs of one mirror.

    Attributes:
        times: None where times are not measured.
        last_run: the last that ended.
    """

    runs: Mapping[str, int] = field(default_factory=dict)
    source_errors: Mapping[str, int] = field(default_factory=dict)
    times: Histogram | None = field(default_factory=Histogram)
    last_run: LastRun | None = None
    last_success: LastRun | None = None

    def plus(self, place: int, run: EndedRun) -> Totals:
        """Count a run."""
        last_run, last_success = self.last_run, self.last_success
        if run.outcome and run.ended_at is not None:
            mark = LastRun(place, run.ended_at)
            last_run = _later(last_run, mark)
            if run.outcome is not RunOutcome.FAILED:
                last_success = _later(last_success, mark)
        return Totals(
            runs=Counter(self.runs) + Counter([run.outcome.value] if run.outcome else ()),
            source_errors=Counter(self.source_errors) + Counter(each.value for each in run.sources),
            times=self.times and self.times.plus(run.times),
            last_run=last_run,
            last_success=last_success,
        )


def _later(one: LastRun | None, other: LastRun) -> LastRun:
    """By the place: a clock may have been set back in between."""
    return other if one is None or other.place >= one.place else one


@dataclass(frozen=True, slots=True)
class RunTotals:
    """The running totals of all mirrors, and which runs they hold.

    Attributes:
        through: every run at this place or before it is counted, but for those that wait.
        waiting: ids of runs up to that place that had not ended when they were passed.
        mirrors: by the mirror's name.
    """

    through: int = -1
    waiting: frozenset[str] = frozenset()
    mirrors: Mapping[str, Totals] = field(default_factory=dict)

    def after(self, runs: Collection[StoredRun], through: int) -> RunTotals:
        """Count what has ended of some runs.

        Args:
            runs: all that wait and are still stored, and all from the next place up to `through`;
                others are left for later.
            through: every run up to this place is among them.
        """
        mirrors = dict(self.mirrors)
        waiting: set[str] = set()
        for run in sorted(runs, key=lambda each: each.place):
            if run.place > through or (
                run.place <= self.through and run.run_id not in self.waiting
            ):
                continue
            if run.ended is None:
                waiting.add(run.run_id)
            else:
                before = mirrors.get(run.mirror, Totals())
                mirrors[run.mirror] = before.plus(run.place, run.ended)
        return RunTotals(max(through, self.through), frozenset(waiting), mirrors)

    def up_to(self, last: int) -> RunTotals:
        """Go on from the last place that there is: the history may have been emptied."""
        return replace(self, through=min(self.through, last))


# What is shown


def count_by_rule(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """Count findings by rule, and then by severity."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in findings:
        counts[each.rule][each.severity.value] += 1
    return {rule: dict(counts[rule]) for rule in sorted(counts)}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a mirror stands, as its last run says; what is not known is left out.

    Attributes:
        repositories: how many, by state.
        findings: how many open ones, by rule and severity.
        excepted: how many the governance file accepts.
        held: whether a plan waits for approval.
        in_parity: whether Backstage serves what is published.
        verified_at: when parity was last verified, in Unix time.
        changed_at: when the content last changed, in Unix time.
    """

    repositories: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    excepted: int | None = None
    held: bool | None = None
    in_parity: bool | None = None
    verified_at: float | None = None
    changed_at: float | None = None


def unix_time(text: str | None) -> float | None:
    """Read a time such as `platform/last-sync`; None where it is none."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo else None


@dataclass(frozen=True, slots=True)
class MirrorMetrics:
    """All that the metrics say of one mirror.

    Attributes:
        slo_seconds: None where the mirror file cannot be used.
    """

    mirror: str
    slo_seconds: float | None = None
    standing: Standing = field(default_factory=Standing)
    totals: Totals = field(default_factory=Totals)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: a value of a name with labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples.

    Attributes:
        name: as it is exposed, with `_total` where it is a counter.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    description: str
    samples: Sequence[Sample]


_SLO: Final = "slo_seconds"
_HISTOGRAM: Final = f"{PREFIX}time_to_parity_seconds"
_BUILD_INFO: Final = f"{PREFIX}build_info"


def families(mirrors: Iterable[MirrorMetrics], version: str) -> list[Family]:
    """Give every metric, with the samples of all mirrors."""
    known = sorted(mirrors, key=lambda each: each.mirror)
    found = [
        Family(name, kind, description, [each for one in known for each in _of_mirror(one, name)])
        for name, (kind, description) in _FAMILIES.items()
    ]
    build = Sample(_BUILD_INFO, {"version": version}, 1)
    return [*found, Family(_BUILD_INFO, "gauge", "The version that says all this.", [build])]


_FAMILIES: Final[Mapping[str, tuple[Literal["gauge", "counter", "histogram"], str]]] = {
    f"{PREFIX}repositories": ("gauge", "Repositories by state, as the last run found them."),
    f"{PREFIX}findings": ("gauge", "Open findings by rule and severity."),
    f"{PREFIX}excepted": ("gauge", "Findings and states that the governance file accepts."),
    f"{PREFIX}plan_held": ("gauge", "1 while a plan waits for approval."),
    f"{PREFIX}in_parity": (
        "gauge",
        "1 if Backstage served what is published when the last run asked.",
    ),
    f"{PREFIX}last_run_timestamp_seconds": ("gauge", "When the last run ended."),
    f"{PREFIX}last_success_timestamp_seconds": ("gauge", "When the last run that succeeded ended."),
    f"{PREFIX}last_parity_timestamp_seconds": ("gauge", "When parity was last verified."),
    f"{PREFIX}last_change_timestamp_seconds": (
        "gauge",
        "When the content of the entity last changed.",
    ),
    _HISTOGRAM: (
        "histogram",
        "From a change to Backstage showing it; what the SLO excuses does not count.",
    ),
    f"{PREFIX}{_SLO}": ("gauge", "How long a change may take until Backstage shows it."),
    f"{PREFIX}runs_total": ("counter", "Runs that ended, by what they came to."),
    f"{PREFIX}source_errors_total": ("counter", "Runs that a source failed, by source."),
}


def _of_mirror(known: MirrorMetrics, family: str) -> Iterator[Sample]:
    """Give the samples of one family."""
    labels = {"mirror": known.mirror}
    if family == _HISTOGRAM:
        yield from _histogram(known.totals.times, labels)
        return
    short = family.removeprefix(PREFIX)
    if short in _LABELLED:
        for more, count in _LABELLED[short](known):
            yield Sample(family, labels | more, count)
        return
    value = _single(known, short)
    if value is not None:
        yield Sample(family, labels, value)


def _single(known: MirrorMetrics, short: str) -> float | None:
    standing, totals = known.standing, known.totals
    return {
        "excepted": standing.excepted,
        "plan_held": standing.held,
        "in_parity": standing.in_parity,
        "last_run_timestamp_seconds": _ended_at(totals.last_run),
        "last_success_timestamp_seconds": _ended_at(totals.last_success),
        "last_parity_timestamp_seconds": standing.verified_at,
        "last_change_timestamp_seconds": standing.changed_at,
        _SLO: known.slo_seconds,
    }[short]


def _ended_at(run: LastRun | None) -> float | None:
    return run.ended_at if run else None


def _repositories(known: MirrorMetrics) -> Iterator[tuple[dict[str, str], int]]:
    found = known.standing.repositories
    for state in State if found else ():
        yield {"state": state.value}, found.get(state, 0)


def _findings(known: MirrorMetrics) -> Iterator[tuple[dict[str, str], int]]:
    for (rule, severity), count in sorted(known.standing.findings.items()):
        yield {"rule": rule, "severity": severity}, count


def _runs(known: MirrorMetrics) -> Iterator[tuple[dict[str, str], int]]:
    for outcome in RunOutcome:
        yield {"outcome": outcome.value}, known.totals.runs.get(outcome, 0)


def _source_errors(known: MirrorMetrics) -> Iterator[tuple[dict[str, str], int]]:
    for source in Source:
        yield {"source": source.value}, known.totals.source_errors.get(source, 0)


_LABELLED: Final = {
    "repositories": _repositories,
    "findings": _findings,
    "runs_total": _runs,
    "source_errors_total": _source_errors,
}


def _histogram(times: Histogram | None, labels: Mapping[str, str]) -> Iterator[Sample]:
    if times is None:
        return
    reached = 0
    bounds = [*map(str, BUCKETS), "+Inf"]
    for bound, count in zip(bounds, times.buckets, strict=True):
        reached += count
        yield Sample(f"{_HISTOGRAM}_bucket", {**labels, "le": bound}, reached)
    yield Sample(f"{_HISTOGRAM}_count", labels, reached)
    yield Sample(f"{_HISTOGRAM}_sum", labels, times.milliseconds / 1000)


# What was shown, read again


def read_samples(samples: Iterable[Sample]) -> dict[str, MirrorMetrics]:
    """Read back what `families` gave, by the mirror's name; what is not ours is left out.

    Places in the history are not shown, so they are lost. Times are read back where they are whole.
    """
    found: defaultdict[str, dict[str, dict[tuple[tuple[str, str], ...], float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for sample in samples:
        labels = dict(sample.labels)
        mirror = labels.pop("mirror", None)
        if mirror and sample.name.startswith(PREFIX) and math.isfinite(sample.value):
            key = tuple(sorted(labels.items()))
            found[mirror][sample.name.removeprefix(PREFIX)][key] = sample.value
    return {mirror: _read_mirror(mirror, by_name) for mirror, by_name in found.items()}


_ByName = Mapping[str, Mapping[tuple[tuple[str, str], ...], float]]


def _read_mirror(mirror: str, by_name: _ByName) -> MirrorMetrics:
    def one(name: str) -> float | None:
        return by_name.get(name, {}).get(())

    def whole(name: str) -> int | None:
        value = one(name)
        return None if value is None else int(value)

    def flag(name: str) -> bool | None:
        value = one(name)
        return None if value is None else value != 0

    def last(name: str) -> LastRun | None:
        value = one(name)
        return None if value is None else LastRun(0, value)

    def counts(name: str, label: str, values: Iterable[str]) -> dict[str, int]:
        shown = by_name.get(name, {})
        keys = {each: ((label, each),) for each in values}
        return {each: int(shown[key]) for each, key in keys.items() if key in shown}

    severities = {each.value for each in Severity}
    findings = {
        (rule, severity): int(count)
        for key, count in by_name.get("findings", {}).items()
        if [name for name, _ in key] == ["rule", "severity"]
        for (_, rule), (_, severity) in [key]
        if severity in severities
    }
    return MirrorMetrics(
        mirror,
        one(_SLO),
        Standing(
            repositories=counts("repositories", "state", [each.value for each in State]),
            findings=findings,
            excepted=whole("excepted"),
            held=flag("plan_held"),
            in_parity=flag("in_parity"),
            verified_at=one("last_parity_timestamp_seconds"),
            changed_at=one("last_change_timestamp_seconds"),
        ),
        Totals(
            runs=counts("runs_total", "outcome", [each.value for each in RunOutcome]),
            source_errors=counts("source_errors_total", "source", [each.value for each in Source]),
            times=_read_histogram(by_name),
            last_run=last("last_run_timestamp_seconds"),
            last_success=last("last_success_timestamp_seconds"),
        ),
    )


def _read_histogram(by_name: _ByName) -> Histogram | None:
    short = _HISTOGRAM.removeprefix(PREFIX)
    shown = by_name.get(f"{short}_bucket", {})
    reached = [shown.get((("le", bound),)) for bound in [*map(str, BUCKETS), "+Inf"]]
    total = by_name.get(f"{short}_sum", {}).get(())
    if total is None or any(each is None for each in reached):
        return None
    up_to = [int(each) for each in reached if each is not None]
    buckets = tuple(now - before for before, now in zip([0, *up_to], up_to, strict=False))
    return Histogram(buckets, round(total * 1000))


def after_run(
    before: MirrorMetrics, run: EndedRun, standing: Standing | None, slo_seconds: float
) -> MirrorMetrics:
    """Bring the metrics up to date after a run that keeps no history.

    Args:
        before: of the run before it; how the mirror stands stays where the run does not say.
        standing: as the run found it; None of a run that failed.
    """
    standing = standing or before.standing
    if standing.verified_at is None:
        standing = replace(standing, verified_at=before.standing.verified_at)
    # Without a history nothing is known of when a change was asked for.
    totals = replace(before.totals.plus(0, run), times=None)
    return MirrorMetrics(before.mirror, slo_seconds, standing, totals)
