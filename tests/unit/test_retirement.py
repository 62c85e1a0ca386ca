"""Retiring takes away what is ad hoc, and not one byte besides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline.core.governance import Status
from ecr_catalog_pipeline.core.reconcile import reconcile
from ecr_catalog_pipeline.core.strict_yaml import parse_documents
from ecr_catalog_pipeline.sprawl.ad_hoc import pieces
from ecr_catalog_pipeline.sprawl.retirement import (
    Retirement,
    plan_retirement,
)
from ecr_catalog_pipeline.sprawl.standing import Comparison, RegistryView, Standing
from tests.unit.builders import ACCOUNT, IDENTITY, REGION, catalog, entry, inventory

ORDERS: Final = "kind: Component\nmetadata: {name: orders}\nspec: {type: service}\n"


def ecr(name: str, entity_type: str = "ecr-repository") -> str:
    return (
        f"kind: Resource\nmetadata:\n  name: {name}\nspec:\n  type: {entity_type}\n  owner: team\n"
    )


def location(*targets: str) -> str:
    listed = "".join(f"    - {target}\n" for target in targets)
    return f"kind: Location\nmetadata: {{name: all}}\nspec:\n  targets:\n{listed}"


def retire(files: dict[str, str]) -> Retirement:
    return plan_retirement(files, {IDENTITY.name})


def edited(text: str, **others: str) -> str | None:
    """The text of a file once `ecr/pay.yaml`, which it lists or not, is retired."""
    files = {"all.yaml": text, "ecr/pay.yaml": ecr("pay"), "apps.yaml": ORDERS, **others}
    retirement = retire(files)
    assert retirement.left == ()
    return retirement.edits.get("all.yaml", text)


# Documents


@dataclass(frozen=True)
class Part:
    """One document of a stream, as it is written."""

    marker: str
    body: str
    after: str
    end: str
    ad_hoc: bool

    @property
    def text(self) -> str:
        return self.marker + self.body + self.after + self.end


OTHERS: Final = (
    ORDERS,
    "# inside\nkind: Resource\nmetadata: {name: db}\nspec: {type: database}\n",
    "kind: Resource\nmetadata: {name: no, x: &a [1, 2], y: *a}\nspec:\n  type: ecr-repositorys\n",
    '{"kind": "API", "metadata": {"name": "a"}}\n',
    "kind: System\nmetadata:\n  name: s\n  description: |+\n    kind: Resource\n    # text\n\n",
    "kind: Component\nmetadata:\n  name: m\n  description: >-\n      folded\n\n      text\n",
    "- a list\n",
    "kind: Group # c\n\n\n",
    "'plain\n\n  text'\n",
)
AD_HOC: Final = (
    ecr("pay"),
    ecr("pay", "container-repository") + "  # indented\n",
    "# inside\n" + ecr("pay") + "  text: |\n    kind: Component\n\n    # still text\n",
    "kind: Resource\nspec: {type: aws-ecr-repository}\nmetadata: {name: &n pay, title: *n} # c\n\n",
    '{"kind": "Resource", "metadata": {"name": "pay"},\n "spec": {"type": "ecr-repository"}}\n',
    ecr("pay") + "  last:\n",
    ecr("pay") + "  last: 'over\n\n    lines'\n",
    ecr("pay") + "  list:\n  - a\n  - b # c\n",
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, list[Part], str]:
    """A header, documents, and how lines end."""
    parts: list[Part] = []
    for place in range(draw(st.integers(1, 6))):
        bare = (place == 0 or bool(parts[-1].end)) and draw(st.booleans())
        ad_hoc = draw(st.booleans())
        body = draw(st.sampled_from(AD_HOC if ad_hoc else OTHERS))
        may_have = not (bare or ad_hoc) and (place == 0 or bool(parts[-1].end))
        directive = may_have and draw(st.booleans())
        marker = "" if bare else draw(st.sampled_from(["---\n", "--- # c\n", "---\n\n"]))
        after = draw(st.sampled_from(["", f"# after {place}\n", f"\n# after {place}\n\n# more\n"]))
        end = draw(st.sampled_from(["", "", "...\n", "... # end\n"]))
        parts.append(Part(("%YAML 1.1\n" if directive else "") + marker, body, after, end, ad_hoc))
    header = draw(st.sampled_from(["", "# a licence\n\n"]))
    return header, parts, draw(st.sampled_from(["\n", "\r\n"]))


@given(streams(), st.booleans(), st.booleans())
@settings(max_examples=300)
def test_every_byte_of_the_other_documents_stays(
    stream: tuple[str, list[Part], str], bom: bool, last_line_ends: bool
) -> None:
    header, parts, end = stream
    text = (header + "".join(part.text for part in parts)).replace("\n", end)
    if not last_line_ends:
        text = text.rstrip("\r\n")
    kept = [part for part in parts if not part.ad_hoc]
    mark = "\ufeff" if bom else ""

    retirement = retire({"a.yaml": mark + text})

    assert len(retirement.entities) == len(parts) - len(kept)
    assert retirement.left == ()
    if not retirement.entities:
        assert retirement.edits == {}
        return
    after = retirement.edits["a.yaml"]
    if not kept:
        assert after is None
        return
    assert after is not None
    assert after.startswith(mark)
    rest = after.removeprefix(mark)
    assert is_subsequence(rest, text), "no byte was added"
    position = 0
    for part in kept:
        written = (part.marker + part.body).replace("\n", end)
        position = rest.find(written.rstrip("\r\n"), position)
        assert position >= 0, written
    for comment in ["# a licence"] * bool(header) + [
        line for part in parts for line in part.after.split("\n") if line
    ]:
        assert comment in rest.split(end)
    before = zip(documents(text), parts, strict=True)
    assert documents(rest) == [document for document, part in before if not part.ad_hoc]
    assert retire({"a.yaml": after}).nothing


def documents(text: str) -> list[Any]:
    # Taken apart, because libyaml reads no document without a marker after the first.
    apart = (text[each.start : each.end] for each in pieces(text) if not each.blank)
    return [each.value for part in apart for each in parse_documents(part)]


def is_subsequence(short: str, long: str) -> bool:
    remaining = iter(long)
    return all(character in remaining for character in short)


def test_comments_between_documents_stay_and_those_inside_go() -> None:
    text = (
        "# licence\n---\n"
        + ecr("pay")
        + "  # of pay\n\n# about orders\n---\n# in orders\n"
        + ORDERS
    )
    after = retire({"a.yaml": text}).edits["a.yaml"]
    assert after == "# licence\n# about orders\n---\n# in orders\n" + ORDERS


def test_a_document_whose_directive_may_last_is_left() -> None:
    """Backstage's parser goes on reading as YAML 1.1 after such a document."""
    text = f"%YAML 1.1\n---\n{ecr('pay')}...\n---\n{ORDERS}"
    retirement = retire({"a.yaml": text})
    assert retirement.edits == {}
    assert "directive" in retirement.left[0].message

    last = f"{ORDERS}...\n%YAML 1.1\n---\n{ecr('pay')}"
    assert retire({"a.yaml": last}).edits == {"a.yaml": f"{ORDERS}...\n"}


