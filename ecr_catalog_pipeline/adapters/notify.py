"""Reports to people and the outside: alerts through Apprise, and a ping for a dead-man's switch."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import urllib3

from ecr_catalog_pipeline.core.alerts import Alert
from ecr_catalog_pipeline.core.text import inert, shortened, visible

ALERT_URLS_VARIABLE: Final = "ECR_CATALOG_ALERT_URLS"
PING_URL_VARIABLE: Final = "ECR_CATALOG_PING_URL"
PING_SECONDS: Final = 5
MAX_WORDS: Final = 1_000
"""How much of a cause goes out; the log and the Dagster UI have more."""

# Spoilers and code blocks: two of them in different lines would hide what is between.
_HIDING: Final = re.compile(r"(?<=\|)(?=\|)|(?<=`)(?=`)")

logger = logging.getLogger(__name__)


class Notifier:
    """Sends alerts to the Apprise URLs of ECR_CATALOG_ALERT_URLS, separated by white space.

    The variable is read at each call; its URLs hold secrets and are never logged.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    @property
    def is_heard(self) -> bool:
        """Whether any URL is configured."""
        return bool(self._environ.get(ALERT_URLS_VARIABLE, "").split())

    def send(self, alert: Alert) -> bool:
        """Send an alert to every receiver; False when none of them took it.

        One receiver that is down is logged, and makes the others hear nothing again. Without a URL
        the log is the only receiver.
        """
        alert = as_text(alert)
        logger.warning("%s\n%s", alert.title, alert.body)
        if not self.is_heard:
            return True
        # What Apprise says of a URL that it does not like holds the URL's token.
        logging.getLogger("apprise").disabled = True
        import apprise  # noqa: PLC0415 - takes a second, and only an alert needs it

        kind = apprise.NotifyType.SUCCESS if alert.ended_at else apprise.NotifyType.FAILURE
        taken = []
        for place, url in enumerate(self._environ[ALERT_URLS_VARIABLE].split(), 1):
            receiver = apprise.Apprise()
            sent = receiver.add(url) and receiver.notify(
                title=alert.title,
                body=alert.body,
                body_format=apprise.NotifyFormat.TEXT,
                notify_type=kind,
            )
            if not sent:
                logger.error("URL %s of %s did not take %s", place, ALERT_URLS_VARIABLE, alert.key)
            taken.append(bool(sent))
        return any(taken)

    def ping(self) -> bool:
        """Fetch ECR_CATALOG_PING_URL, if there is one; False when that failed."""
        url = self._environ.get(PING_URL_VARIABLE, "")
        if not url:
            return True
        try:
            answer = urllib3.request("GET", url, timeout=PING_SECONDS, retries=False)
        except urllib3.exceptions.HTTPError as error:
            logger.warning("%s was not reached: %s", PING_URL_VARIABLE, type(error).__name__)
            return False
        return answer.status < 400


def as_text(alert: Alert) -> Alert:
    """Take all life out of what an alert quotes; the link into the UI is ours and stays one.

    Apprise escapes markup where a receiver has a way to, and for some it has none: Discord reads
    mentions and markup in any text.
    """
    condition = replace(
        alert.condition,
        cause=_quoted(alert.condition.cause),
        remediation=_quoted(alert.condition.remediation),
        link=visible(alert.condition.link),
    )
    return replace(alert, condition=condition, last_good=_quoted(alert.last_good))


def _quoted(text: str) -> str:
    return inert(_HIDING.sub(" ", shortened(text, MAX_WORDS)))
