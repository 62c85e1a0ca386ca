"""What every publication target keeps, whatever it is: read, and compare-and-swap.

A module of tests for one target subclasses `PublisherContract` and gives it a `target` fixture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

import pytest

from ecr_catalog_pipeline.adapters.publisher import Lists, Provenance, Published, Publisher
from ecr_catalog_pipeline.core.entity import list_digest
from ecr_catalog_pipeline.core.errors import LostRace, StalePlan

PROVENANCE: Final = Provenance(
    mirror="goldenpath",
    summary="2 live (+2 ~0 -0), 6 pending, 3 ghosts, 0 orphans",
    source_sha="3f2c9d1e8b7a6f5c4d3e2b1a0f9e8d7c6b5a4f3e",
    plan_hash="0f" * 32,
    run_id="7d1b9a52-8a1f-4f5c-9a39-2f8a3f0f7b11",
)
ONE: Final = b"apiVersion: backstage.io/v1alpha1\nkind: Resource\n"
TWO: Final = b"apiVersion: backstage.io/v1alpha1\nkind: Resource\nspec: {}\n"
FOREIGN: Final = b"somebody: else\n"
LIST: Final = b'{"name": "ab", "uri": "x/ab"}\n{"name": "cd"}\n'
OTHER_LIST: Final = b'{"name": "ab", "uri": "x/ab"}\n'

NOTHING: Final = Published(None, None)


class Target(Protocol):
    """A real target, and what somebody else does there."""

    def publisher(self) -> Publisher:
        """Give a publisher as another process would make it."""

    def content(self) -> bytes | None:
        """Look at what stands there, past every publisher."""

    def write(self, content: bytes) -> None:
        """Let somebody else write it."""

    def remove(self) -> None:
        """Let somebody else remove it."""

    def lists(self) -> dict[str, bytes]:
        """Look at the full lists that are there, by their names."""

    def write_list(self, name: str, content: bytes | None) -> None:
        """Let somebody else write or remove one."""


def publish(publisher: Publisher, content: bytes) -> str:
    """Publish as a run does: on what was just read."""
    return publisher.publish(content, publisher.read().version, PROVENANCE)


def lost_race(publisher: Publisher, new: bytes, expected: str | None) -> LostRace:
    with pytest.raises(LostRace) as caught:
        publisher.publish(new, expected, PROVENANCE)
    assert caught.value.needs == "time"
    assert publisher.where in caught.value.problem
    return caught.value


class PublisherContract:
    def test_an_absent_target_reads_as_nothing(self, target: Target) -> None:
        assert target.publisher().read() == NOTHING
        assert target.content() is None

    def test_what_was_published_is_read_back(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)
        assert publisher.read() == Published(ONE, version)
        assert target.content() == ONE

    def test_another_process_reads_the_same_version(self, target: Target) -> None:
        version = publish(target.publisher(), ONE)
        assert target.publisher().read() == Published(ONE, version)

    def test_a_publisher_that_has_not_read_publishes_too(self, target: Target) -> None:
        version = target.publisher().publish(ONE, None, PROVENANCE)
        assert target.content() == ONE
        target.publisher().publish(TWO, version, PROVENANCE)
        assert target.content() == TWO

    def test_a_publication_replaces_the_one_before(self, target: Target) -> None:
        publisher = target.publisher()
        first = publish(publisher, ONE)
        second = publisher.publish(TWO, first, PROVENANCE)
        assert publisher.read() == Published(TWO, second)
        assert target.content() == TWO
        assert second != first

    @pytest.mark.parametrize(
        "content", [b"", b"no newline", b"\r\n\r\n", b"\x00\xff\xfe", "Gr\u00fc\u00dfe\n".encode()]
    )
    def test_every_byte_is_kept(self, target: Target, content: bytes) -> None:
        publisher = target.publisher()
        publish(publisher, content)
        assert target.content() == content
        assert publisher.read().content == content

    def test_what_somebody_else_wrote_is_read_and_can_be_replaced(self, target: Target) -> None:
        target.write(FOREIGN)
        publisher = target.publisher()
        found = publisher.read()
        assert found.content == FOREIGN
        publisher.publish(ONE, found.version, PROVENANCE)
        assert target.content() == ONE

    def test_a_change_in_between_is_a_lost_race_and_stays(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)
        target.write(FOREIGN)
        lost_race(publisher, TWO, version)
        assert target.content() == FOREIGN

    def test_a_change_between_read_and_publication_is_a_lost_race(self, target: Target) -> None:
        target.write(ONE)
        publisher = target.publisher()
        version = publisher.read().version
        target.write(FOREIGN)
        lost_race(publisher, TWO, version)
        assert target.content() == FOREIGN

    def test_what_appeared_in_between_is_a_lost_race_and_stays(self, target: Target) -> None:
        publisher = target.publisher()
        assert publisher.read() == NOTHING
        target.write(FOREIGN)
        lost_race(publisher, ONE, None)
        assert target.content() == FOREIGN

    def test_what_vanished_in_between_is_a_lost_race_and_stays_away(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)
        target.remove()
        lost_race(publisher, TWO, version)
        assert target.content() is None

    @pytest.mark.parametrize("first", [True, False])
    def test_what_has_become_too_late_is_not_written(self, target: Target, *, first: bool) -> None:
        publisher = target.publisher()
        version = None if first else publish(publisher, ONE)

        def too_late() -> None:
            raise StalePlan("the plan is too old", remediation="Plan again.")

        with pytest.raises(StalePlan):
            publisher.publish(TWO, version, replace(PROVENANCE, fence=too_late))
        assert target.content() == (None if first else ONE)
        publisher.publish(TWO, version, PROVENANCE)
        assert target.content() == TWO

    def test_after_a_lost_race_the_next_run_publishes(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)
        target.write(FOREIGN)
        lost_race(publisher, TWO, version)
        publish(publisher, TWO)
        assert target.content() == TWO

    def test_of_two_that_read_the_same_the_second_loses(self, target: Target) -> None:
        first, second = target.publisher(), target.publisher()
        versions = first.read().version, second.read().version
        first.publish(ONE, versions[0], PROVENANCE)
        lost_race(second, TWO, versions[1])
        assert target.content() == ONE

    def test_a_removal_is_read_as_nothing(self, target: Target) -> None:
        publisher = target.publisher()
        publish(publisher, ONE)
        target.remove()
        assert publisher.read() == NOTHING

    # Full lists beside the entity

    def test_a_list_is_read_back_by_its_digest(self, target: Target) -> None:
        publisher = target.publisher()
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        assert publisher.read() == Published(ONE, version)
        for each in (publisher, target.publisher()):
            each.read()
            assert each.read_list(list_digest(LIST)) == LIST
            assert each.read_list(list_digest(OTHER_LIST)) is None
        assert list(target.lists().values()) == [LIST]

    def test_an_absent_target_has_no_list(self, target: Target) -> None:
        publisher = target.publisher()
        assert publisher.read() == NOTHING
        assert publisher.read_list(list_digest(LIST)) is None

    def test_the_list_of_the_entity_before_goes(self, target: Target) -> None:
        publisher = target.publisher()
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        version = publisher.publish(
            TWO, version, PROVENANCE, Lists(OTHER_LIST, old=list_digest(LIST))
        )
        assert publisher.read() == Published(TWO, version)
        assert list(target.lists().values()) == [OTHER_LIST]
        publisher.publish(ONE, version, PROVENANCE, Lists(old=list_digest(OTHER_LIST)))
        assert target.lists() == {}
        assert target.content() == ONE

    def test_a_list_that_both_entities_point_to_stays(self, target: Target) -> None:
        publisher = target.publisher()
        version = publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        publisher.publish(TWO, version, PROVENANCE, Lists(LIST, old=list_digest(LIST)))
        assert target.content() == TWO
        assert list(target.lists().values()) == [LIST]

    @pytest.mark.parametrize("found", [b"something else\n", None])
    def test_a_list_that_somebody_changed_or_removed_is_put_right(
        self, target: Target, found: bytes | None
    ) -> None:
        publisher = target.publisher()
        publisher.publish(ONE, None, PROVENANCE, Lists(LIST))
        (name,) = target.lists()
        target.write_list(name, found)
        now = publisher.read()
        assert publisher.read_list(list_digest(LIST)) == found
        publisher.publish(TWO, now.version, PROVENANCE, Lists(LIST, old=list_digest(LIST)))
        assert target.lists() == {name: LIST}

    def test_an_old_list_that_is_gone_is_not_an_error(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)
        publisher.publish(TWO, version, PROVENANCE, Lists(LIST, old=list_digest(OTHER_LIST)))
        assert target.content() == TWO
        assert list(target.lists().values()) == [LIST]

    def test_after_a_lost_race_the_entity_and_its_list_stay(self, target: Target) -> None:
        first, second = target.publisher(), target.publisher()
        versions = first.read().version, second.read().version
        first.publish(ONE, versions[0], PROVENANCE, Lists(LIST))
        with pytest.raises(LostRace):
            second.publish(TWO, versions[1], PROVENANCE, Lists(OTHER_LIST))
        assert target.content() == ONE
        first.read()
        assert first.read_list(list_digest(LIST)) == LIST

    def test_what_has_become_too_late_writes_no_list(self, target: Target) -> None:
        publisher = target.publisher()
        version = publish(publisher, ONE)

        def too_late() -> None:
            raise StalePlan("the plan is too old", remediation="Plan again.")

        with pytest.raises(StalePlan):
            publisher.publish(TWO, version, replace(PROVENANCE, fence=too_late), Lists(LIST))
        assert target.content() == ONE
        assert target.lists() == {}
