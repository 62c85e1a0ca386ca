"""The removal guard: which plans wait for approval.

A policy over what a plan removes; it knows neither where the plan comes from nor what happens to
it. A reason is a sentence for the person who has to approve.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ecr_catalog_pipeline.core.text import shortened

FEW_REMOVALS: Final = 3
"""From this many removals up, the percentage counts."""
NAMED: Final = 10
"""How many removals a reason names."""


@dataclass(frozen=True, slots=True)
class RemovalLimits:
    """How much a plan may remove without approval: a number, and a percentage of what is listed."""

    max_removals: int = 10
    max_removal_percent: float = 20.0


@dataclass(frozen=True, slots=True)
class Removals:
    """What a plan takes out of the published entity.

    Attributes:
        listed: how many live repositories are published now.
        removed: the names that the plan removes.
        unproved: those of them whose absence from AWS no look-up proved.
        uncounted: why removals cannot be counted; empty when they can.
        account: why another account may be answering than the one that was published; empty when
            none is.
    """

    listed: int
    removed: Collection[str]
    unproved: Collection[str] = ()
    uncounted: str = ""
    account: str = ""


def reasons_to_hold(removals: Removals, limits: RemovalLimits) -> tuple[str, ...]:
    """Say why the plan is held; empty when it may be published.

    The first reason that counts removals names the first of them.
    """
    count = len(removals.removed)
    reasons: list[str] = []
    if removals.uncounted:
        reasons.append(f"{removals.uncounted}, so what it would lose cannot be counted")
    if removals.account:
        reasons.append(removals.account)
    named = f": {_first_names(removals.removed)}"
    if count > limits.max_removals:
        reasons.append(f"{count} removals, more than max_removals ({limits.max_removals}){named}")
        named = ""
    # Compared as products, so that 20 % of 15 is 3 exactly.
    if count >= FEW_REMOVALS and count * 100 > removals.listed * limits.max_removal_percent:
        share, limit = round(100 * count / removals.listed), limits.max_removal_percent
        shown = f"{share} %" if share > limit else f"over {limit:g} %"
        reasons.append(
            f"{count} of {removals.listed} repositories ({shown}), "
            f"more than max_removal_percent ({limit:g} %){named}"
        )
        named = ""
    if count and count == removals.listed:
        reasons.append(f"nothing that is listed now would be left{named}")
    if removals.unproved:
        reasons.append(
            f"{len(removals.unproved)} removals that no look-up proved: "
            f"{_first_names(removals.unproved)}"
        )
    return tuple(reasons)


def _first_names(names: Collection[str]) -> str:
    more = len(names) - NAMED
    first = ", ".join(shortened(name, 60) for name in sorted(names)[:NAMED])
    return first + (f" and {more} more" if more > 0 else "")
