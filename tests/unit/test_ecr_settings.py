"""The registry's own settings: what its answers mean, and what they do not say."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.ecr_settings import (
    REGISTRY_SETTINGS,
    EcrSettings,
    RegistryScanning,
    Scanning,
    Setting,
    parse_settings,
    settings_in_words,
)
from ecr_catalog_pipeline.core.origins import CreationTemplate, Origins, OrphanOrigin
from tests.unit.builders import ACCOUNT


def scanning(scan_type: str, **rules: list[str]) -> RegistryScanning:
    configuration = {
        "scanType": scan_type,
        "rules": [
            {
                "scanFrequency": frequency,
                "repositoryFilters": [
                    {"filter": each, "filterType": "WILDCARD"} for each in filters
                ],
            }
            for frequency, filters in rules.items()
        ],
    }
    answer = {"registryId": ACCOUNT, "scanningConfiguration": configuration}
    found = parse_settings({Setting.SCANNING: answer}, {}, ACCOUNT).scanning
    assert found is not None
    return found


# Effective scanning

EFFECTIVE: Final[list[tuple[str, dict[str, list[str]], str, bool | None, str | None]]] = [
    # BASIC: a rule that matches, or the repository's own setting
    ("BASIC", {}, "team/api", False, "off"),
    ("BASIC", {}, "team/api", True, "on-push"),
    ("BASIC", {}, "team/api", None, None),
    ("BASIC", {"SCAN_ON_PUSH": ["team/*"]}, "team/api", False, "on-push"),
    ("BASIC", {"SCAN_ON_PUSH": ["team/*"]}, "team/api", None, "on-push"),
    ("BASIC", {"SCAN_ON_PUSH": ["other/*"]}, "team/api", False, "off"),
    ("BASIC", {"SCAN_ON_PUSH": ["other/*"]}, "team/api", True, "on-push"),
    ("BASIC", {"MANUAL": ["*"]}, "team/api", True, "on-push"),
    # ENHANCED: only the rules
    ("ENHANCED", {}, "team/api", True, "off"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["*"]}, "team/api", False, "on-push"),
    ("ENHANCED", {"CONTINUOUS_SCAN": ["*"]}, "team/api", None, "continuous"),
    ("ENHANCED", {"CONTINUOUS_SCAN": ["prod"]}, "team/api", True, "off"),
    ("ENHANCED", {"MANUAL": ["*"]}, "team/api", True, "off"),
    # several rules: the strongest that matches
    (
        "ENHANCED",
        {"SCAN_ON_PUSH": ["*"], "CONTINUOUS_SCAN": ["team/*"]},
        "team/api",
        None,
        "continuous",
    ),
    (
        "ENHANCED",
        {"CONTINUOUS_SCAN": ["other/*"], "SCAN_ON_PUSH": ["*"]},
        "team/api",
        None,
        "on-push",
    ),
    # filters: without `*` any name that contains it, else the whole name
    ("ENHANCED", {"SCAN_ON_PUSH": ["am/a"]}, "team/api", None, "on-push"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["api"]}, "team/api", None, "on-push"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["api*"]}, "team/api", None, "off"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["*api"]}, "team/api", None, "on-push"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["t*/a*i"]}, "team/api", None, "on-push"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["team/*x"]}, "team/api", None, "off"),
    ("ENHANCED", {"SCAN_ON_PUSH": ["no", "team*"]}, "team/api", None, "on-push"),
]


@pytest.mark.parametrize(("kind", "rules", "name", "own", "effective"), EFFECTIVE)
def test_scanning_is_judged_by_what_the_registry_does(
    kind: str, rules: dict[str, list[str]], name: str, own: bool | None, effective: str | None
) -> None:
    assert scanning(kind, **rules).effective(name, scan_on_push=own) == effective


def test_a_filter_of_many_stars_is_matched_at_once() -> None:
    hostile = "a*" * 120
    found = scanning("ENHANCED", SCAN_ON_PUSH=[hostile]).effective("a" * 256, scan_on_push=None)
    assert found == "on-push"
    assert scanning("ENHANCED", SCAN_ON_PUSH=[f"{hostile}b"]).effective(
        "a" * 256, scan_on_push=None
    ) == ("off")


@given(st.lists(st.sampled_from("ab/*"), min_size=1, max_size=6), st.text("ab/", max_size=8))
def test_a_star_is_any_text_and_nothing_else_is_special(parts: list[str], name: str) -> None:
    pattern = "".join(parts)

    def matches(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(matches(pattern[1:], name[at:]) for at in range(len(name) + 1))
        return name[:1] == pattern[0] and matches(pattern[1:], name[1:])

    expected = matches(pattern, name) if "*" in pattern else pattern in name
    found = scanning("ENHANCED", SCAN_ON_PUSH=[pattern]).effective(name, scan_on_push=None)
    assert (found is Scanning.ON_PUSH) == expected


# Answers

GOOD: Final[dict[Setting, dict[str, Any]]] = {
    Setting.SCANNING: {
        "registryId": ACCOUNT,
        "scanningConfiguration": {"scanType": "BASIC", "rules": []},
    },
    Setting.TEMPLATES: {
        "registryId": ACCOUNT,
        "repositoryCreationTemplates": [
            {"prefix": "ROOT", "appliedFor": ["CREATE_ON_PUSH", "SOMETHING_NEW"]}
        ],
    },
    Setting.CACHE_RULES: {"pullThroughCacheRules": [{"ecrRepositoryPrefix": "hub"}]},
    Setting.REPLICATION: {
        "registryId": ACCOUNT,
        "replicationConfiguration": {
            "rules": [{"destinations": [{"region": "eu-west-1", "registryId": ACCOUNT}]}]
        },
    },
}
KNOWN: Final = EcrSettings(
    scanning=RegistryScanning(enhanced=False),
    templates=(CreationTemplate("ROOT", (OrphanOrigin.CREATE_ON_PUSH,)),),
    cache_rules=("hub",),
    replicates_to=(f"eu-west-1 of {ACCOUNT}",),
)
FIELD: Final = {
    Setting.SCANNING: "scanning",
    Setting.TEMPLATES: "templates",
    Setting.CACHE_RULES: "cache_rules",
    Setting.REPLICATION: "replicates_to",
}


def test_the_settings_are_read() -> None:
    assert parse_settings(GOOD, {}, ACCOUNT) == KNOWN
    assert settings_in_words(KNOWN) == {
        "scanning": "basic: no rules",
        "creation templates": "ROOT (create-on-push)",
        "pull-through cache rules": "hub",
        "replicates to": f"eu-west-1 of {ACCOUNT}",
    }


@pytest.mark.parametrize("setting", REGISTRY_SETTINGS)
@pytest.mark.parametrize("why", ["failed", "empty", "another account", "pages", "odd"])
def test_one_setting_that_cannot_be_read_leaves_the_others(setting: Setting, why: str) -> None:
    answers, failed = dict(GOOD), {}
    match why:
        case "failed":
            del answers[setting]
            failed = {setting: "denied"}
        case "empty":
            answers[setting] = {}
        case "another account":
            answers[setting] = {**GOOD[setting], "registryId": "210987654321"}
        case "pages":
            answers[setting] = {**GOOD[setting], "nextToken": "more"}
        case _:
            (key,) = GOOD[setting].keys() - {"registryId"}
            answers[setting] = {**GOOD[setting], key: "odd"}
    found = parse_settings(answers, failed, ACCOUNT)
    assert list(found.unknown) == [setting]
    assert found.unknown[setting]
    for each, field in FIELD.items():
        expected = None if each is setting else getattr(KNOWN, field)
        assert getattr(found, field) == expected
    assert settings_in_words(found)[setting].startswith("unknown: ")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "scanType",
                        "rules",
                        "scanFrequency",
                        "repositoryFilters",
                        "filter",
                        "prefix",
                    ),
                    *("appliedFor", "ecrRepositoryPrefix", "destinations", "region", "registryId"),
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@example(Setting.TEMPLATES, [{"prefix": "a", "appliedFor": [{}]}])
@given(st.sampled_from(REGISTRY_SETTINGS), anything)
def test_any_answer_is_a_setting_or_unknown(setting: Setting, content: Any) -> None:
    (key,) = GOOD[setting].keys() - {"registryId"}
    found = parse_settings({setting: {key: content}}, {}, ACCOUNT)
    assert (getattr(found, FIELD[setting]) is None) == (setting in found.unknown)
    assert settings_in_words(found)


# Origins

PUSH: Final = OrphanOrigin.CREATE_ON_PUSH
CACHE: Final = OrphanOrigin.PULL_THROUGH_CACHE
REPLICATION: Final = OrphanOrigin.REPLICATION
UNKNOWN: Final = OrphanOrigin.UNKNOWN
Templates = dict[str, tuple[OrphanOrigin, ...]]


@pytest.mark.parametrize(
    ("templates", "rules", "name", "origin"),
    [
        ({}, [], "team/api", UNKNOWN),
        ({"team": (PUSH,)}, [], "team/api", PUSH),
        ({"team/": (PUSH,)}, [], "team/api", PUSH),
        ({"team": (CACHE,)}, [], "team/api", CACHE),
        ({"team": (REPLICATION,)}, [], "team/api", REPLICATION),
        ({"team": ()}, [], "team/api", UNKNOWN),
        ({"team": (PUSH,)}, [], "teams/api", UNKNOWN),
        ({"team": (PUSH,)}, [], "team", UNKNOWN),
        ({"ROOT": (PUSH,)}, [], "team", PUSH),
        ({"ROOT": (PUSH,)}, [], "a/b/c", PUSH),
        # the longest prefix
        ({"ROOT": (PUSH,), "team": (REPLICATION,)}, [], "team/api", REPLICATION),
        ({"team": (REPLICATION,), "team/a": (PUSH,)}, [], "team/a/b", PUSH),
        ({"team": (REPLICATION,), "team/a": (PUSH,)}, [], "team/b/c", REPLICATION),
        ({"team": (REPLICATION,), "team/a": ()}, [], "team/a/b", REPLICATION),
        # cache rules, with a template or without
        ({}, ["hub"], "hub/library/nginx", CACHE),
        ({}, ["ROOT"], "library/nginx", CACHE),
        ({"ROOT": (PUSH,)}, ["hub"], "hub/library/nginx", CACHE),
        ({"hub/library": (PUSH,)}, ["hub"], "hub/library/nginx", PUSH),
        ({"hub": (PUSH,)}, ["hub"], "hub/library/nginx", CACHE),
        # a template for several things
        ({"ROOT": (REPLICATION, CACHE, PUSH)}, [], "team/api", PUSH),
        ({"ROOT": (REPLICATION, CACHE)}, [], "team/api", REPLICATION),
        ({"ROOT": (REPLICATION, CACHE, PUSH)}, ["hub"], "team/api", PUSH),
        ({"hub/library": (CACHE, PUSH)}, ["hub"], "hub/library/nginx", CACHE),
        # what is not known is left out
        ({"team": (PUSH,)}, None, "team/api", PUSH),
        ({"ROOT": (CACHE, PUSH)}, None, "team/api", PUSH),
        (None, ["hub"], "hub/nginx", CACHE),
        (None, None, "hub/nginx", UNKNOWN),
    ],
)
def test_the_origin_is_that_of_the_longest_prefix(
    templates: Templates | None, rules: list[str] | None, name: str, origin: OrphanOrigin
) -> None:
    known = (
        None
        if templates is None
        else [CreationTemplate(prefix, applied) for prefix, applied in templates.items()]
    )
    assert Origins(known, rules).of(name) is origin
