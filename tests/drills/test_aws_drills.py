"""Every call to AWS, broken in every way: nothing is removed on the strength of a failed read.

Each drill runs a mirror's whole job after a deletion and a creation in AWS, against a fault. The
run must fail in the call's name and write nothing, or see the truth; the next run, without the
fault, publishes the change. Most of a drill's time is waiting before retries and for what hangs,
at the real time limits: they run at the same time.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest
import yaml

from ecr_catalog_pipeline.adapters import ecr
from ecr_catalog_pipeline.adapters.aws import ATTEMPTS
from ecr_catalog_pipeline.adapters.ecr import MAX_LOOK_UPS
from tests.drills.drill import Drill, Met, Observed, Standing, live, meet
from tests.fakes.aws import (
    LISTING_FAULTS,
    Answer,
    AnyFault,
    Fault,
    OtherAccount,
    StaleListing,
)
from tests.integration.instances import an_instance
from tests.integration.worlds import FileTarget, World, a_world

LISTING: Final = "DescribeRepositories"
OTHER: Final = "210987654321"
SMALL_PAGE: Final = 120
"""Repositories; pages of 1,000, as in production, are read in test_ecr.py."""

AT_ONCE: Final = 12
"""Drills, most of which wait."""

# The calls


@dataclass(frozen=True)
class Place:
    """One of our calls to AWS."""

    words: str
    service: str
    operation: str
    at: int = 1  # which call of its operation it is
    page: int | None = None  # of a listing of PAGES pages

    @property
    def action(self) -> str:
        return f"{self.service}:{self.operation}"


PAGES: Final = 3
ROLE: Final = Place("sts:AssumeRole", "sts", "AssumeRole")
IDENTITY: Final = Place("sts:GetCallerIdentity", "sts", "GetCallerIdentity")
LISTED: Final = tuple(
    Place(f"ecr:DescribeRepositories, page {page} of {PAGES}", "ecr", LISTING, page, page)
    for page in range(1, PAGES + 1)
)
LOOK_UP: Final = Place("ecr:DescribeRepositories, look-up by name", "ecr", LISTING, at=2)
PLACES: Final = (ROLE, IDENTITY, *LISTED, LOOK_UP)

# The world that they are made in: its listing is in the order of creation

MOVERS: Final = ("zz/mover-a", "zz/mover-b")
"""Governed both; one of them is in AWS, and a drill's change is that the other one is."""

Layout = Sequence[Sequence[str]]
"""The published repositories of each page of a listing."""


def page_of(number: int, size: int = 4) -> list[str]:
    return [f"team/page-{number}-{each:02}" for each in range(size)]


ONE_PAGE: Final[Layout] = ([*page_of(1), *page_of(2), *page_of(3), MOVERS[0]],)
THREE_PAGES: Final[Layout] = (page_of(1), page_of(2), [*page_of(3), MOVERS[0]])


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    """Let three pages be few repositories, so that a drill takes no time but that of its fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ecr, "PAGE_SIZE", SMALL_PAGE)
        yield


@contextmanager
def healthy_world(
    folder: Path, layout: Layout, *, defaults: Mapping[str, object] = {}
) -> Iterator[World]:
    """A published world; orphans fill every page but the last one.

    Args:
        defaults: settings of `mirrors/_defaults.yaml`.
    """
    folder.mkdir()
    with a_world(folder, FileTarget(folder)) as world:
        world.mirrors.joinpath("_defaults.yaml").write_text(yaml.safe_dump(dict(defaults)))
        world.govern(*(name for page in layout for name in page), *MOVERS)
        for number, page in enumerate(layout, 1):
            for name in page:
                world.fake.create(name)
            if number < len(layout):
                for filler in range(SMALL_PAGE - len(page)):
                    world.fake.create(f"filler/{number}/{filler:04}")
        assert world.sync().outcome == "published"
        assert list(world.listed) == live(world)
        assert world.fake.count(LISTING) == len(layout)
        yield world


class Worlds:
    """Worlds to lend, one drill at a time each; one that did not recover is not lent again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._lock = threading.Lock()
        self._made = 0
        self._free: dict[int, list[World]] = {}

    def borrow(self, layout: Layout) -> World:
        with self._lock:
            free = self._free.setdefault(len(layout), [])
            if free:
                return free.pop()
            self._made += 1
            number = self._made
        made = ExitStack()
        world = made.enter_context(healthy_world(self._folder / str(number), layout))
        with self._lock:
            self._stack.push(made)
        return world

    def give_back(self, world: World, layout: Layout) -> None:
        with self._lock:
            self._free[len(layout)].append(world)


