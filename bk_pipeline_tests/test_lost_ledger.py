"""A missing, different or outdated ledger stops the delivery: nothing is silently sent twice."""

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
from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.sampling import Rule as SamplingRule
from bk_pipeline.deliver.sampling import Sampling
from bk_pipeline.errors import LedgerBehind, ServiceUnavailable, StorageError, TokenRefused
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.schema import delivered_parts, metadata, outcomes
from bk_pipeline.ledger.store import Ledger
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
NO_RETRY = RetryPolicy(deadline_s=0)
OFFLINE = {"BK_PIPELINE_HTTP_DEADLINE_S": "0"}


class Deliveries:
    """Deliveries of a day from one data directory, with any ledger."""

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
        message = str(refused.value)
        assert "bk-pipeline ledger adopt" in message
        assert "--resend" in message
        return message


@pytest.fixture(params=LEDGERS.values(), ids=LEDGERS)
def new_ledger(request, tmp_path):
    """Return a function that makes a new, empty ledger."""
    with ExitStack() as opened:

        def new_ledger():
            folder = tmp_path / f"ledger-{len(list(tmp_path.glob('ledger-*')))}"
            folder.mkdir()
            where = opened.enter_context(request.param(folder))
            return opened.enter_context(Ledger.open(where, clock=SystemClock()))

        yield new_ledger


@pytest.fixture
def deliveries(tmp_path, new_ledger):
    with stage(tmp_path / "data", builds_per_day=8, **OFFLINE) as scene:
        made = Deliveries(scene, new_ledger)
        made.extract()
        yield made


def backup(ledger) -> dict:
    """Return all rows of a ledger by table."""
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


def test_new_ledger_stops_the_delivery_and_names_both_remedies(deliveries):
    first = deliveries.deliver(deliveries.new_ledger())
    assert first.accepted > 0

    assert "another ledger" in deliveries.assert_refused(deliveries.new_ledger())


def test_ledger_that_delivered_before_goes_on(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    deliveries.another_build()

    assert deliveries.deliver(ledger).accepted > 0
    deliveries.assert_all_sent_once()


def test_adopted_spans_are_not_sent_and_new_ones_are(deliveries):
    deliveries.deliver(deliveries.new_ledger())
    deliveries.another_build()
    fresh = deliveries.new_ledger()

    assert deliveries.adopt(fresh) == deliveries.honeycomb.event_count
    assert deliveries.adopt(fresh) is None
    assert deliveries.deliver(fresh).accepted > 0
    assert deliveries.deliver(fresh).batches == 0
    deliveries.assert_all_sent_once()


def test_adopted_spans_are_not_sent_when_their_part_is_rebuilt(deliveries):
    """With another fingerprint the part is new, but its spans are not."""
    deliveries.deliver(deliveries.new_ledger())
    deliveries.extract(Privacy(drop=("*.email",)))
    fresh = deliveries.new_ledger()

    deliveries.adopt(fresh)
    deliveries.deliver(fresh)

    deliveries.assert_all_sent_once()


def sampling(rate):
    return Sampling((SamplingRule(id="all", rate=rate),))


def test_builds_sampled_out_are_not_adopted_and_can_still_be_sent(deliveries):
    first = deliveries.deliver(deliveries.new_ledger(), sampling=sampling(4))
    assert first.sampled_out_builds > 0
    fresh = deliveries.new_ledger()

    assert deliveries.adopt(fresh) == deliveries.honeycomb.event_count
    same = deliveries.deliver(fresh, sampling=sampling(4))
    assert (same.batches, same.sampled_out_builds) == (0, first.sampled_out_builds)

    # The next ledger learns it from the one that has adopted it.
    another = deliveries.new_ledger()
    assert deliveries.adopt(another) == deliveries.honeycomb.event_count
    assert deliveries.deliver(another).accepted > 0
    deliveries.assert_all_sent_once()


def test_adoption_in_the_middle_of_a_raised_rate_sends_nothing_twice(deliveries):
    """What was delivered at the earlier rate is still known, although its part is read again."""
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger, sampling=sampling(4))
    sent = deliveries.honeycomb.event_count
    deliveries.scene.sandbox.faults.inject("honeycomb", "status", status=401, count=5)
    with pytest.raises(TokenRefused):
        deliveries.deliver(ledger)
    deliveries.scene.sandbox.faults.clear()
    fresh = deliveries.new_ledger()

    assert deliveries.adopt(fresh) == sent
    deliveries.deliver(fresh)

    deliveries.assert_all_sent_once()


