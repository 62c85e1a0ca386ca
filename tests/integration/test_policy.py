"""Policy, origins and exceptions in whole runs against AWS, and what they cost and survive."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
import pytest

from ecr_catalog_pipeline import mirroring
from ecr_catalog_pipeline.adapters import ecr
from ecr_catalog_pipeline.adapters.ecr import EcrRegistry
from ecr_catalog_pipeline.commands.plan_report import plan_as_json
from ecr_catalog_pipeline.core.ecr_settings import REGISTRY_SETTINGS, EcrSettings, Setting
from ecr_catalog_pipeline.core.retention import MAX_ASKED
from ecr_catalog_pipeline.defs.change_sensor import look_at
from ecr_catalog_pipeline.defs.looks import Shared
from tests.fakes.aws import Answer, AnyFault, FakeAws, Fault
from tests.integration.worlds import FileTarget, Synced, World, a_world, apart_from_when

POLICY: Final = {
    "risk": {
        "low": {"scanning": "on-push", "encryption": "AES256", "keep_images": 20},
        "medium": {"scanning": "on-push", "encryption": "AES256", "keep_images": 30},
        "high": {
            "scanning": "continuous",
            "encryption": "KMS",
            "immutable_tags": True,
            "keep_images": 50,
        },
    }
}
OPERATIONS: Final = {setting: setting.removeprefix("ecr:") for setting in Setting}
LIFECYCLE: Final = OPERATIONS[Setting.LIFECYCLE]
LISTING: Final = "DescribeRepositories"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        world.write_mirror(policy=POLICY)
        yield world


def rules(done: Synced) -> list[tuple[str, str, str | None]]:
    findings = done.planned.registry.findings
    return [(each.repository, each.rule, each.control) for each in findings]


def origins(done: Synced) -> dict[str, str]:
    found = done.planned.registry.repositories
    return {each.name: each.origin.value for each in found if each.origin}


def metadata(done: Synced) -> Mapping[str, Any]:
    return done.materialization("reconciled_registry").metadata


def table(done: Synced, name: str) -> list[dict[str, Any]]:
    return [dict(each.data) for each in metadata(done)[name].records]


def have(world: World, name: str, risk: str, **settings: Any) -> None:
    world.govern(name, risk=risk)
    world.fake.create(name, **settings)


def high(world: World, name: str = "payments/gateway") -> str:
    """A repository that is as risk high asks."""
    world.fake.scan("ENHANCED", CONTINUOUS_SCAN=["payments/*"])
    have(world, name, "high", encryption="KMS", tag_mutability="IMMUTABLE")
    world.fake.expire_images(name, 50)
    return name


# Each setting in turn


def test_turning_each_setting_in_aws_shows_its_finding_and_putting_it_right_ends_it(
    world: World,
) -> None:
    name = high(world)
    assert rules(world.sync()) == []
    filters = [{"filter": "pr-*", "filterType": "WILDCARD"}]
    immutable = {"imageTagMutability": "IMMUTABLE"}
    kms = {"encryptionConfiguration": {"encryptionType": "KMS"}}
    turns: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
        ({"imageTagMutability": "MUTABLE"}, immutable, "tags-mutable", "ECR.2"),
        (
            {
                "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
                "imageTagMutabilityExclusionFilters": filters,
            },
            immutable,
            "tags-immutable-with-exclusions",
            "ECR.2",
        ),
        (
            {"encryptionConfiguration": {"encryptionType": "AES256"}},
            kms,
            "encryption-differs",
            "ECR.5",
        ),
    ]
    for turned, right, rule, control in turns:
        world.fake.change(name, **turned)
        assert rules(world.sync()) == [(name, rule, control)]
        world.fake.change(name, **right)
        assert rules(world.sync()) == []
    world.fake.change(name, encryptionConfiguration={"encryptionType": "KMS_DSSE"})
    assert rules(world.sync()) == []

    for kind, frequency in (("ENHANCED", "SCAN_ON_PUSH"), ("BASIC", "SCAN_ON_PUSH")):
        world.fake.scan(kind, **{frequency: ["*"]})
        assert rules(world.sync()) == [(name, "image-scanning-off", "ECR.1")]
    world.fake.scan("ENHANCED", CONTINUOUS_SCAN=["gateway"])
    assert rules(world.sync()) == []

    for images, rule in ((None, "retention-missing"), (49, "retention-differs")):
        world.fake.expire_images(name, images)
        assert rules(world.sync()) == [(name, rule, "ECR.3")]
    world.fake.expire_images(name, 50)
    assert rules(world.sync()) == []


def test_nothing_of_policy_writes_to_the_target(world: World) -> None:
    name = high(world)
    world.sync()
    before = (world.content, world.target.history())
    world.fake.change(name, imageTagMutability="MUTABLE")
    done = world.sync()
    assert done.outcome == "unchanged"
    assert rules(done)
    assert (world.content, world.target.history()) == before


def test_the_plan_shows_controls_origins_and_exceptions_as_json(world: World) -> None:
    high(world)
    world.fake.change("payments/gateway", imageTagMutability="MUTABLE")
    world.fake.create("hub/nginx")
    world.fake.cache("hub")
    except_(world, {"match": "hub/*", "rule": "orphan", "reason": "cache", "expires": LATER})
    plan = json.loads(json.dumps(plan_as_json(world.name, world.sync().planned)))
    assert [(each["rule"], each["control"]) for each in plan["findings"]] == [
        ("tags-mutable", "ECR.2")
    ]
    of = {each["name"]: each for each in plan["repositories"]}
    assert of["hub/nginx"]["origin"] == "pull-through-cache"
    assert of["hub/nginx"]["exception"] == {"reason": "cache", "expires": LATER}
    assert of["payments/gateway"]["origin"] is of["payments/gateway"]["exception"] is None
    (excepted,) = plan["excepted"]
    assert excepted.keys() == plan["findings"][0].keys()
    assert (excepted["repository"], excepted["rule"]) == ("hub/nginx", "orphan")


# What cannot be read


@pytest.fixture(scope="module")
def registry_of_settings() -> Iterator[tuple[FakeAws, EcrRegistry, EcrSettings]]:
    """A registry that has every setting, its reader, and what it is when all answers."""
    with FakeAws() as fake:
        fake.create("team/api")
        fake.scan("ENHANCED", SCAN_ON_PUSH=["*"])
        fake.template("ROOT", "CREATE_ON_PUSH")
        fake.cache("hub")
        fake.replicate("eu-west-1", fake.account_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_PROFILE", raising=False)
            reader = EcrRegistry(fake.region, endpoint_url=fake.endpoint_url)
            settings, answers = reader.learn(fake.account_id, REGISTRY_SETTINGS, ["team/api"])
        assert settings.unknown == {}
        assert answers["team/api"].keeps is None
        yield fake, reader, settings


FIELDS: Final = {
    Setting.SCANNING: "scanning",
    Setting.TEMPLATES: "templates",
    Setting.CACHE_RULES: "cache_rules",
    Setting.REPLICATION: "replicates_to",
}
FAULTS: Final[list[tuple[AnyFault, str]]] = [
    (Fault.ACCESS_DENIED, "denied"),
    (Fault.THROTTLING, "throttled"),
    (Fault.EXPIRED_CREDENTIALS, "ExpiredTokenException"),
    (Fault.HTTP_500, "ServerException"),
    (Fault.EMPTY_OBJECT, "malformed answer"),
    (Fault.TRUNCATED_BODY, "malformed answer"),
    (Fault.MALFORMED_BODY, "malformed answer"),
    (Answer(b'{"registryId": "210987654321"}'), ""),
    (Fault.DROP, "ConnectionClosedError"),
]


@pytest.mark.parametrize("setting", Setting)
@pytest.mark.parametrize(("fault", "why"), FAULTS, ids=str)
def test_a_setting_that_cannot_be_read_is_unknown_and_the_others_are_read(
    registry_of_settings: tuple[FakeAws, EcrRegistry, EcrSettings],
    setting: Setting,
    fault: AnyFault,
    why: str,
) -> None:
    fake, reader, all_known = registry_of_settings
    fake.fail(OPERATIONS[setting], fault)
    try:
        found, answers = reader.learn(fake.account_id, REGISTRY_SETTINGS, ["team/api"])
    finally:
        fake.clear()
    for field in dataclasses.fields(EcrSettings):
        expected = None if field.name == FIELDS.get(setting) else getattr(all_known, field.name)
        assert field.name == "unknown" or getattr(found, field.name) == expected
    assert list(found.unknown) == [setting]
    assert why in found.unknown[setting]
    if setting is not Setting.LIFECYCLE:
        assert answers["team/api"].problem == ""
    elif fault is not Fault.ACCESS_DENIED and "malformed" not in (why or "malformed"):
        assert answers == {}, "what was not reached is asked first by the next run"
    else:
        assert answers["team/api"].problem == found.unknown[setting]


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.TRICKLE])
def test_settings_that_hang_are_left_behind_together(
    registry_of_settings: tuple[FakeAws, EcrRegistry, EcrSettings],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setattr(ecr, "LEARN_SECONDS", 1)
    fake, reader, all_known = registry_of_settings
    hanging = (Setting.TEMPLATES, Setting.LIFECYCLE)
    for setting in hanging:
        fake.fail(OPERATIONS[setting], fault)
    began = datetime.now(UTC)
    try:
        found, answers = reader.learn(fake.account_id, REGISTRY_SETTINGS, ["team/api"])
        took = datetime.now(UTC) - began
    finally:
        fake.clear()
    assert took < timedelta(seconds=ecr.LEARN_SECONDS * len(hanging) + 10)
    assert answers == {}
    assert set(found.unknown) == set(hanging)
    assert found.scanning == all_known.scanning


@pytest.mark.parametrize("fault", [Fault.ACCESS_DENIED, Fault.THROTTLING, Fault.MALFORMED_BODY])
@pytest.mark.parametrize("setting", Setting)
def test_a_setting_that_cannot_be_read_leaves_everything_else_of_a_run_right(
    world: World, setting: Setting, fault: Fault
) -> None:
    name = high(world)
    world.fake.create("hub/nginx")
    world.fake.create("team/tool")
    world.fake.cache("hub")
    world.fake.template("ROOT", "CREATE_ON_PUSH")
    world.fake.change(name, imageTagMutability="MUTABLE")
    world.fake.fail(OPERATIONS[setting], fault)

    done = world.sync()

    assert done.outcome == "published"
    assert list(world.listed) == [name]
    expected = [(name, "tags-mutable", "ECR.2")]
    if setting is Setting.REPLICATION:
        assert rules(done) == expected, "no rule needs it"
    else:
        assert rules(done) == [("", "registry-settings-unknown", None), *expected]
        finding = done.planned.registry.findings[0]
        assert setting in finding.message
        assert (setting in finding.remediation) == (fault is Fault.ACCESS_DENIED)
    without = {Setting.TEMPLATES: {"team/tool"}, Setting.CACHE_RULES: {"hub/nginx"}}
    found = {"hub/nginx": "pull-through-cache", "team/tool": "create-on-push"}
    for orphan in without.get(setting, set()):
        found[orphan] = "create-on-push" if orphan == "hub/nginx" else "unknown"
    assert origins(done) == found
    world.fake.clear()
    assert rules(world.sync()) == expected


# What it costs


def fill(world: World, count: int) -> None:
    """So many repositories, all but one governed at risk high, and one orphan."""
    names = [f"team-{number % 7}/app-{number:05}" for number in range(count - 1)]
    metadata = "{id: REGISTRY_A, owner: jo, risk: high, status: active}"
    entries = "".join(f"  {name}: {{metadata: {metadata}}}\n" for name in names)
    world.commit(f'version: "1.0"\nrepositories:\n{entries or "  {}"}\n')
    for name in names:
        world.fake.create(name)
    world.fake.create("orphan")


@pytest.mark.parametrize("count", [1, 999, 1_000, 1_001, 10_000])
def test_a_run_keeps_its_budget_of_calls(world: World, count: int) -> None:
    fill(world, count)
    run, pages = mirroring.plan_publication, -(-count // 1_000)
    adapters, mirror = world.adapters, world.mirror
    governance = mirroring.read_governance(mirror, adapters)

    def calls_of_a_run(*, asks: bool) -> Counter[str]:
        before = len(world.fake.calls)
        inventory = mirroring.read_inventory(adapters.registry)
        run(mirror, adapters, governance, inventory, mirroring.Past(), asks_retention=asks)
        return Counter(each.operation for each in world.fake.calls[before:])

    settings = {OPERATIONS[each]: 1 for each in REGISTRY_SETTINGS}
    if count == 1:
        del settings[OPERATIONS[Setting.SCANNING]]  # Nothing is governed.
    asked = min(count - 1, MAX_ASKED)
    listed = {LISTING: pages, **settings}
    with_policies = {**listed, **({LIFECYCLE: asked} if asked else {})}
    assert calls_of_a_run(asks=True) == {**with_policies, "GetCallerIdentity": 1}
    assert calls_of_a_run(asks=True) == with_policies
    assert calls_of_a_run(asks=False) == listed, "stateless, no lifecycle policy is read"

    before = len(world.fake.calls)
    look_at(world.mirror, adapters, Shared(0))
    assert Counter(each.operation for each in world.fake.calls[before:]) == {LISTING: pages}


def test_without_a_policy_and_an_orphan_a_run_lists_and_asks_nothing_more(world: World) -> None:
    world.write_mirror()
    world.have("team/api")
    world.sync()
    assert {each.operation for each in world.fake.calls} == {LISTING, "GetCallerIdentity"}


# The rotation


def test_lifecycle_policies_are_read_on_a_rotation_that_the_history_keeps(world: World) -> None:
    names = [f"team/app-{number:02}" for number in range(MAX_ASKED + 5)]
    world.fake.scan("BASIC", SCAN_ON_PUSH=["*"])
    world.have(*names)
    first = world.sync()
    assert world.fake.count(LIFECYCLE) == MAX_ASKED
    asked = [each["repository"] for each in table(first, "retention")]
    assert asked == names[:MAX_ASKED]
    assert {each["keeps"] for each in table(first, "retention")} == {"all images"}
    assert all(each["read"] and each["age"] for each in table(first, "retention"))
    assert {each[:2] for each in rules(first)} == {(name, "retention-missing") for name in asked}
    (row,) = [each for each in table(first, "conformance") if each["aspect"] == "keep_images"]
    assert (row["broken"], row["unknown"]) == (str(MAX_ASKED), "5")

    world.restart()
    world.fake.expire_images(names[0], 20)
    second = world.sync()
    assert world.fake.count(LIFECYCLE) == 2 * MAX_ASKED
    table_of_ages = {each["repository"]: each["read"] for each in table(second, "retention")}
    assert sorted(table_of_ages) == names
    assert {each[0] for each in rules(second)} == set(names[1:])


def test_a_denied_policy_neither_stops_the_rotation_nor_asks_on(world: World) -> None:
    names = [f"team/app-{number:02}" for number in range(4)]
    world.fake.scan("BASIC", SCAN_ON_PUSH=["*"])
    world.have(*names)
    world.fake.fail(LIFECYCLE, Fault.ACCESS_DENIED)
    for turn in range(3):
        done = world.sync()
        assert world.fake.count(LIFECYCLE) == turn + 1
        assert rules(done) == [("", "registry-settings-unknown", None)]
    asked = [
        each.parameters["repositoryName"]
        for each in world.fake.calls
        if each.operation == LIFECYCLE
    ]
    assert asked == names[:3]
    world.fake.clear()
    assert {each[:2] for each in rules(world.sync())} == {
        (name, "retention-missing") for name in names
    }


def test_an_entrys_own_count_is_read_and_compared(world: World) -> None:
    world.write_mirror()
    world.commit(
        'version: "1.0"\nrepositories:\n  team/api:\n'
        "    metadata: {id: REGISTRY_A, owner: jo, risk: low, status: active}\n"
        "    governance: {lifecycle_policy: {keep_image_count: 7}}\n"
    )
    world.fake.create("team/api")
    world.fake.expire_images("team/api", 9)
    done = world.sync()
    assert rules(done) == [("team/api", "retention-differs", "ECR.3")]
    assert "7" in done.planned.registry.findings[0].message


# Exceptions

LATER: Final = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()


def except_(world: World, *exceptions: Mapping[str, Any]) -> None:
    """Write exceptions below what is governed."""
    file = world.governance_file.read_text().partition("exceptions:")[0]
    world.commit(f"{file}exceptions: {json.dumps(exceptions)}\n")


def evaluated(done: Synced, check: str) -> dg.AssetCheckEvaluation:
    return done.evaluations[check]


def test_what_is_accepted_fails_no_check_and_changes_no_byte(world: World) -> None:
    world.fake.scan("BASIC", SCAN_ON_PUSH=["*"])
    world.have("team/api")
    world.fake.expire_images("team/api", 20)
    world.govern("team/gone")
    world.govern("team/odd", owner="")
    world.fake.create("cdk-assets")
    before = world.sync()
    failing = {"no_ghosts", "no_orphans", "governance_findings"}
    assert {name for name, passed in before.checks.items() if not passed} >= failing
    content = world.content

    except_(
        world,
        {"match": "cdk-*", "rule": "orphan", "reason": "bootstrap", "expires": LATER},
        {"match": "team/*", "rule": "ghost", "reason": "moving"},
        {"match": "*", "rule": "owner-missing", "reason": "nobody yet"},
    )
    done = world.sync()

    assert {name for name, passed in done.checks.items() if not passed} & failing == set()
    assert rules(done) == []
    assert {(each.repository, each.rule) for each in done.planned.registry.excepted} == {
        ("cdk-assets", "orphan"),
        ("team/gone", "ghost"),
        ("team/odd", "ghost"),
        ("team/odd", "owner-missing"),
    }
    assert metadata(done)["excepted"].value == 4
    assert {each["rule"] for each in table(done, "excepted_table")} == {
        *("orphan", "ghost", "owner-missing"),
    }
    assert "1 that the governance file excepts" in str(evaluated(done, "no_orphans").description)
    assert apart_from_when(world.content) == apart_from_when(content), "the entity stays"
    assert list(world.listed) == ["team/api"]


def test_an_exception_hides_no_removal(world: World) -> None:
    world.have(*(f"team/app-{number}" for number in range(4)))
    world.sync()
    for number in range(4):
        world.fake.delete(f"team/app-{number}")
    except_(world, {"match": "*", "rule": "ghost", "reason": "all of them"})
    done = world.sync()
    assert done.outcome == "held"
    assert len(done.planned.plan.changes.removed) == 4
    assert done.checks["no_ghosts"]


def test_an_expired_exception_comes_back_by_itself(world: World) -> None:
    world.fake.create("cdk-assets")
    today = datetime.now(UTC).date()
    adapters, mirror = world.adapters, world.mirror
    except_(
        world,
        {"match": "cdk-*", "rule": "orphan", "reason": "bootstrap", "expires": today.isoformat()},
    )
    governance = mirroring.read_governance(mirror, adapters)
    inventory = mirroring.read_inventory(adapters.registry)

    def planned(at: datetime) -> mirroring.PlannedRegistry:
        return mirroring.plan_publication(
            mirror, adapters, governance, inventory, mirroring.Past(), clock=lambda: at
        )

    midnight = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
    before = planned(midnight - timedelta(microseconds=1)).registry
    assert [each.rule for each in before.excepted] == ["orphan"]
    assert before.findings == ()
    after = planned(midnight).registry
    assert after.excepted == ()
    assert [each.rule for each in after.findings] == ["exception-expired"]


def test_an_exception_that_expired_fails_the_checks_of_the_next_run(world: World) -> None:
    world.fake.create("cdk-assets")
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    except_(world, {"match": "*", "rule": "orphan", "reason": "r", "expires": yesterday})
    done = world.sync()
    assert not done.checks["no_orphans"]
    assert not done.checks["governance_findings"]
    assert rules(done) == [("", "exception-expired", None)]


def test_an_orphan_is_reported_with_its_probable_origin_and_what_follows(world: World) -> None:
    world.fake.cache("hub")
    world.fake.create("hub/nginx")
    world.fake.create("hub/redis")
    world.fake.create("toolbox")
    done = world.sync()
    assert origins(done) == {
        "hub/nginx": "pull-through-cache",
        "hub/redis": "pull-through-cache",
        "toolbox": "unknown",
    }
    reported = evaluated(done, "no_orphans").metadata["what_follows"].value
    assert isinstance(reported, str)
    first, second = reported.splitlines()
    assert first.startswith("- 2 in AWS, not governed, probably created by the pull-through cache")
    assert "ecr-catalog adopt" in first
    assert "the next pull creates it again" in first
    assert "of unknown origin" in second
    assert {each["setting"] for each in table(done, "registry_settings")} == {
        "creation templates",
        "pull-through cache rules",
        "replicates to",
    }
