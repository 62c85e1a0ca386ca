"""Describes the last known good: the published entity, which no failure changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ecr_catalog_pipeline.core.entity import PublishedEntity


def last_good_in_words(published: PublishedEntity | None, now: datetime) -> str:
    """Say what is published and how old its content is.

    Args:
        published: None when nothing is.
    """
    if published is None:
        return "nothing is published yet"
    if published.damaged:
        return "a damaged file, of unknown age"
    live, pending = len(published.repositories), len(published.pending)
    return f"{live} live and {pending} pending, content of {_moment(published.last_sync, now)}"


def age_in_words(age: timedelta) -> str:
    """An age in its two largest units; less than a second is none."""
    seconds = max(0, int(age.total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def _moment(last_sync: str | None, now: datetime) -> str:
    try:
        at = datetime.fromisoformat(last_sync or "")
        at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return "an unknown time"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC, {age_in_words(now - at)} ago"
