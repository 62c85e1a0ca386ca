"""What a mirror published last, as its history keeps it for later runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_REMOVALS: Final = {
    "git": "Remove it there with `git rm` and a push",
    "s3": "Remove it there with `aws s3 rm`",
    "file": "Remove it there with `rm`",
}


@dataclass(frozen=True, slots=True)
class LastPublication:
    """The last publication of a mirror that its history knows.

    Attributes:
        digest: of its content.
        live: how many live repositories it lists; None when unknown.
        last_sync: when its content changed, as the entity says; None when unknown.
        kind: of its target: git, s3 or file; empty when unknown.
        target: where it went, in words; empty when unknown.
        entity: what was published, such as `resource:default/goldenpath-ecr-registry`; empty when
            unknown.
        account_id: the AWS account that it mirrors; empty when unknown.
    """

    digest: str
    live: int | None = None
    last_sync: str | None = None
    kind: str = ""
    target: str = ""
    entity: str = ""
    account_id: str = ""

    def is_of(self, entity: str) -> bool:
        """Whether it published that entity; where it does not say which, it did."""
        return not self.entity or self.entity.lower() == entity.lower()

    def in_words(self, where: str) -> str:
        """Say how much was published, where and when, for a reader who looks at `where`."""
        count = "an entity was" if self.live is None else f"{self.live} repositories were"
        place = f"at {self.target}" if self.target and self.target != where else "there"
        return f"{count} published {place}, content of {self.last_sync or 'an unknown time'}"


def left_behind(last: LastPublication | None, where: str, entity: str) -> str:
    """Say what a mirror leaves behind that publishes elsewhere now, and how to remove it.

    Args:
        where: the target now, in words.
        entity: the reference of the entity now.

    Returns:
        Sentences; none when it leaves nothing behind.
    """
    if last is None or not last.target:
        return ""
    if last.target != where:
        remove = _REMOVALS.get(last.kind, "Remove it there")
        stays = f"the last publication went to {last.target}, and that file stays. {remove}: until "
        if last.is_of(entity):
            return f"{stays}then Backstage may go on serving it in place of the new one."
        return f"{stays}then Backstage goes on serving {last.entity}."
    if not last.is_of(entity):
        return (
            f"the last publication was {last.entity}, which {where} no longer holds. Backstage "
            "drops it as an orphan; where its orphan strategy keeps it, delete it in Backstage."
        )
    return ""
