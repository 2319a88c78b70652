"""The contract of every ledger's marker store, as `honeycomb/placing.py` relies on it."""

from __future__ import annotations

import pytest

from bk_pipeline.contracts import PlacedMarker

HERE, THERE = "markers:host/team/here", "markers:host/team/there"
DAY, OTHER_DAY = "2026-11-19", "2026-11-18"
PARTS = {"part-1", "part-2"}


@pytest.fixture
def store(ledger):
    return ledger.markers


def placed(**fields):
    row = PlacedMarker("deploys", "ci", b"1" * 16, b"2" * 8, DAY, "d1c84ec0", b"3" * 8)
    return row._replace(**fields)


def test_markers_are_stored_by_place_and_day_and_can_be_forgotten(store, reopen):
    today, yesterday = placed(), placed(day=OTHER_DAY, span_id=b"4" * 8, marker_id="other")
    store.remember(HERE, today)
    store.remember(HERE, yesterday)
    store.remember(THERE, today)

    other = reopen().markers
    assert other.placed(HERE) == [yesterday, today]
    assert other.placed(HERE, day=DAY) == [today]
    other.forget(HERE, today)
    assert store.placed(HERE) == [yesterday]
    assert store.placed(THERE) == [today]
    store.forget(HERE, today)


def test_marker_replaces_another_of_the_same_rule_dataset_and_span(store):
    rows = [placed(), placed(rule="failed"), placed(dataset="__all__"), placed(trace_id=b"9" * 16)]
    for row in rows:
        store.remember(HERE, row)

    store.remember(HERE, placed(marker_id="new", digest=b"4" * 8))

    found = {(one.rule, one.dataset, one.trace_id): one.marker_id for one in store.placed(HERE)}
    assert len(found) == 4
    assert found["deploys", "ci", b"1" * 16] == "new"


def test_checked_parts_are_recorded_per_rules(store, reopen):
    store.mark_parts_checked(HERE, DAY, PARTS, "rules-1")
    store.mark_parts_checked(HERE, DAY, {"part-2", "part-3"}, "rules-1")
    store.mark_parts_checked(HERE, OTHER_DAY, {"part-9"}, "rules-1")
    store.mark_parts_checked(HERE, OTHER_DAY, (), "rules-1")

    other = reopen().markers
    assert other.checked_parts(HERE, DAY, "rules-1") == {*PARTS, "part-3"}
    assert other.checked_parts(HERE, DAY, "rules-2") == set()
    assert other.checked_parts(THERE, DAY, "rules-1") == set()
    other.mark_parts_checked(HERE, DAY, {"part-1"}, "rules-2")
    assert store.checked_parts(HERE, DAY, "rules-1") == set()
    assert store.checked_parts(HERE, OTHER_DAY, "rules-1") == {"part-9"}
