"""The storm: seeded changes, faults and kills, in gusts and lulls, and what people do about holds.

In a gust servers are killed and sources fail. In a lull people only go on changing things, push to
the catalog branch and lose a run's process or a cache now and then: nothing there is an excuse for
being late. A mass deletion comes once a gust, and is approved or undone once the gust is over.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Final

import dagster as dg
import psutil
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from benchmarks.soak_model import HOLD, SLO_SECONDS, Governed, SoakModel, clock
from benchmarks.soak_world import ENTITY_PATH, MIRROR, SoakWorld
from tests.fakes.aws import AnyFault, Fault, OtherAccount, StaleListing

GUST_SECONDS: Final = 170
LULL_SECONDS: Final = 330
QUIET_SECONDS: Final = SLO_SECONDS + 30
"""A lull may end when nothing has disturbed for so long: what was late by then has been seen."""

TICK_SECONDS: Final = 120 + 20
"""The schedule's interval, and what a run and Backstage need."""

AWS_FAULTS: Final = (
    Fault.THROTTLING,
    Fault.ACCESS_DENIED,
    Fault.EXPIRED_CREDENTIALS,
    Fault.HTTP_500,
    Fault.HTTP_503,
    Fault.HANG,
    Fault.DROP,
    Fault.DROP_MID_BODY,
    Fault.TRUNCATED_BODY,
    Fault.MALFORMED_BODY,
    Fault.EMPTY_OBJECT,
    Fault.EMPTY_PAGE,
    Fault.LOST_PAGE,
    Fault.REPEATED_TOKEN,
    OtherAccount("999999999999"),
    StaleListing(()),
)
IN_FLIGHT: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
HOLD_LOOK_SECONDS: Final = 2
CLOCK_STEPS: Final = (-45, -10, 5, 30, 100, 1_000)
SHORTEST_SECONDS: Final = 15
SAFE_REMOVALS: Final = 7
"""So many removals may wait for a run before the storm leaves deleting to the mass deletions."""


@dataclass
class Tally:
    """What the storm did, by kind; the plan hashes it approved; what went wrong with itself."""

    changes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    approved: set[str] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)