# The faults

EMPTY_LISTING: Final = Answer(b'{"repositories": []}')
PLANTED: Final = "ASecretThatNobodyMayShow"
JSON_ANSWERS: Final = {
    "[]": Answer(b"[]"),
    "null": Answer(b"null"),
    "a list of null": Answer(b'{"repositories": null}'),
    "a list that is an object": Answer(b'{"repositories": {}}'),
    "an empty listing": EMPTY_LISTING,
    "entries without names": Answer(b'{"repositories": [{}, {"repositoryUri": "x/one"}]}'),
    "a name that is no text": Answer(
        rb'{"repositories": [{"repositoryName": "\ud800", "repositoryUri": "x/one"}]}'
    ),
    "a number of 100,000 digits": Answer(b'{"repositories": [], "n": ' + b"1" * 100_000 + b"}"),
    "JSON 100,000 deep": Answer(
        b'{"repositories": [], "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
}
FOREIGN_ANSWERS: Final = {
    "an empty body": Answer(b""),
    "HTML": Answer(b"<html><body>Sign in to the guest network</body></html>"),
    "invalid UTF-8": Answer(b'{"repositories": [], "note": "\xff\xfe"}'),
    "a redirection": Answer(b"", 302),
    "a proxy's refusal": Answer(b"<html>Who are you?</html>", 407),
    "a clock that is wrong": Answer(
        b'{"__type": "InvalidSignatureException", "message": "Signature expired"}', 403
    ),
    "a signature that is wrong": Answer(
        b'{"__type": "InvalidSignatureException", "message": "It does not match.\\n\\n'
        b'x-amz-security-token:%s\\n"}' % PLANTED.encode(),
        403,
    ),
}


def xml(operation: str, content: str) -> Answer:
    namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
    result = f"<{operation}Result>{content}</{operation}Result>"
    return Answer(
        f'<{operation}Response xmlns="{namespace}">{result}</{operation}Response>'.encode()
    )


def credentials(**members: str) -> str:
    given = {
        "AccessKeyId": "ASIAOFADRILL",
        "SecretAccessKey": PLANTED,
        "SessionToken": PLANTED,
        "Expiration": "2099-01-01T00:00:00Z",
        **members,
    }
    return "".join(f"<{key}>{value}</{key}>" for key, value in given.items() if value)


XML_ANSWERS: Final = {
    ROLE: {
        "an answer without credentials": xml("AssumeRole", ""),
        "credentials without a secret": xml(
            "AssumeRole", f"<Credentials>{credentials(SecretAccessKey='')}</Credentials>"
        ),
        "credentials without an end": xml(
            "AssumeRole", f"<Credentials>{credentials(Expiration='')}</Credentials>"
        ),
        "credentials that end at no time": xml(
            "AssumeRole", f"<Credentials>{credentials(Expiration='soon')}</Credentials>"
        ),
        "credentials that have ended": xml(
            "AssumeRole",
            f"<Credentials>{credentials(Expiration='2020-01-01T00:00:00Z')}</Credentials>",
        ),
        "XML 100,000 deep": Answer(b"<a>" * 100_000 + b"</a>" * 100_000),
    },
    IDENTITY: {
        "an answer without an account": xml("GetCallerIdentity", ""),
        "an account that is none": xml("GetCallerIdentity", "<Account>none</Account>"),
        "XML 100,000 deep": Answer(b"<a>" * 100_000 + b"</a>" * 100_000),
    },
}

RETRIED: Final = {Fault.THROTTLING, Fault.HTTP_500, Fault.HTTP_503, Fault.HANG, Fault.DROP}
"""What botocore tries again."""

OF_LATER_PAGES: Final = {Fault.REPEATED_TOKEN, Fault.EXPIRED_TOKEN, Fault.DUPLICATES}
HARMLESS: Final = {Fault.DUPLICATES, Fault.EMPTY_PAGE}
"""What a listing may do now and then."""


def faults_at(place: Place) -> Mapping[str, AnyFault]:
    """Every fault there is, by its name, in the form that the call could meet."""
    omitted = page_of(place.page or 1)[0]
    return {
        **{fault.name: fault for fault in Fault},
        "StaleListing": StaleListing(frozenset({omitted})),
        "OtherAccount": OtherAccount(OTHER),
        **JSON_ANSWERS,
        **FOREIGN_ANSWERS,
        **XML_ANSWERS.get(place, {}),
    }


# The drills: all calls x all faults x once or lasting, but for what could not strike


@dataclass(frozen=True)
class Case:
    place: Place
    fault_name: str
    fault: AnyFault = field(repr=False)
    lasting: bool

    def __str__(self) -> str:
        return f"{self.place.words}-{self.fault_words}"

    @property
    def fault_words(self) -> str:
        return f"{self.fault_name}, {'lasting' if self.lasting else 'once'}"

    @property
    def of_a_listing(self) -> bool:
        return self.fault in LISTING_FAULTS or isinstance(self.fault, StaleListing)

    @property
    def differs_once(self) -> bool:
        """Whether a fault that strikes once may end otherwise than a lasting one."""
        return (
            self.fault in RETRIED
            or self.of_a_listing
            or isinstance(self.fault, OtherAccount)
            or self.fault == EMPTY_LISTING
        )

    @property
    def left_out(self) -> str | None:
        """Why there is no such drill; None when there is one."""
        place, fault = self.place, self.fault
        rules = {
            "it is a listing's, and this call lists nothing": (
                self.of_a_listing and place.page is None
            ),
            "a first page is asked for without a token, and nothing stands before it": (
                place.page == 1 and fault in OF_LATER_PAGES
            ),
            "nothing comes after the last page": place.page == PAGES and fault is Fault.EARLY_END,
            "it takes a deletion between two pages: among the races": fault is Fault.SHIFTED_PAGE,
            "a role is of one account, whoever assumes it": (
                place is ROLE and isinstance(fault, OtherAccount)
            ),
            "STS speaks XML, to which all JSON is the same": (
                place.service == "sts" and self.fault_name in JSON_ANSWERS
            ),
            "a body is read alike on every page, drilled are the first and the last": (
                place.page is not None and 1 < place.page < PAGES and isinstance(fault, Answer)
            ),
            "nobody tries again, so once is as bad as lasting": (
                not self.lasting and not self.differs_once
            ),
        }
        return next((reason for reason, applies in rules.items() if applies), None)

    @property
    def overcome(self) -> bool:
        """Whether the run succeeds all the same."""
        if self.fault is Fault.DUPLICATES:
            return True
        return not self.lasting and self.fault in RETRIED | HARMLESS

    @property
    def waits(self) -> float:
        """About how long it waits, so that the longest drills begin first."""
        if not isinstance(self.fault, Fault):
            return 0
        once = {
            Fault.TRICKLE: 10,
            Fault.HANG: 10,
            Fault.THROTTLING: 2,
            Fault.HTTP_503: 1,
            Fault.HTTP_500: 1,
        }
        return once.get(self.fault, 0) * (4 if self.lasting else 1)


ALL: Final = tuple(
    Case(place, name, fault, lasting)
    for place in PLACES
    for name, fault in faults_at(place).items()
    for lasting in (False, True)
)


def cases() -> list[Case]:
    return [each for each in ALL if each.left_out is None]


def test_every_call_meets_every_fault_that_could_strike_it(remarks: list[str]) -> None:
    left_out = Counter(reason for each in ALL if (reason := each.left_out))
    met = {place: {each.fault_name for each in cases() if each.place == place} for place in PLACES}
    of_listings = {fault.name for fault in LISTING_FAULTS} | {"StaleListing"}

    for place in PLACES:
        assert met[place] >= {fault.name for fault in Fault} - of_listings
        assert met[place] >= XML_ANSWERS.get(place, {}).keys()
    assert set().union(*(met[page] for page in LISTED)) >= of_listings - {"SHIFTED_PAGE"}
    for place in (LISTED[0], LISTED[-1], LOOK_UP):
        assert met[place] >= {"OtherAccount", *JSON_ANSWERS, *FOREIGN_ANSWERS}
    for place in (ROLE, IDENTITY):
        assert met[place] >= FOREIGN_ANSWERS.keys()
    remarks.append(
        f"{len(ALL)} combinations of {len(PLACES)} calls to AWS, their faults, once or lasting: "
        f"{len(cases())} drilled, {left_out.total()} left out:"
    )
    remarks.extend(f"  {count:3} because {reason}" for reason, count in left_out.most_common())


@dataclass(frozen=True)
class Aftermath:
    """What the run did that met the fault, and what the next one did without it.

    In plain words: the runs themselves hold on to all that they read.

    Attributes:
        outcome: of the run that met the fault, as is `outcome_then` of the next one.
        description: what Dagster shows of its failure; empty without one. `description_then` is
            of the next one's.
        shown: the failure's metadata.
        secrets: what nobody may show.
        struck: how often the fault struck.
        wanted: what governance and AWS call for, at both runs.
        listed_then: what was published after the next run.
    """

    outcome: str
    description: str
    shown: Mapping[str, str]
    observed: Observed
    secrets: frozenset[str]
    struck: int
    outcome_then: str
    description_then: str
    wanted: list[str]
    listed_then: list[str]


def aftermath_of(case: Case, worlds: Worlds) -> Aftermath:
    layout = THREE_PAGES if case.place.page else ONE_PAGE
    world = worlds.borrow(layout)
    with an_instance() as world.instance:
        aftermath = break_and_mend(case, world)
    if aftermath.listed_then == aftermath.wanted:
        worlds.give_back(world, layout)
    return aftermath


def break_and_mend(case: Case, world: World) -> Aftermath:
    fake = world.fake
    registry = {
        "region": fake.region,
        "account_id": fake.account_id,
        "endpoint_url": fake.endpoint_url,
    }
    if case.place is ROLE:
        registry["role_arn"] = f"arn:aws:iam::{fake.account_id}:role/catalog/reader"
    world.write_mirror(registry=registry)
    world.restart()
    there = next(name for name in MOVERS if name in fake.names())
    fake.delete(there)
    fake.create(next(name for name in MOVERS if name != there))
    before, asked = Standing.of(world), len(fake.calls)

    fake.fail(case.place.operation, case.fault, at=case.place.at, times=None if case.lasting else 1)
    met = meet(world)
    fake.clear()
    observed = Observed.of(world, before, met)
    struck = sum(each.fault is not None for each in fake.calls[asked:])
    secrets = fake.secrets_given

    world.restart()
    then = meet(world)
    return Aftermath(
        outcome=met.outcome,
        description=met.description,
        shown=met.shown,
        observed=observed,
        secrets=secrets,
        struck=struck,
        outcome_then=then.outcome,
        description_then=then.description,
        wanted=live(world),
        listed_then=list(world.listed),
    )


@pytest.fixture(scope="module")
def aftermaths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Case, Future[Aftermath]]]:
    """All the drills that were selected, begun at once, the longest first."""
    items = [each for each in request.session.items if isinstance(each, pytest.Function)]
    selected = {each.callspec.params.get("case") for each in items if hasattr(each, "callspec")}
    due = sorted((each for each in cases() if each in selected), key=lambda case: -case.waits)
    with ExitStack() as stack:
        worlds = Worlds(tmp_path_factory.mktemp("drills"), stack)
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        futures = {case: pool.submit(aftermath_of, case, worlds) for case in due}
        yield futures
        for each in futures.values():  # there are some left when the tests were interrupted
            each.cancel()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_fault_of_aws_removes_nothing(
    aftermaths: Mapping[Case, Future[Aftermath]], case: Case, drill: Drill
) -> None:
    drill.broken, drill.fault = case.place.words, case.fault_words

    assert_nothing_was_removed(case, aftermaths[case].result(), drill)


