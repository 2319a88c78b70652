"""A ledger that is gone, another one, or an older copy: nothing is sent twice without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select

from bk_pipeline.clock import SystemClock
from bk_pipeline.defs.partitions import day_of
from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.errors import LedgerBehind, ServiceUnavailable, StorageError, TokenRefused
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.ledger.tables import delivered_parts, metadata, outcomes
from bk_pipeline.pipeline import adopt_day, deliver_day, extract_day, transform_day
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.folder import Folder
from bk_pipeline_tests.conftest import FakeClock
from bk_pipeline_tests.contract.ledgers import LEDGERS
from bk_pipeline_tests.deliver.destinations import DOWN, ScriptedDestination
from bk_pipeline_tests.killed_delivery import DIED
from bk_pipeline_tests.test_pipeline import finish_one_more
from bk_pipeline_tests.worlds import PRESENT, stage

KILLED_DELIVERY = Path(__file__).with_name("killed_delivery.py")
ONCE = RetryPolicy(deadline_s=0)
OFFLINE = {"BK_PIPELINE_HTTP_DEADLINE_S": "0"}


class Deliveries:
    """Deliveries of a day from one data directory, with whichever ledger."""

    def __init__(self, scene, new_ledger) -> None:
        self.scene = scene
        self.new_ledger = new_ledger
        self.services = scene.services
        self.honeycomb = scene.sandbox.honeycomb
        [self.day] = scene.days
        [found] = self.services.destinations()
        self.destination = found.open(scene.clock)

    def extract(self, privacy=None):
        day, raw = day_of(self.day, self.services.settings), self.services.raw()
        with self.services.buildkite(on_wait=lambda _: None) as client:
            extract_day(day, client=client, raw=raw, clock=self.scene.clock)
        transform_day(
            self.day,
            raw=raw,
            spans=self.services.spans(),
            privacy=privacy or Privacy(),
            options=self.services.span_options(),
            clock=self.scene.clock,
        )

    def another_build(self, number=9_000_001):
        finish_one_more(self.scene, number)
        self.extract()

    def deliver(self, ledger, *, destination=None, **options):
        return deliver_day(
            self.day,
            spans=self.services.spans(),
            destination=destination or self.destination,
            ledger=ledger,
            clock=self.scene.clock,
            **options,
        )

    def adopt(self, ledger, *, destination=None, **options):
        return adopt_day(
            self.day,
            spans=self.services.spans(),
            destination=destination or self.destination,
            ledger=ledger,
            **options,
        )

    def assert_all_sent_once(self):
        spans = [event for event in self.honeycomb.events if "trace.span_id" in event.data]
        stored = self.services.spans()
        assert self.honeycomb.duplicate_count == 0
        assert len(spans) == sum(
            len(table) for table in stored.newest(self.day, columns=("trace_id", "span_id"))
        )

    def assert_refused(self, ledger):
        before = self.honeycomb.event_count
        with pytest.raises(LedgerBehind) as refused:
            self.deliver(ledger)
        assert self.honeycomb.event_count == before
        words = str(refused.value)
        assert "bk-pipeline ledger adopt" in words
        assert "--resend" in words
        return words


@pytest.fixture(params=LEDGERS.values(), ids=LEDGERS)
def new_ledger(request, tmp_path):
    """Makes a ledger that nobody has delivered with, each time."""
    with ExitStack() as opened:

        def new_ledger():
            folder = tmp_path / f"ledger-{len(list(tmp_path.glob('ledger-*')))}"
            folder.mkdir()
            where = opened.enter_context(request.param(folder))
            return opened.enter_context(Ledger.open(where, clock=SystemClock()))

        yield new_ledger


@pytest.fixture
def it(tmp_path, new_ledger):
    with stage(tmp_path / "data", builds_per_day=8, **OFFLINE) as scene:
        made = Deliveries(scene, new_ledger)
        made.extract()
        yield made


def backup(ledger) -> dict:
    """All rows of a ledger."""
    with ledger._database.read() as connection:
        return {
            table: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in metadata.sorted_tables
        }


def restore(ledger, rows) -> None:
    with ledger._database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(delete(table))
        for table in metadata.sorted_tables:
            if rows[table]:
                connection.execute(insert(table), rows[table])


def test_a_ledger_that_is_gone_stops_the_delivery_with_two_ways_on(it):
    first = it.deliver(it.new_ledger())
    assert first.accepted > 0

    assert "another ledger" in it.assert_refused(it.new_ledger())


def test_the_ledger_that_delivered_goes_on(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    it.another_build()

    assert it.deliver(ledger).accepted > 0
    it.assert_all_sent_once()


def test_what_is_adopted_is_not_sent_and_what_is_new_is(it):
    it.deliver(it.new_ledger())
    it.another_build()
    fresh = it.new_ledger()

    assert it.adopt(fresh) == it.honeycomb.event_count
    assert it.adopt(fresh) is None
    assert it.deliver(fresh).accepted > 0
    assert it.deliver(fresh).batches == 0
    it.assert_all_sent_once()


def test_adopted_spans_are_known_when_their_build_is_made_anew(it):
    """By another recipe, or because it went on: the parts are new, the spans are not."""
    it.deliver(it.new_ledger())
    it.extract(Privacy(drop=("*.email",)))
    fresh = it.new_ledger()

    it.adopt(fresh)
    it.deliver(fresh)

    it.assert_all_sent_once()


@pytest.fixture
def settled(tmp_path):
    """A data directory whose builds are exported a day after they have finished."""
    clock = FakeClock(PRESENT)
    options = {"BK_PIPELINE_SPANS_EXPORT": "settled", **OFFLINE}
    with (
        stage(tmp_path / "data", builds_per_day=8, clock=clock, **options) as scene,
        ExitStack() as opened,
    ):
        ledgers = iter(
            opened.enter_context(Ledger.open(tmp_path / f"{n}.sqlite", clock=SystemClock()))
            for n in range(9)
        )
        yield Deliveries(scene, lambda: next(ledgers))


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_builds_that_were_held_back_are_sent_after_an_adoption(settled, times):
    """They settle, so that the delivered part is made anew with them in it; then it is adopted."""
    it = settled
    finish_one_more(it.scene, 9_000_001)
    it.extract()
    sent = it.deliver(it.new_ledger()).accepted
    spans = it.services.spans()
    assert spans.summary(it.day, *spans.parts(it.day)).held_back > 0
    it.scene.clock.moment += timedelta(hours=30)
    it.extract()
    for _ in range(times):
        fresh = it.new_ledger()
        assert it.adopt(fresh) == sent

    assert it.deliver(fresh).accepted > 0
    assert it.deliver(fresh).batches == 0
    it.assert_all_sent_once()


def test_builds_that_were_merged_with_delivered_ones_are_sent_after_an_adoption(it):
    """Whether or not the files of the delivered parts are still there."""
    ledger = it.new_ledger()
    sent = it.deliver(ledger).accepted
    it.another_build(9_000_001)
    sent += it.deliver(ledger).accepted
    it.another_build(9_000_002)
    raw = it.services.raw()
    parts = raw.parts(it.day)
    tables = (table for part in parts for table in raw.tables(it.day, part))
    raw.merge(it.day, parts, tables, now=it.scene.clock.now())
    raw.sweep(it.day, before=it.scene.clock.now() + timedelta(hours=2))
    transform_day(it.day, raw=raw, spans=it.services.spans())
    assert len(it.services.spans().present(it.day)) == 1
    fresh = it.new_ledger()

    assert it.adopt(fresh) == sent
    assert it.deliver(fresh).accepted > 0
    it.assert_all_sent_once()


def test_what_a_new_recipe_adds_to_a_delivered_build_is_sent_after_an_adoption(it):
    sent = it.deliver(it.new_ledger()).accepted
    spans = it.services.spans()
    transform_day(it.day, raw=it.services.raw(), spans=spans, options=SpanOptions(waits=True))
    fresh = it.new_ledger()

    assert it.adopt(fresh) == sent
    assert it.deliver(fresh).accepted > 0
    it.assert_all_sent_once()


def test_resend_sends_again_and_then_the_ledger_knows(it):
    sent = it.deliver(it.new_ledger()).accepted
    fresh = it.new_ledger()

    assert it.deliver(fresh, resend=True).accepted == sent
    assert it.honeycomb.duplicate_count > 0
    assert it.deliver(fresh).batches == 0
    it.another_build()
    assert 0 < it.deliver(fresh).accepted < sent


def test_an_older_copy_of_the_ledger_stops_the_delivery(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    old = backup(ledger)
    it.another_build()
    it.deliver(ledger)
    restore(ledger, old)

    assert "older copy" in it.assert_refused(ledger)
    it.adopt(ledger)
    assert it.deliver(ledger).batches == 0
    it.assert_all_sent_once()


def test_a_backup_made_in_the_midst_of_a_delivery_is_an_older_copy(it):
    ledger = it.new_ledger()
    copies = []
    it.destination.limits = replace(it.destination.limits, batch_items=20)
    policy = DeliveryPolicy(in_flight=1)
    it.deliver(ledger, policy=policy, progress=lambda _: copies.append(backup(ledger)))
    assert len(copies) > 2
    restore(ledger, copies[1])

    it.assert_refused(ledger)


@pytest.mark.parametrize("lost", ["half", "all"])
def test_rows_of_a_day_that_are_missing_stop_the_delivery(it, lost):
    ledger = it.new_ledger()
    it.deliver(ledger)
    with ledger._database.write() as connection:
        connection.execute(delete(delivered_parts))
        traces = connection.execute(select(outcomes.c.trace_id)).scalars().all()
        gone = traces if lost == "all" else traces[::2]
        connection.execute(delete(outcomes).where(outcomes.c.trace_id.in_(gone)))

    assert "missing" in it.assert_refused(ledger)
    it.adopt(ledger)
    assert it.deliver(ledger).batches == 0
    it.assert_all_sent_once()


def test_a_new_destination_over_old_spans_gets_all_of_them(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    other = ScriptedDestination()

    it.deliver(ledger, destination=other)
    it.deliver(it.new_ledger(), destination=ScriptedDestination())

    assert len(other.stored) > 0


def test_a_data_directory_that_is_gone_with_the_ledger_kept_sends_nothing_again(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    shutil.rmtree(it.services.settings.storage)
    it.extract()

    it.deliver(ledger)
    it.assert_all_sent_once()


def test_what_a_person_took_out_of_the_ledger_is_no_loss(it):
    ledger = it.new_ledger()
    it.scene.sandbox.faults.inject("honeycomb", "event_status", status=400, indexes=[0, 1])
    it.deliver(ledger)
    name = it.destination.name

    assert ledger.requeue(name) == 2
    assert it.deliver(ledger).accepted == 2
    sent = it.honeycomb.event_count
    assert ledger.forget(name) == sent
    assert it.deliver(ledger).accepted == sent


def test_two_ledgers_that_deliver_one_data_directory_to_one_place_are_noticed(it):
    first, second = it.new_ledger(), it.new_ledger()
    it.deliver(first)
    it.adopt(second)
    it.another_build()
    it.deliver(second)

    it.assert_refused(first)
    it.adopt(first)
    it.another_build(9_000_002)
    it.deliver(first)
    it.assert_refused(second)
    it.assert_all_sent_once()


# Not in PostgreSQL: ledgers of one database share the delivery lock, so one waits for the other.
@pytest.mark.parametrize("new_ledger", [LEDGERS["sqlite"]], ids=["sqlite"], indirect=True)
def test_another_ledger_that_begins_at_the_same_moment_is_noticed(it, monkeypatch):
    first, second = it.new_ledger(), it.new_ledger()
    real = Ledger.raise_delivery_count

    def overtaken(self, *arguments):
        monkeypatch.setattr(Ledger, "raise_delivery_count", real)
        it.deliver(second)
        return real(self, *arguments)

    monkeypatch.setattr(Ledger, "raise_delivery_count", overtaken)

    with pytest.raises(LedgerBehind):
        it.deliver(first)
    it.assert_all_sent_once()
    assert it.deliver(second).batches == 0


@pytest.mark.parametrize("error", [DOWN, TokenRefused("401")], ids=["away", "refused"])
def test_a_delivery_of_which_nothing_left_does_not_bind_to_its_ledger(it, error):
    destination = ScriptedDestination(*[error] * 20)
    destination.retry = ONCE
    with pytest.raises(type(error)):
        it.deliver(it.new_ledger(), destination=destination)
    destination.replies.clear()

    assert it.deliver(it.new_ledger(), destination=destination).accepted > 0


@pytest.mark.parametrize("guarantee", Guarantee)
def test_a_part_that_broke_off_is_adopted_as_the_guarantee_has_it(it, guarantee):
    destination = ScriptedDestination(items=20)
    destination.retry = ONCE
    lost = destination.accept_and_raise(ServiceUnavailable("the connection broke"))
    destination.replies = [destination.accept, *[lost] * 9]
    policy = DeliveryPolicy(guarantee, in_flight=1)
    with pytest.raises(ServiceUnavailable):
        it.deliver(it.new_ledger(), destination=destination, policy=policy)
    before = len(destination.stored)
    destination.replies = []
    fresh = it.new_ledger()

    with pytest.raises(LedgerBehind):
        it.deliver(fresh, destination=destination, policy=policy)
    adopted = it.adopt(fresh, destination=destination, guarantee=guarantee)
    it.deliver(fresh, destination=destination, policy=policy)

    spans = {item.key for item in destination.stored}
    if guarantee is Guarantee.AT_MOST_ONCE:
        assert adopted > 0
        assert len(destination.stored) == before
    else:
        assert adopted == 0
        assert len(spans) == sum(
            len(table) for table in it.services.spans().newest(it.day, columns=("trace_id",))
        )


def as_of_version_0_1(it, ledger=None):
    """Take away what that version did not write."""
    shutil.rmtree(Path(it.services.settings.storage) / "deliveries")
    if ledger is None:
        return
    rows = backup(ledger)
    for table in rows:
        if table.name == "bk_pipeline_deliveries":
            rows[table] = []
        if table.name == "bk_pipeline_ledger_identity":
            rows[table] = [row | {"predates_records": True} for row in rows[table]]
    restore(ledger, rows)
    ledger.__dict__.pop("_identity", None)


def test_an_installation_without_records_goes_on_as_if_nothing_were(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    as_of_version_0_1(it, ledger)
    it.extract(Privacy(drop=("*.email",)))
    it.another_build()

    it.deliver(ledger)
    other = ScriptedDestination()
    assert it.deliver(ledger, destination=other).accepted == len(other.stored) > 0
    it.assert_all_sent_once()


def test_of_an_installation_without_records_a_lost_ledger_is_noticed_too(it):
    ledger = it.new_ledger()
    it.deliver(ledger)
    as_of_version_0_1(it, ledger)
    fresh = it.new_ledger()

    assert "older than this ledger" in it.assert_refused(fresh)
    it.deliver(ledger)
    it.assert_refused(fresh)
    it.adopt(fresh)
    it.deliver(fresh)
    it.assert_all_sent_once()


def test_a_backup_from_before_the_upgrade_is_not_taken_for_the_ledger_that_knows(it):
    ledger, older = it.new_ledger(), it.new_ledger()
    it.deliver(ledger)
    as_of_version_0_1(it, ledger)
    it.deliver(ledger, destination=ScriptedDestination())  # the upgraded ledger came first
    restore(
        older,
        {
            table: [row | {"predates_records": True} for row in rows]
            if table.name == "bk_pipeline_ledger_identity"
            else rows
            for table, rows in backup(older).items()
        },
    )
    older.__dict__.pop("_identity", None)

    it.assert_refused(older)


def test_what_a_delivery_looks_at_does_not_grow_with_the_days_that_were_delivered(it, monkeypatch):
    ledger = it.new_ledger()
    records = it.services.spans().deliveries
    it.deliver(ledger)
    [record] = records.of_day(it.day, it.destination.name)
    for number in range(300):
        records.write(f"2025-{number // 28 + 1:02}-{number % 28 + 1:02}", record)
    it.another_build()
    asked = []
    for name in ("read", "sizes", "folders", "names_recursive", "write"):
        real = getattr(Folder, name)
        monkeypatch.setattr(
            Folder,
            name,
            lambda self, *given, real=real, **options: (
                asked.append(given[0]) or real(self, *given, **options)
            ),
        )

    it.deliver(ledger)

    assert len([name for name in asked if name.startswith("deliveries")]) <= 12
    assert not [name for name in asked if "2025" in name]


@pytest.mark.parametrize(
    "moment",
    [
        "raise_delivery_count before 1",
        "raise_delivery_count after 1",
        "write after 1",
        "begin after 1",
        "accept before 1",
        "accept after 1",
        "mark_part_delivered before 1",
        "mark_part_delivered after 1",
        "write after 2",
        "mark_part_delivered after 2",
    ],
)
def test_wherever_it_is_killed_there_is_no_false_alarm_and_no_silence(tmp_path, moment):
    """The ledger that was used goes on; another one is refused as soon as anything has left."""
    with stage(tmp_path / "data", builds_per_day=8, live=True, **OFFLINE) as scene:
        it = Deliveries(scene, None)
        it.extract()
        it.another_build()
        environment = {**os.environ, **scene.services.settings.environment}
        killed = subprocess.run(
            [sys.executable, KILLED_DELIVERY, it.day, *moment.split()], env=environment, check=False
        )
        assert killed.returncode == DIED
        with Ledger.open(tmp_path / "fresh.sqlite", clock=SystemClock()) as fresh:
            if it.honeycomb.event_count:
                it.assert_refused(fresh)
        with scene.services.ledger() as ledger:
            in_doubt = ledger.in_doubt(it.destination.name, it.day)
            it.deliver(ledger)
            assert it.honeycomb.duplicate_count <= sum(map(len, in_doubt.values()))
            assert it.deliver(ledger).batches == 0


def test_a_damaged_record_is_told_and_not_taken_for_none(it):
    it.deliver(it.new_ledger())
    [file] = (Path(it.services.settings.storage) / "deliveries" / it.day).iterdir()
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(StorageError, match=rf"{file.name} in .* is damaged"):
        it.deliver(it.new_ledger())
