"""Whatever governance, the target, files and remote programs hold: a person reads it as text.

A terminal gets printable characters, line ends of ours, and the colours of ours. The same goes for
tables, descriptions, annotations, commit messages and errors.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ecr_catalog_pipeline import terminal
from ecr_catalog_pipeline.cli import cli, run
from ecr_catalog_pipeline.core.errors import CatalogError
from ecr_catalog_pipeline.core.findings import Finding, Severity
from ecr_catalog_pipeline.core.plan import Changes
from ecr_catalog_pipeline.core.reconcile import ReconciledRepository, State
from ecr_catalog_pipeline.core.text import inert, shortened, visible
from ecr_catalog_pipeline.defs import tables
from ecr_catalog_pipeline.sprawl.ad_hoc import AdHocEntity
from ecr_catalog_pipeline.sprawl.check import ad_hoc_table
from tests.integration.worlds import FileTarget, World, a_world

CLEARS: Final = "\x1b[2J\x1b[HPlan: 0 to add, 0 to update, 0 to remove."
NASTY: Final = (
    *(CLEARS, "\x1b[8m", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x07", "\b\b\b", "\x7f", "\r"),
    *("\n  Plan: 0 to remove", "\r\n", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\u200f"),
    *("\u061c", "\u200b", "\u200d", "\ufeff", "\u00ad", "\U000e0041", "\u3164", "\ufe0f", "\xa0"),
    *("::error::x", "::stop-commands::y", "##[add-matcher]z", "<!channel>", "@everyone", "a" * 300),
    *("\\x1b", "é", "日本", "😀", "'", '"', "%0A", "{}", "{{ x }}", "ecr"),
)
no_surrogates = st.characters(exclude_categories=["Cs"])
texts = st.lists(
    st.sampled_from(NASTY) | st.text(no_surrogates, max_size=6), min_size=1, max_size=4
).map("".join)

OURS: Final = re.compile(r"\x1b\[(?:0|1|31|32|33|36|90)m")
FEW: Final = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def assert_hides_nothing(shown: str) -> None:
    for line in shown.split("\n"):
        assert line.isprintable(), ascii(line)
        assert visible(line) == line, ascii(line)


def assert_is_text(shown: str) -> None:
    plain = OURS.sub("", shown)
    assert_hides_nothing(plain)
    for line in plain.split("\n"):
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line
    shown.encode()


def on_a_terminal(*arguments: str) -> tuple[object, str, str]:
    """Run a command of ours; give its exit code and what it printed on either stream."""
    out, err = Terminal(), io.StringIO()
    before = sys.argv
    sys.argv = ["ecr-catalog", *arguments]
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run(cli)
    finally:
        sys.argv = before
    assert "Traceback" not in err.getvalue()
    assert "defect of ours" not in err.getvalue(), err.getvalue()
    return ended.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(tmp_path, FileTarget(tmp_path)) as world:
        for name, value in world.environ(tmp_path / "user").items():
            monkeypatch.setenv(name, value)
        yield world


# Commands


@st.composite
def governance_files(draw: st.DrawFn) -> str:
    """Governance with hostile text wherever a user may write any."""
    fields = ("id", "owner", "risk", "environment", "status", "created_date", "requested_by", "odd")
    entries = {
        draw(st.just("team/app") | texts): {
            "metadata": {field: draw(texts) for field in fields},
            "aws": {"repository_url": draw(texts)},
            draw(texts): draw(texts),
        }
        for _ in range(3)
    }
    return json.dumps({"version": draw(texts), draw(texts): "x", "repositories": entries})


@pytest.mark.full
@pytest.mark.timeout(900)
@FEW
@given(governance=governance_files(), names=st.lists(texts, max_size=3), when=texts)
def test_a_plan_on_a_terminal_is_text_whatever_governance_and_the_target_hold(
    world: World, governance: str, names: list[str], when: str
) -> None:
    if world.content is None:
        world.have("team/app", "team/other")
        world.sync()
        shutil.copy(world.folder / "published" / "ecr-registry.yaml", world.folder / "good.yaml")
    entity = yaml.safe_load((world.folder / "good.yaml").read_bytes())
    entity["metadata"]["annotations"]["platform/last-sync"] = when
    lines = entity["spec"]["repositories"]
    lines[0] |= {"owner": when, "environment": when, "uri": when}
    lines.extend({"name": name, "owner": "x", "status": "active"} for name in names)
    world.target.overwrite(yaml.safe_dump(entity, allow_unicode=True).encode())
    world.commit(governance)

    code, out, err = on_a_terminal("plan", "-m", world.name)

    assert code in {1, 2, 3}, err
    assert_is_text(out)
    assert_is_text(err)
    _, out, err = on_a_terminal("plan", "-m", world.name, "--json")
    assert_hides_nothing(out + err)


def test_no_name_clears_the_screen_of_whoever_approves_removals(world: World) -> None:
    world.have("team/app", "team/other")
    world.sync()
    entity = world.entity
    doomed = [f"{CLEARS}{'x' * 200}{number}" for number in range(12)]
    entity["spec"]["repositories"] += [{"name": name, "owner": "x"} for name in doomed]
    world.target.overwrite(yaml.safe_dump(entity).encode())

    code, out, _ = on_a_terminal("plan", "-m", world.name)

    assert code == 3
    removed = [line for line in OURS.sub("", out).split("\n") if line.startswith("  - ")]
    assert sorted(removed) == sorted(f"  - {visible(name)}" for name in doomed)
    assert "\\x1b[2J\\x1b[H" in removed[0]
    assert "12 to remove" in out
    asked = json.loads(on_a_terminal("plan", "-m", world.name, "--json")[1])
    assert asked["changes"]["removed"] == sorted(doomed), "what a program reads is exact"


def test_a_wide_table_is_cut_and_what_changes_is_named_whole(world: World) -> None:
    twins = [f"team/{'x' * 200}{end}" for end in "ab"]
    world.have(*twins)
    world.govern("ghost", owner="o" * 4_000, environment="e" * 4_000)

    code, out, _ = on_a_terminal("plan", "-m", world.name)

    assert code == 2
    lines = OURS.sub("", out).split("\n")
    assert [line for line in lines if line.startswith("  + ")] == [f"  + {name}" for name in twins]
    assert max(len(line) for line in lines if not line.startswith("  + ")) < 1_200
    table = [line for line in lines if re.match("  (live|ghost) ", line)]
    assert len(table) == 3
    assert max(map(len, table)) < 200


def test_two_values_that_differ_where_they_are_cut_are_shown_whole(world: World) -> None:
    world.have("team/app")
    world.govern("team/app", owner="o" * 150 + "1")
    world.sync()
    world.govern("team/app", owner="o" * 150 + "2")

    _, out, _ = on_a_terminal("plan", "-m", world.name)

    assert f"{'o' * 150}1 -> {'o' * 150}2" in out


AD_HOC: Final = "kind: Resource\nmetadata: {{name: {0}, namespace: {0}, title: {0}}}\nspec: {1}\n"
files = st.binary(min_size=1, max_size=12).map(
    lambda name: re.sub(rb"[/\x00]", b"_", name) + b".yaml"
) | st.sampled_from(
    [
        *(b"\x1b[2J.yaml", b"\xff.yaml", "\u202elmay.yaml".encode(), b"a\nb.yaml", b"%0A.yaml"),
        *(b"::error::x.yaml", b"##[group]x.yaml", "\u2028.yaml".encode(), b"\r.yaml", b"-rf.yaml"),
    ]
)


@pytest.mark.parametrize("form", [("guard",), ("guard", "--format", "github"), ("retire",)])
@FEW
@given(names=st.sets(files, min_size=1, max_size=4), text=texts)
def test_guard_and_retire_show_text_whatever_files_are_called_and_hold(
    tmp_path: Path, form: tuple[str, ...], names: set[bytes], text: str
) -> None:
    folder = tmp_path / "catalog"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    spec = {"type": "ecr-repository", "owner": text, "dependsOn": [text], text: text}
    for place, name in enumerate(sorted(names)):
        content = AD_HOC.format(json.dumps(text), json.dumps(spec))
        content += "---\nkind: Location\nmetadata: {name: x}\n"
        content += f"spec: {json.dumps({'targets': [text, './x.yaml']})}\n"
        content += f"---\n{{{{ {text}\n" if place % 2 else ""
        path = os.fsencode(folder) + b"/" + name
        Path(os.fsdecode(path)).write_bytes(content.encode())

    with contextlib.chdir(folder):
        code, out, err = on_a_terminal(*form, ".")
        _, in_json, _ = on_a_terminal("retire", ".", "--json")

    assert code in {0, 1, 2}, err
    if form[-1] == "github":
        for line in filter(None, out.split("\n")):
            assert re.match("::(error|warning) file=", line)
            assert line.isprintable()
    else:
        assert_is_text(out)
    assert_is_text(err)
    assert_hides_nothing(in_json)
    found = {os.fsencode(each["file"]) for each in json.loads(in_json)["entities"]}
    assert found <= names, "what a program reads is exact"


@FEW
@given(name=files, key=texts)
def test_an_error_about_a_mirror_file_is_text(tmp_path: Path, name: bytes, key: str) -> None:
    folder = tmp_path / "mirrors"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    content = json.dumps({"name": key, key: key, "governance": {"repository": key}})
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(content)
    (folder / "evil.yaml").write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECR_CATALOG_MIRRORS", str(folder))
        for arguments in (("plan", "-m", "evil"), ("plan", "-m", key), ("guard", str(folder))):
            _, out, err = on_a_terminal(*arguments)
            assert_is_text(out)
            assert_is_text(err)


@pytest.mark.parametrize("text", ["--\x1b[2J", "\x1b[2J", "--format=\x1b[2J", "x\n\x1b]0;y\x07"])
def test_what_is_wrong_with_arguments_is_text(text: str) -> None:
    code, out, err = on_a_terminal("guard", text)
    assert code in {1, 2}
    assert out == ""
    assert_is_text(err)


def test_a_locale_that_lacks_a_character_shows_it_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "日本.yaml").write_text(AD_HOC.format("é", "{type: ecr-repository}"))
    monkeypatch.chdir(tmp_path)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    monkeypatch.setattr(sys, "argv", ["ecr-catalog", "guard", "."])
    with pytest.raises(SystemExit):
        run(cli)
    sys.stdout.flush()
    assert printed.getvalue() == (
        b"\\u65e5\\u672c.yaml:1: ad-hoc ECR entity \xe9 (ecr-repository)\n"
    )


# What is underneath


@given(st.text() | texts)
def test_a_visible_text_is_one_line_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert len(shortened(text, 20)) <= 20
    shown.encode()


@given(st.text() | texts)
def test_json_that_is_printed_is_exact_and_printable(text: str) -> None:
    out = Terminal()
    with contextlib.redirect_stdout(out):
        terminal.echo_json({text: [text]})
    assert json.loads(out.getvalue()) == {text: [text]}
    assert_hides_nothing(out.getvalue())


@example([(False, ":"), (True, ":")])
@example([(True, "#"), (False, "#[")])
@given(st.lists(st.tuples(st.booleans(), texts), max_size=4))
def test_no_text_imitates_our_colours(parts: list[tuple[bool, str]]) -> None:
    line = "".join(
        terminal.style(text, fg="red", bold=True) if styled else text for styled, text in parts
    )
    out = Terminal()
    with contextlib.redirect_stdout(out):
        terminal.echo(f"{line}\x1b[31mx")
    assert_is_text(out.getvalue())
    assert out.getvalue().count("\x1b") == 3 * sum(styled for styled, _ in parts)
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://evil.example/x", "see https[:]//evil.example/x"),
        ("www.evil.example", "www[.]evil.example"),
        ("mailto:jo@evil.example", "mailto[:]jo\uff20evil.example"),
        ("[x](//evil.example)", "[x] (//evil.example)"),
        ("<https://evil.example>", "\u2039https[:]//evil.example\u203a"),
        ("<!channel> @everyone <@U1>", "\u2039!channel\u203a \uff20everyone \u2039\uff20U1\u203a"),
        ("1.dkr.ecr.eu-west-2.amazonaws.com/a", "1.dkr.ecr.eu-west-2.amazonaws.com/a"),
    ],
)
def test_links_and_mentions_are_broken_so_that_it_can_be_seen(text: str, shown: str) -> None:
    assert inert(text) == shown
    assert inert(shown) == shown


@given(texts)
def test_an_error_is_text_wherever_it_ends_up(text: str) -> None:
    error = CatalogError(text, remediation=text)
    for shown in (str(error), error.problem, error.remediation, str(error.args)):
        assert visible(shown) == shown


# The Dagster UI


def cells(table: Any) -> list[str]:
    return [str(cell) for record in table.records for cell in record.data.values()]


@given(texts)
def test_no_table_of_the_ui_hides_anything_or_links(text: str) -> None:
    row = ReconciledRepository(text, State.GHOST, owner=text, environment=text, uri=text)
    finding = Finding(text, "rule", Severity.ERROR, f"https://{text}", f"<a href={text}>")
    shown = [
        *cells(tables.repositories([row])),
        *cells(tables.findings([finding])),
        *cells(tables.changes(Changes(removed=(text,)))),
        *cells(ad_hoc_table([(text, AdHocEntity(1, 1, text, "ecr-repository"))])),
        tables.words(text),
    ]
    for each in shown:
        assert visible(each) == each
        assert inert(each) == each
        assert len(each) < 2_000
    diff = tables.diff(Changes(removed=(text,))).md_str
    assert diff is not None
    assert len(diff.split("\n")) == 3


def test_a_text_of_4000_characters_leaves_the_tables_readable() -> None:
    long = "x" * 4_000
    row = ReconciledRepository(long, State.GHOST, owner=long)
    finding = Finding(long, "rule", Severity.ERROR, long, long)
    shown = [*cells(tables.repositories([row])), *cells(tables.findings([finding]))]
    assert max(map(len, shown)) == tables.MAX_CELL
    assert len(tables.words(long)) == tables.MAX_WORDS


def test_removals_that_differ_in_their_end_differ_in_the_ui() -> None:
    twins = tuple("x" * 300 + end for end in "ab")
    assert {*cells(tables.changes(Changes(removed=twins)))} == {"removed", *twins}


def test_the_helpers_of_this_file_see_a_raw_escape() -> None:
    for raw in ("\x1b[2J", "\u202e", "a\rb", "::error::x"):
        with pytest.raises(AssertionError):
            assert_is_text(raw)
