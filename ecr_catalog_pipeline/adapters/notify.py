"""Tells people and the outside: alerts through Apprise, and a ping for a dead-man's switch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import urllib3

from ecr_catalog_pipeline.core.alerts import Alert

ALERT_URLS_VARIABLE: Final = "ECR_CATALOG_ALERT_URLS"
PING_URL_VARIABLE: Final = "ECR_CATALOG_PING_URL"
PING_SECONDS: Final = 5

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
                title=alert.title, body=alert.body, notify_type=kind
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