@pytest.fixture
def deliveries_of_settled_builds(tmp_path):
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
def test_builds_held_back_before_are_sent_after_an_adoption(deliveries_of_settled_builds, times):
    """When they settle, the delivered part is rebuilt with them in it and then adopted."""
    deliveries = deliveries_of_settled_builds
    finish_one_more(deliveries.scene, 9_000_001)
    deliveries.extract()
    sent = deliveries.deliver(deliveries.new_ledger()).accepted
    spans = deliveries.services.spans()
    assert spans.summary(deliveries.day, *spans.parts(deliveries.day)).held_back > 0
    deliveries.scene.clock.moment += timedelta(hours=30)
    deliveries.extract()
    for _ in range(times):
        fresh = deliveries.new_ledger()
        assert deliveries.adopt(fresh) == sent

    assert deliveries.deliver(fresh).accepted > 0
    assert deliveries.deliver(fresh).batches == 0
    deliveries.assert_all_sent_once()


def test_builds_merged_with_delivered_ones_are_sent_after_an_adoption(deliveries):
    """Even if the files of the delivered parts are deleted."""
    ledger = deliveries.new_ledger()
    sent = deliveries.deliver(ledger).accepted
    deliveries.another_build(9_000_001)
    sent += deliveries.deliver(ledger).accepted
    deliveries.another_build(9_000_002)
    raw = deliveries.services.raw()
    parts = raw.parts(deliveries.day)
    tables = (table for part in parts for table in raw.tables(deliveries.day, part))
    raw.merge(deliveries.day, parts, tables, now=deliveries.scene.clock.now())
    raw.delete_replaced(deliveries.day, before=deliveries.scene.clock.now() + timedelta(hours=2))
    transform_day(deliveries.day, raw=raw, spans=deliveries.services.spans())
    assert len(deliveries.services.spans().all_parts(deliveries.day)) == 1
    fresh = deliveries.new_ledger()

    assert deliveries.adopt(fresh) == sent
    assert deliveries.deliver(fresh).accepted > 0
    deliveries.assert_all_sent_once()


def test_spans_added_by_new_settings_are_sent_after_an_adoption(deliveries):
    sent = deliveries.deliver(deliveries.new_ledger()).accepted
    spans = deliveries.services.spans()
    transform_day(
        deliveries.day, raw=deliveries.services.raw(), spans=spans, options=SpanOptions(waits=True)
    )
    fresh = deliveries.new_ledger()

    assert deliveries.adopt(fresh) == sent
    assert deliveries.deliver(fresh).accepted > 0
    deliveries.assert_all_sent_once()


def test_resend_sends_again_once(deliveries):
    sent = deliveries.deliver(deliveries.new_ledger()).accepted
    fresh = deliveries.new_ledger()

    assert deliveries.deliver(fresh, resend=True).accepted == sent
    assert deliveries.honeycomb.duplicate_count > 0
    assert deliveries.deliver(fresh).batches == 0
    deliveries.another_build()
    assert 0 < deliveries.deliver(fresh).accepted < sent