def assert_nothing_was_removed(case: Case, aftermath: Aftermath, drill: Drill) -> None:
    """The run with the fault failed or saw the truth, and the next one published the change."""
    drill.put_down(aftermath.observed)
    drill.recovered = aftermath.listed_then == aftermath.wanted
    assert aftermath.struck, "the fault was never met"
    assert not aftermath.observed.wrong_removals
    if case.overcome:
        assert aftermath.outcome == "published"
        assert aftermath.outcome_then == "unchanged", aftermath.description_then
    else:
        assert_failed_in_the_calls_name(aftermath, case)
        assert not aftermath.observed.touched
        assert aftermath.outcome_then == "published", aftermath.description_then
    assert aftermath.listed_then == aftermath.wanted
    if case.fault in RETRIED and case.lasting:
        assert 1 < aftermath.struck <= ATTEMPTS


def causes(case: Case) -> Sequence[str]:
    """What the error may call the cause."""
    if isinstance(case.fault, Answer) and case.fault.status != HTTPStatus.OK:
        return (str(case.fault.status), "InvalidSignatureException", "cannot be read")
    if isinstance(case.fault, OtherAccount):
        return (OTHER,)
    if isinstance(case.fault, StaleListing):
        return ("the listing is incomplete",)
    if isinstance(case.fault, Fault) and case.fault in CAUSES:
        return CAUSES[case.fault]
    # A body that is no answer; an empty list where a name was looked up; half of a refusal.
    return (
        "cannot be read",
        "answered with",
        "answered without",
        "the listing is incomplete",
        "neither",
        "400",
    )