@pytest.mark.parametrize("odd", ["\r", "\x85", "\u2028"])
def test_a_file_with_line_breaks_that_parsers_disagree_on_is_left(odd: str) -> None:
    retirement = retire(
        {"a.yaml": ecr("pay").replace("\n", f" # {odd}# x\n", 1) + f"---\n{ORDERS}"}
    )
    assert retirement.edits == {}
    assert "line breaks" in retirement.left[0].message


def test_a_file_that_holds_nothing_else_is_deleted() -> None:
    both = f"# all of these\n---\n{ecr('pay')}---\n# nothing\n---\n{ecr('search')}"
    assert retire({"a.yaml": both}).edits == {"a.yaml": None}


def test_the_mirrors_own_entity_and_every_other_kind_stay() -> None:
    files = {
        "ours.yaml": ecr(IDENTITY.name, "container-registry"),
        "apps.yaml": ORDERS,
        "db.yaml": ecr("db", "database"),
        "template.yaml": "kind: Template\nspec: {type: ecr-repository}\n",
        "system.yaml": "kind: System\nspec: {type: container-repository}\n",
    }
    assert retire(files).nothing
    assert retire(files).edits == {}


def test_the_entity_of_an_unknown_mirror_is_left_with_a_warning() -> None:
    theirs = (
        "kind: Resource\nmetadata:\n  name: theirs\n  annotations:\n"
        "    platform/content-digest: sha256:0\nspec: {type: container-registry}\n"
    )
    retirement = retire({"theirs.yaml": theirs})
    assert retirement.nothing
    (warning,) = retirement.warnings
    assert "theirs is generated by a mirror that is unknown here" in warning.message