def test_older_copy_of_the_ledger_stops_the_delivery(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    old = backup(ledger)
    deliveries.another_build()
    deliveries.deliver(ledger)
    restore(ledger, old)

    assert "older copy" in deliveries.assert_refused(ledger)
    deliveries.adopt(ledger)
    assert deliveries.deliver(ledger).batches == 0
    deliveries.assert_all_sent_once()


def test_backup_made_during_a_delivery_is_an_older_copy(deliveries):
    ledger = deliveries.new_ledger()
    copies = []
    deliveries.destination.limits = replace(deliveries.destination.limits, batch_items=20)
    policy = DeliveryPolicy(in_flight=1)
    deliveries.deliver(ledger, policy=policy, progress=lambda _: copies.append(backup(ledger)))
    assert len(copies) > 2
    restore(ledger, copies[1])

    deliveries.assert_refused(ledger)


@pytest.mark.parametrize("lost", ["half", "all"])
def test_missing_rows_of_a_day_stop_the_delivery(deliveries, lost):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    with ledger._database.write() as connection:
        connection.execute(delete(delivered_parts))
        traces = connection.execute(select(outcomes.c.trace_id)).scalars().all()
        gone = traces if lost == "all" else traces[::2]
        connection.execute(delete(outcomes).where(outcomes.c.trace_id.in_(gone)))

    assert "missing" in deliveries.assert_refused(ledger)
    deliveries.adopt(ledger)
    assert deliveries.deliver(ledger).batches == 0
    deliveries.assert_all_sent_once()


def test_new_destination_gets_all_old_spans(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    other = ScriptedDestination()

    deliveries.deliver(ledger, destination=other)
    deliveries.deliver(deliveries.new_ledger(), destination=ScriptedDestination())

    assert len(other.stored) > 0


def test_lost_data_directory_with_kept_ledger_sends_nothing_again(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    shutil.rmtree(deliveries.services.settings.storage)
    deliveries.extract()

    deliveries.deliver(ledger)
    deliveries.assert_all_sent_once()


def test_requeued_and_forgotten_items_do_not_count_as_lost(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.scene.sandbox.faults.inject("honeycomb", "event_status", status=400, indexes=[0, 1])
    deliveries.deliver(ledger)
    name = deliveries.destination.name

    assert ledger.requeue(name) == 2
    assert deliveries.deliver(ledger).accepted == 2
    sent = deliveries.honeycomb.event_count
    assert ledger.forget(name) == sent
    assert deliveries.deliver(ledger).accepted == sent


def test_two_ledgers_for_one_directory_and_destination_are_detected(deliveries):
    first, second = deliveries.new_ledger(), deliveries.new_ledger()
    deliveries.deliver(first)
    deliveries.adopt(second)
    deliveries.another_build()
    deliveries.deliver(second)

    deliveries.assert_refused(first)
    deliveries.adopt(first)
    deliveries.another_build(9_000_002)
    deliveries.deliver(first)
    deliveries.assert_refused(second)
    deliveries.assert_all_sent_once()


# Not in PostgreSQL: ledgers of one database share the delivery lock, so one waits for the other.
@pytest.mark.parametrize("new_ledger", [LEDGERS["sqlite"]], ids=["sqlite"], indirect=True)
def test_another_ledger_that_begins_at_the_same_time_is_detected(deliveries, monkeypatch):
    first, second = deliveries.new_ledger(), deliveries.new_ledger()
    real = Ledger.raise_delivery_count

    def overtaken_by_second(self, *arguments):
        monkeypatch.setattr(Ledger, "raise_delivery_count", real)
        deliveries.deliver(second)
        return real(self, *arguments)

    monkeypatch.setattr(Ledger, "raise_delivery_count", overtaken_by_second)

    with pytest.raises(LedgerBehind):
        deliveries.deliver(first)
    deliveries.assert_all_sent_once()
    assert deliveries.deliver(second).batches == 0


@pytest.mark.parametrize("error", [DOWN, TokenRefused("401")], ids=["unreachable", "refused"])
def test_delivery_that_sent_nothing_does_not_bind_to_its_ledger(deliveries, error):
    destination = ScriptedDestination(*[error] * 20)
    destination.retry = NO_RETRY
    with pytest.raises(type(error)):
        deliveries.deliver(deliveries.new_ledger(), destination=destination)
    destination.replies.clear()

    assert deliveries.deliver(deliveries.new_ledger(), destination=destination).accepted > 0


@pytest.mark.parametrize("guarantee", Guarantee)
def test_interrupted_part_is_adopted_according_to_the_guarantee(deliveries, guarantee):
    destination = ScriptedDestination(items=20)
    destination.retry = NO_RETRY
    lost = destination.accept_and_raise(ServiceUnavailable("the connection broke"))
    destination.replies = [destination.accept, *[lost] * 9]
    policy = DeliveryPolicy(guarantee, in_flight=1)
    with pytest.raises(ServiceUnavailable):
        deliveries.deliver(deliveries.new_ledger(), destination=destination, policy=policy)
    before = len(destination.stored)
    destination.replies = []
    fresh = deliveries.new_ledger()

    with pytest.raises(LedgerBehind):
        deliveries.deliver(fresh, destination=destination, policy=policy)
    adopted = deliveries.adopt(fresh, destination=destination, guarantee=guarantee)
    deliveries.deliver(fresh, destination=destination, policy=policy)

    spans = {item.key for item in destination.stored}
    if guarantee is Guarantee.AT_MOST_ONCE:
        assert adopted > 0
        assert len(destination.stored) == before
    else:
        assert adopted == 0
        assert len(spans) == sum(
            len(table)
            for table in deliveries.services.spans().newest(deliveries.day, columns=("trace_id",))
        )


def as_of_version_0_1(deliveries, ledger=None):
    """Remove what that version did not write."""
    shutil.rmtree(Path(deliveries.services.settings.storage) / "deliveries")
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


def test_installation_without_records_goes_on(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    as_of_version_0_1(deliveries, ledger)
    deliveries.extract(Privacy(drop=("*.email",)))
    deliveries.another_build()

    deliveries.deliver(ledger)
    other = ScriptedDestination()
    assert deliveries.deliver(ledger, destination=other).accepted == len(other.stored) > 0
    deliveries.assert_all_sent_once()


def test_lost_ledger_of_an_installation_without_records_is_detected(deliveries):
    ledger = deliveries.new_ledger()
    deliveries.deliver(ledger)
    as_of_version_0_1(deliveries, ledger)
    fresh = deliveries.new_ledger()

    assert "older than this ledger" in deliveries.assert_refused(fresh)
    deliveries.deliver(ledger)
    deliveries.assert_refused(fresh)
    deliveries.adopt(fresh)
    deliveries.deliver(fresh)
    deliveries.assert_all_sent_once()


def test_backup_from_before_the_upgrade_is_not_trusted(deliveries):
    ledger, older = deliveries.new_ledger(), deliveries.new_ledger()
    deliveries.deliver(ledger)
    as_of_version_0_1(deliveries, ledger)
    deliveries.deliver(ledger, destination=ScriptedDestination())  # the upgraded ledger came first
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

    deliveries.assert_refused(older)


def test_delivery_reads_only_the_records_of_its_day(deliveries, monkeypatch):
    ledger = deliveries.new_ledger()
    records = deliveries.services.spans().deliveries
    deliveries.deliver(ledger)
    [record] = records.of_day(deliveries.day, deliveries.destination.name)
    for number in range(300):
        records.write(f"2025-{number // 28 + 1:02}-{number % 28 + 1:02}", record)
    deliveries.another_build()
    accessed = []
    for name in ("read", "sizes", "folders", "names_recursive", "write"):
        real = getattr(Folder, name)
        monkeypatch.setattr(
            Folder,
            name,
            lambda self, *arguments, real=real, **options: (
                accessed.append(arguments[0]) or real(self, *arguments, **options)
            ),
        )

    deliveries.deliver(ledger)

    assert len([name for name in accessed if name.startswith("deliveries")]) <= 12
    assert not [name for name in accessed if "2025" in name]


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
def test_killed_delivery_goes_on_with_its_ledger_and_no_other(tmp_path, moment):
    """The ledger in use goes on; another one is refused as soon as anything was sent."""
    with stage(tmp_path / "data", builds_per_day=8, live=True, **OFFLINE) as scene:
        deliveries = Deliveries(scene, None)
        deliveries.extract()
        deliveries.another_build()
        environment = {**os.environ, **scene.services.settings.environment}
        killed = subprocess.run(
            [sys.executable, KILLED_DELIVERY, deliveries.day, *moment.split()],
            env=environment,
            check=False,
        )
        assert killed.returncode == DIED
        with Ledger.open(tmp_path / "fresh.sqlite", clock=SystemClock()) as fresh:
            if deliveries.honeycomb.event_count:
                deliveries.assert_refused(fresh)
        with scene.services.ledger() as ledger:
            in_doubt = ledger.in_doubt(deliveries.destination.name, deliveries.day)
            deliveries.deliver(ledger)
            assert deliveries.honeycomb.duplicate_count <= sum(map(len, in_doubt.values()))
            assert deliveries.deliver(ledger).batches == 0


def test_damaged_record_is_an_error_and_not_ignored(deliveries):
    deliveries.deliver(deliveries.new_ledger())
    [file] = (Path(deliveries.services.settings.storage) / "deliveries" / deliveries.day).iterdir()
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(StorageError, match=rf"{file.name} in .* is damaged"):
        deliveries.deliver(deliveries.new_ledger())