CAUSES: Final = {
    Fault.THROTTLING: ("Throttling",),
    Fault.ACCESS_DENIED: ("AccessDenied",),
    Fault.EXPIRED_CREDENTIALS: ("ExpiredToken",),
    Fault.HTTP_500: ("ServerException", "InternalFailure"),
    Fault.HTTP_503: ("503",),
    Fault.HANG: ("given up after 40 s", "timeout"),
    Fault.DROP: ("closed",),
    Fault.TRICKLE: ("given up after 40 s",),
    Fault.EMPTY_PAGE: ("empty pages in a row",),
    Fault.LOST_PAGE: ("the listing is incomplete",),
    Fault.EARLY_END: ("the listing is incomplete",),
    Fault.REPEATED_TOKEN: ("repeats its page token",),
    Fault.EXPIRED_TOKEN: ("expired token",),
}


def assert_failed_in_the_calls_name(aftermath: Aftermath, case: Case) -> None:
    text, shown = aftermath.description, aftermath.shown
    assert aftermath.outcome == "failed"
    assert case.place.action in text
    assert any(cause.lower() in text.lower() for cause in causes(case))
    assert shown["problem"] in text
    assert shown["remediation"] in text
    assert shown["needs"] == "time"
    assert "Traceback" not in text
    assert "\n" not in text
    assert len(text) < 1_000
    for secret in (PLANTED, *aftermath.secrets):
        assert secret[:20] not in f"{text} {shown}"