def test_templates_are_warnings_and_stay() -> None:
    files = {
        "skeleton.yaml": ecr("${{ values.name }}"),
        "nunjucks.yaml": "{% if x %}\n" + ecr("pay"),
        "cookie.yaml": ecr("{{ cookiecutter.name }}"),
    }
    retirement = retire(files)
    assert retirement.nothing
    assert {each.path for each in retirement.warnings} == set(files)


def test_a_file_with_a_part_that_cannot_be_parsed_is_not_edited() -> None:
    files = {"a.yaml": ecr("pay") + "---\n{% if x %}\n", "all.yaml": location("./a.yaml")}
    retirement = retire(files)
    assert not retirement.nothing
    assert retirement.edits == {}
    assert [(each.path, each.line) for each in retirement.left] == [("a.yaml", 1)]


# Locations

HEAD: Final = "kind: Location\nmetadata: {name: all}\nspec:\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "  targets: # all\n    # pay\n    - ./ecr/pay.yaml  # gone\n\n    - ./apps.yaml",
            "  targets: # all\n    # pay\n\n    - ./apps.yaml",
        ),
        ("  targets:\n  - apps.yaml\n  - 'ecr/pay.yaml'", "  targets:\n  - apps.yaml\n"),
        (
            "  type: url\n  target: ./ecr/pay.yaml # c\n  targets: [./apps.yaml]\n",
            "  type: url\n  targets: [./apps.yaml]\n",
        ),
        ("  targets:\n    - ./ecr/%70ay.yaml\n    - ./a b\n", "  targets:\n    - ./a b\n"),
        ("  targets:\n    - ./x/../ecr/pay.yaml\n    - ./b\n", "  targets:\n    - ./b\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_target_goes_and_every_other_byte_of_its_location_stays(
    before: str, after: str, end: str
) -> None:
    assert edited((HEAD + before).replace("\n", end)) == (HEAD + after).replace("\n", end)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  target: ./ecr/pay.yaml # c\n", "  targets: [] # c\n"),
        ("  targets: # c\n    # pay\n    - ./ecr/pay.yaml\n", "  targets: [] # c\n    # pay\n"),
    ],
)
def test_a_location_that_nothing_lists_stays_without_targets(before: str, after: str) -> None:
    """Backstage goes on serving what a file declared that it no longer finds."""
    assert edited(HEAD + before) == HEAD + after


def test_json_stays_json() -> None:
    only = {"kind": "Location", "spec": {"target": "./ecr/pay.yaml"}}
    after = edited(json.dumps(only))
    assert after is not None
    assert json.loads(after)["spec"] == {"targets": []}


def test_a_location_that_is_listed_goes_with_its_last_target() -> None:
    files = {
        "all.yaml": location("./ecr/all.yaml", "./apps.yaml"),
        "ecr/all.yaml": location("./deep/all.yaml"),
        "ecr/deep/all.yaml": location("./pay.yaml", "./search.yaml"),
        "ecr/deep/pay.yaml": ecr("pay"),
        "ecr/deep/search.yaml": ecr("search"),
        "apps.yaml": ORDERS,
    }
    retirement = retire(files)
    gone = [path for path, text in retirement.edits.items() if text is None]
    assert gone == [path for path in sorted(files) if path.startswith("ecr/")]
    assert retirement.edits["all.yaml"] == location("./apps.yaml")
    assert retirement.unlisted == ()
    assert {(each.path, each.outcome) for each in retirement.locations} == {
        ("all.yaml", "edited"),
        ("ecr/all.yaml", "removed"),
        ("ecr/deep/all.yaml", "removed"),
    }


def test_a_location_in_a_file_that_stays_goes_with_its_last_target() -> None:
    text = f"{ORDERS}---\n{location('./ecr/pay.yaml')}"
    assert edited(text) == ORDERS


def test_a_target_stays_while_its_file_declares_something_else() -> None:
    files = {"all.yaml": location("./both.yaml"), "both.yaml": f"{ecr('pay')}---\n{ORDERS}"}
    assert retire(files).edits == {"both.yaml": f"---\n{ORDERS}"}


