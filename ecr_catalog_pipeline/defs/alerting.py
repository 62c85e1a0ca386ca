"""Sends the alerts that are due; what does not arrive stays due."""

import logging
from collections.abc import Mapping

from ecr_catalog_pipeline.adapters.notify import Notifier
from ecr_catalog_pipeline.core.alerts import Alert, Raised, Signal, delivered, due


def send_due(
    log: logging.Logger,
    notifier: Notifier,
    mirror: str,
    raised: Mapping[Signal, Raised],
    last_good: str,
) -> tuple[dict[Signal, Raised], list[Alert]]:
    """Send what is due of a mirror.

    Args:
        log: where it is said what does not arrive.

    Returns:
        The state of its signals after that, and the alerts that arrived.
    """
    after, sent = dict(raised), []
    for signal in due(raised):
        each = raised[signal]
        alert = Alert(mirror, each.condition, each.ended_at, last_good)
        if _arrives(log, notifier, alert):
            after = delivered(after, signal)
            sent.append(alert)
        else:
            log.error("alert not delivered, tried again at the next look: %s", alert.title)
    return after, sent


def _arrives(log: logging.Logger, notifier: Notifier, alert: Alert) -> bool:
    try:
        return notifier.send(alert)
    except Exception:  # an alert that cannot be sent must not stop the others
        log.exception("the alert was not sent")
        return False