# Races, and registries that shrink

WIDE_OPEN: Final = {"max_removals": 1_000, "max_removal_percent": 100}
"""A guard that lets everything through but what was not proved, and the very last repository."""


@contextmanager
def a_drill(
    folder: Path, layout: Layout, drill: Drill, broken: str, fault: str
) -> Iterator[tuple[World, Callable[[], Met]]]:
    """A healthy world without a guard to speak of; `run` is the run that meets the fault."""
    drill.broken, drill.fault = broken, fault
    with healthy_world(folder / "world", layout) as world:
        world.write_mirror(guard=WIDE_OPEN)

        def run() -> Met:
            before = Standing.of(world)
            world.restart()
            met = meet(world)
            drill.observe(world, before, met)
            assert not drill.wrong_removals
            return met

        yield world, run


def recover(world: World, drill: Drill) -> Met:
    """Let the next run do without the fault."""
    world.fake.clear()
    world.restart()
    then = meet(world)
    drill.recovered = list(world.listed) == live(world)
    assert drill.recovered, then.words
    return then


LISTS: Final = "ecr:DescribeRepositories, listing"


def test_one_deleted_between_listing_and_look_up_is_gone(tmp_path: Path, drill: Drill) -> None:
    victim = page_of(1)[0]
    fault = "omits one that is deleted before its look-up"
    with a_drill(tmp_path, ONE_PAGE, drill, LISTS, fault) as (world, run):
        world.fake.fail(LISTING, StaleListing({victim}), times=1)
        world.fake.after(LISTING, lambda _: world.fake.delete(victim))

        assert run().outcome == "published"

        assert victim not in world.listed
        assert recover(world, drill).outcome == "unchanged"