@pytest.mark.parametrize(
    "spec",
    [
        "  targets:\n    - &x ./ecr/pay.yaml\n    - ./apps.yaml\n  other: *x\n",
        "  targets:\n    - >-\n      ./ecr/pay.yaml\n    - ./apps.yaml\n",
        "  targets: [./ecr/pay.yaml, ./apps.yaml]\n",
        "  targets: [\n    ./apps.yaml,  # a\n    ./ecr/pay.yaml  # p\n  ]\n",
        "  target: &t ./ecr/pay.yaml\n  y: *t\n",
        "  {target: ./ecr/pay.yaml, targets: [./apps.yaml]}\n",
        "  targets: &t\n    - ./ecr/pay.yaml\n  x: *t\n",
    ],
)
def test_what_cannot_be_edited_safely_is_left_with_all_that_it_lists(spec: str) -> None:
    files = {"all.yaml": HEAD + spec, "ecr/pay.yaml": ecr("pay"), "ecr/other.yaml": ecr("other")}
    retirement = retire(files)
    assert retirement.edits == {"ecr/other.yaml": None}
    (left,) = retirement.left
    assert left.path == "ecr/pay.yaml"
    assert left.message.startswith("all.yaml: ")
    assert "by hand" in left.message


def test_a_location_beside_a_template_keeps_its_targets() -> None:
    files = {"all.yaml": location("./ecr/pay.yaml") + "---\n{{ x }}\n", "ecr/pay.yaml": ecr("pay")}
    assert retire(files).edits == {}
    assert [each.path for each in retire(files).left] == ["ecr/pay.yaml"]


def test_patterns_and_urls_are_reported_and_left() -> None:
    text = location(
        "./ecr/*.yaml", "./**/pay.yaml", "https://git.example.com/c/blob/main/ecr/pay.yaml?x=1"
    )
    retirement = retire({"all.yaml": text, "ecr/pay.yaml": ecr("pay")})
    assert retirement.edits == {"ecr/pay.yaml": None}
    assert len(retirement.warnings) == 3
    assert all("would find none" in each.message for each in retirement.warnings)
    assert retirement.unlisted == ()

    others = {"ecr/db.yaml": ecr("db", "database"), "ecr/pay.yaml": ecr("pay")}
    (reported,) = retire({"all.yaml": location("./ecr/*.yaml"), **others}).warnings
    assert reported.message.endswith("it may mean 1 of the files that go")


def test_a_file_that_no_location_lists_is_reported() -> None:
    retirement = retire({"ecr/pay.yaml": ecr("pay"), "all.yaml": location("./apps.yaml")})
    assert retirement.unlisted == ("ecr/pay.yaml",)


# References


@pytest.mark.parametrize(
    ("written", "dangles"),
    [
        ("resource:pay", True),
        ("Resource:Default/PAY", True),
        ("resource:default/pay", True),
        ("default/pay", True),
        ("pay", True),
        ("component:pay", False),
        ("resource:other/pay", False),
        ("resource:pay-api", False),
        ("other/pay", False),
    ],
)
@pytest.mark.parametrize("field", ["dependsOn", "dependencyOf"])
def test_a_reference_in_any_spelling_is_shown(field: str, written: str, dangles: bool) -> None:
    head = "# c\n---\nkind: Component\nmetadata: {name: app}\nspec:\n"
    app = f"{head}  {field}:\n  - x\n  - {written}\n"
    found = retire({"a.yaml": app, "pay.yaml": ecr("pay")}).references
    assert [(each.line, each.entity, each.written) for each in found] == (
        [(8, "component:default/app", written)] if dangles else []
    )


def test_a_bare_name_means_the_kind_of_its_field_and_the_namespace_of_its_entity() -> None:
    pay = ecr("pay").replace("  name: pay\n", "  name: pay\n  namespace: Shop\n")
    app = (
        "kind: Component\nmetadata: {name: app, namespace: shop}\nspec:\n"
        "  dependsOn: [resource:pay, resource:default/pay]\n  subcomponentOf: pay\n"
    )
    other = app.replace("subcomponentOf: pay", "subcomponentOf: resource:pay")
    found = retire({"a.yaml": app, "b.yaml": other, "pay.yaml": pay}).references
    assert [(each.path, each.line, each.field) for each in found] == [
        ("a.yaml", 4, "dependsOn"),
        ("b.yaml", 4, "dependsOn"),
        ("b.yaml", 5, "subcomponentOf"),
    ]


