"""What each receiver gets of an alert that quotes hostile text, as Apprise puts it on the wire."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from ecr_catalog_pipeline.adapters.notify import ALERT_URLS_VARIABLE, MAX_WORDS, Notifier, as_text
from ecr_catalog_pipeline.core.alerts import Alert, Condition, Signal
from tests.fakes.receivers import Receivers, receivers

HOSTILE: Final = (
    "<!channel> <!here|x> <@U123456> <#C1> <@&42> @everyone @here <at>jo</at> jo@evil.example "
    '<a href="https://evil.example">x</a> <img src=x onerror=alert(1)> [x](https://evil.example) '
    "[y](//evil.example) https://evil.example www.evil.example mailto:a@b.c ||hidden||``` *b* _i_ "
    "\x1b[2J\u202e\nKey: forged"
)
LINK: Final = "http://127.0.0.1:3000/assets/goldenpath"
NOON: Final = datetime(2026, 1, 9, 12, tzinfo=UTC)
ALERT: Final = Alert(
    "goldenpath",
    Condition(Signal.CHECK_FAILED, NOON, f"the key {HOSTILE} is none", f"Remove {HOSTILE}", LINK),
    None,
    f"from {HOSTILE}",
)
URLS: Final = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?verify=no",
    "slack blocks": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?verify=no&blocks=yes",
    "slack text": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?verify=no&format=text",
    "discord": f"discord://{'4' * 18}/{'t' * 68}/?verify=no",
    "discord markdown": f"discord://{'4' * 18}/{'t' * 68}/?verify=no&format=markdown",
    "teams": "workflows://prod.logic.azure.example/workflow/signature/?verify=no",
    "pagerduty": f"pagerduty://{'k' * 32}@{'a' * 20}/?verify=no",
}
# What a receiver would act on, or show as something else than text.
LIVE: Final = re.compile(
    r"<[!@#a-z/&]|@(everyone|here|channel|U\d|&)|\w@\w|\]\(|(?<!127)(https?|mailto):(?!//127)|"
    r"www\.|\|\||`{3}|[\x00-\x09\x0b-\x1f\u202e]",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    with receivers(tmp_path_factory.mktemp("receivers")) as arrived:
        yield arrived


@pytest.fixture(autouse=True)
def no_way_out(arrived: Receivers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, arrived.proxy_url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    arrived.posted.clear()
    arrived.mails.clear()


def strings(value: Any) -> Iterator[str]:
    """Every text of a payload, wherever it stands."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def assert_is_dead(text: str) -> None:
    for line in text.replace("\r\n", "\n").split("\n"):
        found = LIVE.search(line.replace(LINK, ""))
        assert not found, (found, line)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("receiver", URLS)
def test_nothing_that_an_alert_quotes_is_live_where_it_arrives(
    arrived: Receivers, receiver: str
) -> None:
    assert Notifier({ALERT_URLS_VARIABLE: URLS[receiver]}).send(ALERT)

    ((payload,),) = arrived.posted.values()
    shown = "\n".join(
        each for each in strings(payload) if "key" in each.lower() or "goldenpath" in each
    )
    assert "channel" in shown, json.dumps(payload)
    assert_is_dead(html.unescape(shown) if receiver.startswith("slack") else shown)
    assert "evil.example" in shown.replace("\\", ""), "what was quoted can still be read"
    assert not payload.get("allow_mentions")
    entities = [each for each in strings(payload) if each == "mention"]
    assert not entities


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("receiver", [each for each in URLS if each != "pagerduty"])
def test_the_link_into_the_ui_stays_one(arrived: Receivers, receiver: str) -> None:
    assert Notifier({ALERT_URLS_VARIABLE: URLS[receiver]}).send(ALERT)

    ((payload,),) = arrived.posted.values()
    assert any(LINK in each.replace("\\", "") for each in strings(payload))


@pytest.mark.parametrize("form", ["", "&format=text", "&format=html"])
def test_nothing_that_an_alert_quotes_is_live_in_a_mail(arrived: Receivers, form: str) -> None:
    url = f"mailto://127.0.0.1:{arrived.smtp_port}?from=a@example.com&to=b@example.com{form}"

    assert Notifier({ALERT_URLS_VARIABLE: url}).send(ALERT)

    (mail,) = arrived.mails
    assert mail["subject"] == "[goldenpath] check failed"
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    assert parts
    for part in parts:
        content = part.get_content()
        assert "evil.example" in content
        if part.get_content_subtype() == "html":
            tags = set(re.findall(r"<\s*/?\s*([a-z0-9]+)", content.lower()))
            assert tags <= {"html", "head", "body", "br", "p", "h1", "b", "strong", "title", "meta"}
            content = html.unescape(re.sub(r"<[^>]*>", "\n", content))
        assert_is_dead(content)
        assert LINK in content


def test_the_log_gets_the_same_text(caplog: pytest.LogCaptureFixture) -> None:
    assert Notifier({}).send(ALERT)
    (record,) = caplog.records
    assert_is_dead(record.getMessage())
    assert record.getMessage().count("\n") == ALERT.body.count("\n") - HOSTILE.count("\n") * 3 + 1


def test_a_cause_of_4000_characters_is_cut() -> None:
    condition = Condition(Signal.RUN_FAILED, NOON, "x" * 4_000, "y", LINK)
    assert len(as_text(Alert("goldenpath", condition, None, "none")).condition.cause) == MAX_WORDS