def test_one_created_between_listing_and_look_up_stays(tmp_path: Path, drill: Drill) -> None:
    victim = page_of(1)[0]
    fault = "one is created again before its look-up"
    with a_drill(tmp_path, ONE_PAGE, drill, LISTS, fault) as (world, run):
        world.fake.delete(victim)
        world.fake.after(LISTING, lambda _: world.fake.create(victim))

        assert f"lists no {victim}, yet finds it by name" in run().description

        assert drill.touched is False
        assert recover(world, drill).outcome == "unchanged"


def test_one_deleted_after_it_was_listed_goes_with_the_next_run(
    tmp_path: Path, drill: Drill
) -> None:
    victim = page_of(1)[0]
    fault = "one of page 1 is deleted after page 1"
    with a_drill(tmp_path, THREE_PAGES, drill, LISTS, fault) as (world, run):
        world.fake.after(LISTING, lambda _: world.fake.delete(victim))

        assert run().outcome == "unchanged"

        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_one_deleted_before_its_page_is_listed_is_gone(tmp_path: Path, drill: Drill) -> None:
    victim = page_of(2)[0]
    fault = "one of page 2 is deleted after page 1"
    with a_drill(tmp_path, THREE_PAGES, drill, LISTS, fault) as (world, run):
        world.fake.after(LISTING, lambda _: world.fake.delete(victim))

        assert run().outcome == "published"

        assert victim not in world.listed
        assert recover(world, drill).outcome == "unchanged"


def test_one_created_between_two_pages_is_published(tmp_path: Path, drill: Drill) -> None:
    fault = "one is created after page 1"
    with a_drill(tmp_path, THREE_PAGES, drill, LISTS, fault) as (world, run):
        world.fake.after(LISTING, lambda _: world.fake.create(MOVERS[1]))

        assert run().outcome == "published"

        assert MOVERS[1] in world.listed
        assert recover(world, drill).outcome == "unchanged"


def test_one_hidden_because_the_tokens_shift_stays(tmp_path: Path, drill: Drill) -> None:
    fault = "one of page 1 is deleted after page 1, tokens shift"
    with a_drill(tmp_path, THREE_PAGES, drill, LISTS, fault) as (world, run):
        world.fake.after(LISTING, lambda _: world.fake.delete(page_of(1)[0]))
        world.fake.fail(LISTING, Fault.SHIFTED_PAGE, at=2)

        assert f"lists no {page_of(2)[0]}, yet finds it by name" in run().description

        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


@pytest.mark.parametrize("hidden", [1, 5, 12])
@pytest.mark.parametrize(("fault", "at"), [(Fault.EARLY_END, 1), (Fault.LOST_PAGE, 2)], ids=str)
def test_a_listing_that_hides_any_number_removes_none(
    tmp_path: Path, drill: Drill, fault: Fault, at: int, hidden: int
) -> None:
    names = page_of(1, 12)
    layout = (names[hidden:], names[:hidden])
    with a_drill(
        tmp_path, layout, drill, LISTS, f"{fault.name} hides {hidden} of {len(names)}"
    ) as (world, run):
        world.fake.fail(LISTING, fault, at=at)
        world.fake.create(MOVERS[0])

        assert "the listing is incomplete" in run().description

        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_a_registry_that_shrinks_to_nothing_is_held(tmp_path: Path, drill: Drill) -> None:
    with a_drill(tmp_path, ONE_PAGE, drill, LISTS, "all are truly deleted") as (world, run):
        names = world.fake.names()
        for name in names:
            world.fake.delete(name)

        met = run()

        assert met.outcome == "held"
        assert "nothing that is listed now would be left" in met.words
        assert drill.touched is False
        for name in names[1:]:
            world.fake.create(name)
        assert recover(world, drill).outcome == "published"


MANY: Final = page_of(1, 100)