def test_references_among_what_goes_or_to_what_another_file_declares_dangle_not() -> None:
    files = {
        "pay.yaml": ecr("pay") + "  dependsOn: [resource:search]\n",
        "search.yaml": ecr("search"),
        "db.yaml": ecr("pay", "database") + "  dependsOn: [resource:pay]\n",
    }
    assert retire(files).references == ()


# The mirror

REPOSITORIES: Final = reconcile(
    catalog(
        [
            entry("shop/pay", owner="team-shop"),
            entry("search", owner=None),
            entry("vanished"),
            entry("coming", status=Status.PENDING),
            entry("lingers", status=Status.DECOMMISSIONED),
            entry("a/b-c"),
            entry("a-b/c"),
        ]
    ),
    inventory(["shop/pay", "search", "stray", "lingers", "a/b-c", "a-b/c"]),
).repositories


REGISTRY: Final = RegistryView(REPOSITORIES, account_id=ACCOUNT, region=REGION)


def compared(text: str) -> Comparison:
    (entity,) = retire({"a.yaml": text}).entities
    return REGISTRY.compare(entity)


@pytest.mark.parametrize(
    ("name", "repository", "standing", "state"),
    [
        ("shop-pay", "shop/pay", Standing.GOVERNED, "live"),
        ("Shop-Pay", "shop/pay", Standing.GOVERNED, "live"),
        ("search", "search", Standing.GOVERNED, "live"),
        ("coming", "coming", Standing.GOVERNED, "pending"),
        ("lingers", "lingers", Standing.GOVERNED, "lingering"),
        ("vanished", "vanished", Standing.GONE, "ghost"),
        ("unheard-of", "unheard-of", Standing.GONE, None),
        ("stray", "stray", Standing.UNGOVERNED, "orphan"),
        ("a-b-c", "a-b-c", Standing.UNKNOWN, None),
    ],
)
def test_an_entity_stands_as_its_repository_does(
    name: str, repository: str, standing: Standing, state: str | None
) -> None:
    found = compared(ecr(name))
    assert (found.repository, found.standing, found.state) == (repository, standing, state)


@pytest.mark.parametrize(
    "named",
    [
        f"amazonaws.com/ecr-repository-arn: 'arn:aws:ecr:{REGION}:{ACCOUNT}:repository/shop/pay'",
        f"x.io/ecr-repository-uri: {ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/shop/pay:1.2@sha256:0f",
        "aws.amazon.com/ecr-repository: shop/pay",
        "ecr-repository-name: ' shop/pay '",
    ],
)
def test_an_annotation_names_the_repository(named: str) -> None:
    text = ecr("anything").replace("spec:", f"  annotations:\n    {named}\nspec:")
    found = compared(text)
    assert (found.repository, found.state) == ("shop/pay", "live")
    assert "annotations" not in found.lost


def test_a_field_of_spec_names_the_repository() -> None:
    found = compared(ecr("anything") + "  repositoryName: shop/pay\n")
    assert (found.repository, found.state) == ("shop/pay", "live")


def test_a_repository_of_another_registry_is_unknown_not_gone() -> None:
    found = compared(ecr("pay") + f"  uri: 999999999999.dkr.ecr.{REGION}.amazonaws.com/gone\n")
    assert found.standing is Standing.UNKNOWN
    assert "999999999999" in found.remark
    assert compared(ecr("r", "container-registry")).standing is Standing.UNKNOWN


def test_what_governance_lacks_would_be_lost() -> None:
    text = (
        "kind: Resource\nmetadata:\n  name: NAME\n  description: Images of it\n  tags: [a, b]\n"
        "  links: [{url: 'https://x'}]\n  annotations: {a/b: c, backstage.io/managed-by-x: y}\n"
        "spec: {type: ecr-repository, owner: 'group:default/team-shop', system: shop, risk: low}\n"
    )
    everything = {
        "owner": "group:default/team-shop",
        "description": "Images of it",
        "tags": ["a", "b"],
        "links": [{"url": "https://x"}],
        "annotations": {"a/b": "c"},
        "spec.system": "shop",
    }
    assert compared(text.replace("NAME", "stray")).lost == {**everything, "spec.risk": "low"}
    assert compared(text.replace("NAME", "search")).lost == everything
    del everything["owner"]
    assert compared(text.replace("NAME", "shop-pay")).lost == everything