class Storm:
    """Changes, faults and kills at random moments; it tells the model of all of them."""

    def __init__(self, world: SoakWorld, model: SoakModel, tally: Tally, seed: int) -> None:
        self._world = world
        self._model = model
        self._tally = tally
        self._choose = random.Random(seed)
        self._numbers = count(1)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._recovering: set[str] = set()
        self._lost_runs: set[str] = set()
        self._is_over = False
        self._look_at_hold_at = 0.0
        self._broken = False
        self._hold_confirmed_at: float | None = None
        self._restarted_in_hold = False
        self._check_before_restart = 0
        self._log = (world.folder / "soak.log").open("a")
        self._changes = _Deck(
            self._choose,
            [
                *[self._create] * 4,
                *[self._delete] * 4,
                *[self._edit] * 3,
                self._request,
                self._recreate,
                self._decommission,
                self._drop,
                self._deprecate,
                self._orphan,
                self._adopt,
                self._burst,
                self._blink,
                self._flicker,
                self._merge,
                self._remark,
            ],
        )
        self._mild = _Deck(
            self._choose,
            [
                self._push_beside,
                self._tamper,
                self._forget_clones,
                self._kill_run,
            ],
        )
        self._harsh = _Deck(
            self._choose,
            [
                *[self._fail_aws] * 4,
                self._break_governance,
                self._stop_backstage,
                self._freeze_backstage,
                self._kill_daemon,
                self._kill_code_server,
                self._kill_run,
                self._tamper,
                self._push_beside,
                self._forget_clones,
                *([self._vanish, self._fill_home, self._jump, self._jump] if world.hostile else []),
            ],
        )

    # The course of the storm

    def rage(self, seconds: float) -> None:
        """Let gusts and lulls take turns."""
        end = time.time() + seconds
        while time.time() < end - SHORTEST_SECONDS:
            self._say("a gust begins")
            gust_end = min(end, time.time() + GUST_SECONDS)
            self._plan_gust(gust_end - time.time())
            self._go_on(gust_end, self._harsh, (6, 18))
            self._clear()
            self._say("a lull begins")
            lull_end = min(end, time.time() + LULL_SECONDS)
            self._go_on(lull_end, self._mild, (25, 55), quiet=QUIET_SECONDS)

    def calm(self) -> float:
        """End what disturbs, resolve what is held; gives when the calm began."""
        self._say("the storm ends")
        self._is_over = True
        self._clear()
        deadline = time.time() + TICK_SECONDS
        while time.time() < deadline:
            self._step()
            if not self._model.disturbances() and not self._lost_runs_in_flight():
                return time.time()
            time.sleep(0.5)
        what = [*self._model.disturbances(), *self._lost_runs_in_flight()]
        self._tally.troubles.append(f"the storm did not end: {', '.join(what)}")
        return time.time()

    def close(self) -> None:
        """End the log."""
        self._log.close()

    def _plan_gust(self, seconds: float) -> None:
        """Place once a gust what is rare: a long outage, both servers down, a mass deletion."""
        long = self._choose.uniform(0.35, 0.9) * seconds
        self._later(self._choose.uniform(0, 0.3) * seconds, lambda: self._fail_aws(long))
        self._later(self._choose.uniform(0.3, 0.6) * seconds, lambda: self._stop_both(seconds))
        self._later(self._choose.uniform(0, 0.7) * seconds, self._delete_many)

    def _go_on(
        self, end: float, deck: _Deck, gaps: tuple[float, float], *, quiet: float = math.inf
    ) -> None:
        """Change something every few seconds, and let something fail now and then."""
        began = next_change = time.time()
        next_fault = began + self._choose.uniform(*gaps)
        while (now := time.time()) < end:
            if min(now - began, self._model.quiet_seconds(now)) >= quiet:
                return
            if now >= next_change:
                self._changes.deal()()
                next_change = time.time() + self._choose.uniform(1, 6)
            if now >= next_fault:
                deck.deal()()
                next_fault = time.time() + self._choose.uniform(*gaps)
            self._step()
            time.sleep(0.2)

    def _step(self) -> None:
        now = time.time()
        while self._due and self._due[0][0] <= now:
            heappop(self._due)[2]()
        for name in sorted(self._recovering):
            if self._world.services[name].is_up:
                self._recovering.discard(name)
                self._model.undisturbed(name, time.time())
        for name, service in self._world.services.items():
            if not service.is_running and name not in self._model.disturbances():
                self._tally.troubles.append(f"the {name} ended by itself at {clock(now)}")
                self._model.disturbed(name, now)
                self._start(name)
        self._resolve_hold()

    def _clear(self) -> None:
        """Do at once whatever was to be done later: faults end, servers start again."""
        due, self._due = sorted(self._due), []
        for _, _, what in due:
            what()

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        heappush(self._due, (time.time() + seconds, next(self._order), what))

    def _say(self, what: str) -> None:
        self._log.write(f"{clock(time.time())} {what}\n")
        self._log.flush()

    # What people change

    def _govern(self, entries: dict[str, Governed], what: str, *, merge: bool = False) -> None:
        began = time.time()
        self._world.govern(entries, what, merge=merge)
        self._model.governed(entries, began=began, ended=time.time())
        self._say(what)

    def _change_governance(
        self, kind: str, changes: dict[str, Governed | None], *, merge: bool = False
    ) -> None:
        """Push a file with these entries changed; None drops one."""
        if self._broken or not changes:
            return
        entries = self._model.entries
        for name, entry in changes.items():
            if entry is None:
                entries.pop(name, None)
            else:
                entries[name] = entry
        self._govern(entries, f"{kind} {', '.join(sorted(changes))}", merge=merge)
        self._tally.changes[kind] += 1

    def _change_ecr(self, kind: str, names: list[str], *, present: bool) -> None:
        began = time.time()
        for name in names:
            (self._world.aws.create if present else self._world.aws.delete)(name)
        if names:
            self._model.in_ecr(names, present=present, began=began, ended=time.time())
            self._say(f"{kind} {', '.join(names)}")
            self._tally.changes[kind] += 1

    def _entry(self, status: str = "active") -> Governed:
        owner = f"team-{self._choose.choice('abcdefgh')}{next(self._numbers)}"
        environment = self._choose.choice(["dev", "prod", None])
        return Governed(owner, self._choose.choice(["low", "medium", "high"]), status, environment)

    def _pick(self, names: set[str], many: int = 1) -> list[str]:
        return self._choose.sample(sorted(names), min(many, len(names)))

    def _removable(self, many: int = 1) -> list[str]:
        """Live ones that may go without a plan being held for it."""
        waiting = sum(
            1 for each in self._model.changes[-40:] if each.seconds is None and not each.superseded
        )
        return self._pick(self._model.live(), many) if waiting <= SAFE_REMOVALS - many else []

    def _governed_and_absent(self, *statuses: str) -> set[str]:
        present = self._model.present()
        return {
            name
            for name, entry in self._model.entries.items()
            if entry.status in statuses and name not in present
        }

    def _create(self) -> None:
        name = f"storm/n{next(self._numbers):04}"
        if self._choose.random() < 0.5:
            self._change_governance("govern", {name: self._entry()})
            self._change_ecr("create", [name], present=True)
        else:
            self._change_ecr("create", [name], present=True)
            self._change_governance("govern", {name: self._entry()})

    def _delete(self) -> None:
        self._change_ecr("delete", self._removable(), present=False)

    def _edit(self) -> None:
        for name in self._pick(self._model.live()):
            self._change_governance("edit", {name: self._entry()})

    def _request(self) -> None:
        name = f"storm/p{next(self._numbers):04}"
        self._change_governance("request", {name: self._entry("pending")})

    def _recreate(self) -> None:
        absent = self._governed_and_absent("active", "deprecated", "pending")
        self._change_ecr("create again", self._pick(absent, 2), present=True)

    def _decommission(self) -> None:
        for name in self._removable():
            self._change_governance("decommission", {name: self._entry("decommissioned")})

    def _drop(self) -> None:
        for name in self._removable():
            self._change_governance("drop", {name: None})

    def _deprecate(self) -> None:
        for name in self._pick(self._model.live()):
            self._change_governance("deprecate", {name: self._entry("deprecated")})

    def _orphan(self) -> None:
        self._change_ecr("create orphan", [f"storm/o{next(self._numbers):04}"], present=True)

    def _adopt(self) -> None:
        orphans = self._model.present() - self._model.entries.keys()
        for name in self._pick(orphans):
            self._change_governance("adopt", {name: self._entry()})

    def _burst(self) -> None:
        for _ in range(self._choose.randint(4, 8)):
            self._choose.choice([self._create, self._edit, self._orphan, self._request])()
        self._change_ecr("delete", self._removable(3), present=False)

    def _blink(self) -> None:
        """Create and delete within seconds."""
        name = f"storm/b{next(self._numbers):04}"
        self._change_governance("govern", {name: self._entry()})
        self._change_ecr("create", [name], present=True)
        self._later(
            self._choose.uniform(0, 25), lambda: self._change_ecr("delete", [name], present=False)
        )

    def _flicker(self) -> None:
        """Delete and create within seconds."""
        names = self._removable()

        def back() -> None:
            absent = sorted(set(names) - self._model.present())
            self._change_ecr("create again", absent, present=True)

        self._change_ecr("delete", names, present=False)
        self._later(self._choose.uniform(0, 25), back)

    def _merge(self) -> None:
        for name in self._pick(self._model.live()):
            self._change_governance("merge", {name: self._entry()}, merge=True)

    def _remark(self) -> None:
        """A commit that changes the file and no entry."""
        if not self._broken:
            self._govern(self._model.entries, f"Remark {next(self._numbers)}")
            self._tally.changes["remark"] += 1

    def _delete_many(self) -> None:
        """More removals at once than may go out unasked."""
        # More than enough, since people give some of them back before a run has seen it.
        published = self._world.published(self._world.tip()) or frozenset()
        names = self._pick(self._model.live() & published, self._choose.randint(14, 18))
        if self._choose.random() < 0.6 or self._broken:
            self._change_ecr("mass deletion", names, present=False)
        else:
            self._change_governance("mass drop", dict.fromkeys(names))

    # What fails

    def _disturb(self, what: str, seconds: float, end: Callable[[], None]) -> None:
        self._model.disturbed(what, time.time())
        self._later(seconds, end)

    def _fail_aws(self, seconds: float | None = None) -> None:
        if "AWS" in self._model.disturbances():
            return
        fault: AnyFault = self._choose.choice(AWS_FAULTS)
        if isinstance(fault, StaleListing):
            fault = StaleListing(self._pick(self._model.present(), 5))
        seconds = seconds or self._choose.uniform(5, 30)
        self._disturb("AWS", seconds, self._mend_aws)
        self._world.aws.fail("DescribeRepositories", fault)
        if isinstance(fault, OtherAccount):
            self._world.aws.fail("GetCallerIdentity", fault)
        name = fault.name if isinstance(fault, Fault) else type(fault).__name__
        self._tally.faults[f"AWS {name}"] += 1
        self._say(f"AWS fails with {name} for {seconds:.0f} s")

    def _mend_aws(self) -> None:
        self._world.aws.clear()
        self._model.undisturbed("AWS", time.time())
        self._say("AWS answers again")

    def _break_governance(self) -> None:
        if self._broken:
            return
        self._broken = True
        self._disturb("governance", self._choose.uniform(10, 45), self._repair_governance)
        broken = self._choose.choice(
            ["repositories: [\n", "repositories: null\n", "", "repositories: {a: 1, a: 2}\n"]
        )
        self._world.push_governance(broken, "Break the file")
        self._tally.faults["governance broken"] += 1
        self._say("governance is broken")

    def _repair_governance(self) -> None:
        self._broken = False
        self._govern(self._model.entries, f"Revert the break {next(self._numbers)}")
        self._model.undisturbed("governance", time.time())

    def _stop_backstage(self) -> None:
        self._kill("backstage", self._choose.uniform(3, 30))

    def _freeze_backstage(self) -> None:
        if "backstage" in self._model.disturbances():
            return
        self._disturb("backstage", self._choose.uniform(10, 40), self._thaw_backstage)
        self._world.services["backstage"].freeze()
        self._tally.faults["Backstage frozen"] += 1
        self._say("Backstage is frozen")

    def _thaw_backstage(self) -> None:
        self._world.services["backstage"].thaw()
        self._recovering.add("backstage")
        self._say("Backstage goes on")

    def _kill_daemon(self) -> None:
        self._kill("daemon", self._choose.uniform(0, 15))

    def _kill_code_server(self) -> None:
        self._kill("code server", self._choose.uniform(0, 15))

    def _stop_both(self, gust: float) -> None:
        seconds = min(60, gust / 4)
        self._kill("daemon", seconds)
        self._kill("code server", seconds)

    def _kill(self, name: str, seconds: float) -> None:
        if name in self._model.disturbances():
            return
        if name == "code server":
            self._lost_runs |= self._in_flight()
        self._disturb(name, seconds, lambda: self._start(name))
        self._world.services[name].kill()
        self._tally.kills[name] += 1
        self._say(f"the {name} is killed, for {seconds:.0f} s")

    def _start(self, name: str) -> None:
        self._world.services[name].start()
        self._recovering.add(name)
        self._say(f"the {name} is started")

    def _kill_run(self) -> None:
        """Kill the process of a run, now or as soon as there is one."""
        deadline = time.time() + 60

        def attempt() -> None:
            if self._is_over:
                return
            workers = self._world.run_workers()
            if not workers and time.time() < deadline:
                self._later(0.5, attempt)
                return
            for worker in workers:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
                    self._tally.kills["run"] += 1
                    self._say("a run is killed")

        attempt()

    def _push_beside(self) -> None:
        """A person's commit to another path of the catalog branch."""
        text = f"{next(self._numbers)}\n".encode()
        if self._world.push_to_catalog(lambda _: {"docs/notes.md": text}, "Take a note"):
            self._tally.faults["pushed beside our file"] += 1
            self._say("a person pushed another path")

    def _tamper(self) -> None:
        """A person's commit to our file: an owner changed, a line lost, or one invented."""
        way = self._choose.choice(["owner", "lost", "invented"])
        number = next(self._numbers)

        def change(before: bytes) -> dict[str, bytes | None]:
            lines = before.split(b"\n")
            first = lines.index(b"  repositories:") + 1
            if way == "owner":
                lines[first] = lines[first].replace(b"owner: ", b"owner: not-")
            elif way == "lost":
                del lines[first]
            else:
                lines.insert(first, f"    - {{name: aa/invented-{number}}}".encode())
            return {ENTITY_PATH: b"\n".join(lines)}

        if self._world.push_to_catalog(change, f"Tamper: {way}"):
            self._tally.faults[f"tampered: {way}"] += 1
            self._say(f"a person tampered with the file: {way}")

    def _forget_clones(self) -> None:
        """The cache of clones is deleted, its locks included."""
        shutil.rmtree(self._world.home / "cache", ignore_errors=True)
        self._tally.faults["clones deleted"] += 1
        self._say("the cache is deleted")

    # What fails in a hostile soak

    def _jump(self) -> None:
        """Step the clock, for good."""
        if "clock" in self._model.disturbances():
            return
        seconds = self._choose.choice(CLOCK_STEPS)
        self._world.step_clock(seconds)
        # Dagster's daemon evaluates nothing before its clock is again where it was.
        calm = 10 + max(0, -seconds)
        self._disturb("clock", calm, lambda: self._model.undisturbed("clock", time.time()))
        self._tally.faults["clock set back" if seconds < 0 else "clock set ahead"] += 1
        self._say(f"the clock steps by {seconds:+} s")

    def _vanish(self) -> None:
        """A person's commit that removes our file."""
        if self._world.push_to_catalog(lambda _: {ENTITY_PATH: None}, "Remove the entity"):
            self._tally.faults["target vanished"] += 1
            self._say("a person removed the entity's file")

    def _fill_home(self) -> None:
        if "full disk" in self._model.disturbances():
            return
        self._disturb("full disk", self._choose.uniform(10, 30), self._empty_home)
        with suppress(OSError), (self._world.home / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 65_536)
        self._tally.faults["DAGSTER_HOME full"] += 1
        self._say("DAGSTER_HOME is full")

    def _empty_home(self) -> None:
        (self._world.home / "filler").unlink()
        self._model.undisturbed("full disk", time.time())
        self._say("DAGSTER_HOME has room again")

    # What is held

    def _resolve_hold(self) -> None:
        """Once nothing else disturbs: see that the plan is held, restart, see again, resolve it."""
        if time.time() < self._look_at_hold_at:
            return
        self._look_at_hold_at = time.time() + HOLD_LOOK_SECONDS
        if HOLD not in self._model.disturbances() or not self._must_be_held():
            self._hold_confirmed_at, self._restarted_in_hold = None, False
            return
        if set(self._model.disturbances()) != {HOLD}:
            return
        if self._hold_confirmed_at is None:
            plan_hash = self._held_plan("asked for a plan")
            if plan_hash is None:
                return
            self._hold_confirmed_at = time.time()
            self._restarted_in_hold = self._choose.random() < 0.5
            if self._restarted_in_hold:
                self._check_before_restart, _ = self._latest_hold_check()
                self._kill("daemon", 2)
                self._kill("code server", 2)
            return
        if self._restarted_in_hold and not self._is_held_after_restart(self._hold_confirmed_at):
            return
        if self._choose.random() < 0.6:
            self._approve()
        else:
            self._restore()
        self._hold_confirmed_at, self._restarted_in_hold = None, False

    def _is_held_after_restart(self, restarted_at: float) -> bool:
        """Whether it is known by now that the plan is held again, or was forgotten."""
        check, failed = self._latest_hold_check()
        if failed and check > self._check_before_restart:
            self._model.held(found=True, when="after a restart")
            return True
        if time.time() - restarted_at > TICK_SECONDS:
            self._model.held(found=False, when="no check failed for it after a restart")
            return True
        return False

    def _held_plan(self, when: str) -> str | None:
        """Ask for the plan; it has to be held. Gives its hash."""
        done = self._world.command("plan", "-m", MIRROR, "--json")
        if done.returncode == 1:
            self._say(f"no plan: {done.stderr.strip()}")
            return None
        if not self._must_be_held():
            return None
        answer = json.loads(done.stdout)
        self._model.held(found=done.returncode == 3 and answer["held"], when=when)
        return str(answer["plan_hash"])

    def _must_be_held(self) -> bool:
        """Whether what is published now is still beyond the guard from the truth."""
        return self._model.published(self._world.published(self._world.tip()), time.time())

    def _latest_hold_check(self) -> tuple[int, bool]:
        """The number of the latest check `removal_guard`, and whether it failed."""
        key = dg.AssetCheckKey(dg.AssetKey([MIRROR, "published_entity"]), "removal_guard")
        storage = self._world.instance.event_log_storage
        latest = storage.get_latest_asset_check_execution_by_key([key])
        record = latest.get(key)
        if record is None:
            return 0, False
        return record.id, record.status is AssetCheckExecutionRecordStatus.FAILED

    def _approve(self) -> None:
        plan_hash = self._held_plan("asked for the plan to approve")
        if plan_hash is None:
            return
        self._tally.approved.add(plan_hash)
        done = self._world.command("sync", "-m", MIRROR, "--approve", plan_hash)
        self._say(f"approved {plan_hash[:12]}: {done.returncode} {done.stdout}{done.stderr}")

    def _restore(self) -> None:
        """Give back what was deleted or dropped."""
        live = self._model.live()
        published = self._world.published(self._world.tip()) or frozenset()
        gone = {name for name in published - live if not name.startswith("aa/")}
        entries = self._model.entries
        self._change_governance(
            "restore",
            {
                name: self._entry()
                for name in gone
                if name not in entries or entries[name].status == "decommissioned"
            },
        )
        self._change_ecr("restore", sorted(gone - self._model.present()), present=True)

    def _in_flight(self) -> set[str]:
        runs = self._world.instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
        return {run.run_id for run in runs}

    def _lost_runs_in_flight(self) -> set[str]:
        """Runs whose process was killed with the code server, and which still count as running."""
        return self._lost_runs & self._in_flight()


class _Deck:
    """Deals all its cards in a random order before any of them comes again."""

    def __init__(self, choose: random.Random, cards: list[Callable[[], None]]) -> None:
        self._choose = choose
        self._cards = cards
        self._left: list[Callable[[], None]] = []

    def deal(self) -> Callable[[], None]:
        if not self._left:
            self._left = self._choose.sample(self._cards, len(self._cards))
        return self._left.pop()