def test_more_deletions_than_look_ups_are_held(tmp_path: Path, drill: Drill) -> None:
    gone = MANY[: MAX_LOOK_UPS + 10]
    fault = f"{len(gone)} of {len(MANY)} are truly deleted"
    with a_drill(tmp_path, (MANY,), drill, LISTS, fault) as (world, run):
        for name in gone:
            world.fake.delete(name)
        asked = world.fake.count(LISTING)

        met = run()

        assert world.fake.count(LISTING) - asked == 1 + MAX_LOOK_UPS
        assert met.outcome == "held"
        assert "10 removals that no look-up proved" in met.words
        assert drill.touched is False
        for name in gone[:10]:
            world.fake.create(name)
        assert recover(world, drill).outcome == "published"


def test_those_hidden_behind_the_last_look_up_stay(tmp_path: Path, drill: Drill) -> None:
    gone, hidden = MANY[:MAX_LOOK_UPS], MANY[MAX_LOOK_UPS : MAX_LOOK_UPS + 10]
    fault = f"{len(gone)} are truly deleted, {len(hidden)} are hidden"
    with a_drill(tmp_path, (MANY,), drill, LISTS, fault) as (world, run):
        for name in gone:
            world.fake.delete(name)
        world.fake.fail(LISTING, StaleListing(set(hidden)))

        met = run()

        assert met.outcome == "held"
        assert "10 removals that no look-up proved" in met.words
        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_more_hidden_than_look_ups_fail_at_the_first_look_up(tmp_path: Path, drill: Drill) -> None:
    hidden = MANY[: MAX_LOOK_UPS + 10]
    fault = f"{len(hidden)} of {len(MANY)} are hidden"
    with a_drill(tmp_path, (MANY,), drill, LISTS, fault) as (world, run):
        world.fake.fail(LISTING, StaleListing(set(hidden)))
        world.fake.create(MOVERS[0])
        asked = world.fake.count(LISTING)

        assert f"lists no {hidden[0]}, yet finds it by name" in run().description

        assert world.fake.count(LISTING) - asked == 1 + 1
        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_an_account_that_lacks_one_of_the_same_names_removes_nothing(
    tmp_path: Path, drill: Drill
) -> None:
    fault = "answered by an account with the same names but one"
    with a_drill(tmp_path, ONE_PAGE, drill, LISTS, fault) as (world, run):
        for name in world.fake.names()[1:]:
            world.fake.create(name, account_id=OTHER)
        world.fake.fail(LISTING, OtherAccount(OTHER))
        world.fake.create(MOVERS[1])

        assert "ecr:DescribeRepositories failed with AccessDenied" in run().description

        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_a_role_that_is_revoked_during_the_read_fails_it(tmp_path: Path, drill: Drill) -> None:
    fault = "the role's session is revoked"
    with a_drill(tmp_path, ONE_PAGE, drill, "ecr:DescribeRepositories", fault) as (world, run):
        fake = world.fake
        role = f"arn:aws:iam::{fake.account_id}:role/catalog/reader"
        endpoint = {"region": fake.region, "endpoint_url": fake.endpoint_url}
        world.write_mirror(registry=endpoint | {"role_arn": role})
        fake.after(IDENTITY.operation, lambda _: fake.revoke())
        fake.create(MOVERS[1])

        met = run()

        assert "ecr:DescribeRepositories failed with UnrecognizedClient" in met.description
        assert "Renew the AWS credentials" in met.description
        assert drill.touched is False
        assert recover(world, drill).outcome == "published"


def test_an_aws_that_nobody_reaches_is_no_empty_one(tmp_path: Path, drill: Drill) -> None:
    fault = "connections are refused"
    with a_drill(tmp_path, ONE_PAGE, drill, "all of AWS", fault) as (world, run):
        world.fake.create(MOVERS[1])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        nowhere = {"region": world.fake.region, "endpoint_url": f"http://127.0.0.1:{port}"}
        world.write_mirror(registry=nowhere, guard=WIDE_OPEN)

        assert "sts:GetCallerIdentity failed: EndpointConnectionError" in run().description

        assert drill.touched is False
        world.write_mirror(guard=WIDE_OPEN)
        assert recover(world, drill).outcome == "published"
