"""Metrics of deployments at the sandbox's OTLP endpoint: everything is counted, and once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta

import pytest

from bk_pipeline.analysis.columns import DEPLOYMENTS as TABLE
from bk_pipeline.analysis.deployment_rules import load_deployment_rules
from bk_pipeline.app import App
from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee, MaxAge
from bk_pipeline.deliver.metrics.deployments import events_of
from bk_pipeline.deliver.metrics.destination import DeploymentMetrics
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS
from bk_pipeline.errors import LedgerBehind, PipelineError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline import (
    adopt_deployments,
    days_with_stale_deployments,
    deliver_deployments,
    record_deployments,
    uncounted_days,
)
from bk_pipeline.settings import Settings
from bk_pipeline.store.spans import StatsStore
from bk_pipeline_tests import killed_delivery
from bk_pipeline_tests.analysis.test_deployments import RULES, deploys
from bk_pipeline_tests.analysis.test_flaky import FIRST, Store, build
from bk_pipeline_tests.builders import HOUR_S, make_job, uid
from bk_pipeline_tests.contract.ledgers import LEDGERS

DEPLOYED, FAILED = "bk_pipeline.deployments", "bk_pipeline.deployment.change_failures"
LEAD_TIME = "bk_pipeline.deployment.lead_time"
RESTORE = "bk_pipeline.deployment.time_to_restore"
ONCE = {"policy": DeliveryPolicy(guarantee=Guarantee.AT_MOST_ONCE)}


class Shop:
    """A span store whose deployments are found and counted day by day, as `hourly_stats` does."""

    def __init__(self, folder, url, clock, ledger) -> None:
        self.folder = folder
        self.store = Store(folder / "data")
        self.stats = StatsStore(self.store.spans._folder)
        self.ledger, self.clock = ledger, clock
        rules = folder / "deployments.toml"
        rules.write_text(RULES)
        self.rules = load_deployment_rules(rules)
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "BK_PIPELINE_OTLP_ACCOUNT": f"test-{uid(str(folder))}",
            "BK_PIPELINE_DESTINATIONS": "otlp_metrics",
            "BK_PIPELINE_DATA_DIR": str(folder / "data"),
            "BK_PIPELINE_DEPLOYMENTS": str(rules),
        }
        settings = OtlpSettings.from_environment(self.variables, signal=METRICS)
        self.destination = DeploymentMetrics(
            settings, clock=clock, retry_policy=RetryPolicy(deadline_s=0, jitter=lambda: 0.5)
        )

    @property
    def days(self):
        return sorted(self.store.tables)

    def add(self, name, state="passed", *, hour, job="deploy", day=None, **fields):
        """A build that deploys at this hour after the first day's begin, or of another day."""
        made = deploys(name, (job, state), after_s=hour * HOUR_S, **fields)
        self.store.add(FIRST + timedelta(days=hour // 24 if day is None else day), [made])

    def record(self, *days):
        for day in days or self.days:
            record_deployments(str(day), spans=self.store.spans, stats=self.stats, rules=self.rules)

    def send(self, *days, ledger=None, destination=None, **options):
        """Deliver what is stored of the days; return how many events were accepted."""
        return sum(
            deliver_deployments(
                str(day),
                stats=self.stats,
                spans=self.store.spans,
                destination=destination or self.destination,
                ledger=ledger or self.ledger,
                clock=self.clock,
                **options,
            ).accepted
            for day in days or self.days
        )

    def hour(self):
        """Do what the schedule does; return the days that were made anew."""
        stale = days_with_stale_deployments(self.days, spans=self.store.spans, stats=self.stats)
        self.record(*stale) if stale else None
        for day in stale:
            self.send(day)
        return stale

    def rows(self):
        return [row for day in self.days for row in self.stats.read(TABLE.name, day).to_pylist()]


@pytest.fixture
def new_shop(tmp_path, url, clock):
    with ExitStack() as opened:

        def new_shop(kind="sqlite"):
            folder = tmp_path / f"shop-{len(list(tmp_path.glob('shop-*')))}"
            folder.mkdir()
            (folder / "ledger").mkdir()
            where = opened.enter_context(LEDGERS[kind](folder / "ledger"))
            ledger = opened.enter_context(Ledger.open(where, clock=SystemClock()))
            shop = Shop(folder, url, clock, ledger)
            opened.enter_context(closing(shop.destination))
            return shop

        yield new_shop


@pytest.fixture
def shop(new_shop):
    return new_shop()


@pytest.fixture
def seen(sandbox):
    """The state of the backend, which keeps one value per series and time."""

    def seen(metric, *attributes):
        kept = {(one.series, one.time_ns): one for one in sandbox.otlp.metrics.points}
        found = Counter()
        for one in kept.values():
            if one.metric == metric:
                key = tuple(one.attributes.get(name) for name in attributes)
                found[key[0] if len(key) == 1 else key] += one.count
        return dict(found)

    return seen


def seconds(sandbox, metric):
    return sorted(one.sum for one in sandbox.otlp.metrics.points if one.metric == metric)


def test_events_of_a_month_are_those_of_the_table(shop, sandbox, seen):
    shop.add("a", hour=0)
    shop.add("b", "failed", hour=1)
    shop.add("c", hour=30)
    shop.add("d", hour=31, job="undo")
    shop.add("e", hour=32)
    shop.record()
    assert shop.send() == 5 + 2 + 3 + 2

    kind, status = "bk_pipeline.deployment.kind", "deployment.status"
    assert seen(DEPLOYED, kind, status) == {
        ("deployment", "succeeded"): 3,
        ("deployment", "failed"): 1,
        ("rollback", "succeeded"): 1,
    }
    assert seen(FAILED) == {(): 2}
    assert seen(LEAD_TIME, "bk_pipeline.deployment.lead_time_from") == {"build": 3}
    assert seconds(sandbox, LEAD_TIME) == [13.0] * 3
    # From b to c, and from c, which was rolled back, to the rollback.
    assert seconds(sandbox, RESTORE) == [HOUR_S, 29 * HOUR_S]
    for point in sandbox.otlp.metrics.points:
        assert point.attributes["bk_pipeline.deployment.service"] == "shop"
        assert point.attributes["bk_pipeline.deployment.environment"] == "production"
        assert point.attributes["buildkite.organization.slug"] == "acme"
        assert point.is_valid
        assert (point.temporality, point.monotonic) == ("delta", True)
    ends = {row["finished_at"].timestamp() // 1 for row in shop.rows()}
    assert {one.time_ns // 10**9 for one in sandbox.otlp.metrics.points} == ends


@pytest.mark.parametrize("kind", LEDGERS)
def test_what_was_counted_is_not_counted_again(new_shop, sandbox, kind):
    shop = new_shop(kind)
    shop.add("a", "failed", hour=0)
    shop.add("b", hour=26)
    shop.record()
    assert shop.send() == 5
    before = Counter(sandbox.otlp.metrics.totals)
    assert shop.send() == 0
    shop.record()
    assert shop.send() == 0
    assert sandbox.otlp.metrics.totals == before


def test_restoration_days_later_is_counted_when_it_happens(shop, sandbox):
    shop.add("a", "failed", hour=0)
    assert shop.hour() == ["2026-03-02"]
    assert seconds(sandbox, RESTORE) == []
    shop.add("b", "failed", hour=24)
    shop.add("c", hour=96)
    assert shop.hour() == ["2026-03-03", "2026-03-06"]
    assert seconds(sandbox, RESTORE) == [96 * HOUR_S]
    [at_ns] = [one.time_ns for one in sandbox.otlp.metrics.points if one.metric == RESTORE]
    [restoring] = [row for row in shop.rows() if row["restore_s"]]
    assert at_ns // 10**9 == int(restoring["finished_at"].timestamp())
    shop.add("d", hour=97)
    shop.hour()
    assert seconds(sandbox, RESTORE) == [96 * HOUR_S]


@pytest.mark.parametrize(
    "late",
    [
        pytest.param({"state": "passed", "hour": 20}, id="restored sooner"),
        pytest.param({"state": "failed", "hour": 5}, id="failed before"),
        pytest.param({"state": "failed", "hour": 20}, id="failed in between"),
    ],
)
def test_late_build_does_not_restore_the_same_failure_again(shop, sandbox, late):
    shop.add("a", "failed", hour=10)
    shop.add("b", hour=48)
    shop.hour()
    assert seconds(sandbox, RESTORE) == [38 * HOUR_S]
    state, hour = late["state"], late["hour"]
    shop.add("late", state, hour=hour)
    assert shop.hour() == ["2026-03-02", "2026-03-04"]
    assert seconds(sandbox, RESTORE) == [38 * HOUR_S]
    assert sandbox.otlp.metrics.totals[DEPLOYED] == 3
    assert sandbox.otlp.metrics.totals[FAILED] == 1 + (state == "failed")


def test_late_failure_is_restored_by_what_was_stored_before(shop, sandbox):
    shop.add("b", hour=48)
    shop.hour()
    shop.add("late", "failed", hour=10)
    shop.hour()
    assert seconds(sandbox, RESTORE) == [38 * HOUR_S]


def test_change_that_turns_out_to_be_deployed_before_has_one_lead_time(shop, sandbox):
    shop.add("b", hour=48, commit="c")
    shop.hour()
    shop.add("late", hour=10, commit="c")
    shop.hour()
    assert [row["lead_time_s"] is not None for row in shop.rows()] == [True, False]
    assert sandbox.otlp.metrics.totals[LEAD_TIME] == 1
    # Unknown commits are not the same one.
    for n, hour in enumerate((50, 12)):
        shop.add(f"unknown {n}", hour=hour, commit="HEAD")
        shop.hour()
    assert sandbox.otlp.metrics.totals[LEAD_TIME] == 3


def test_rollback_is_one_change_failure_whatever_it_turns_out_to_have_undone(shop, sandbox):
    shop.add("a", hour=10)
    shop.add("r", hour=48, job="undo")
    shop.hour()
    assert sandbox.otlp.metrics.totals[FAILED] == 1
    shop.add("late", hour=20)
    shop.hour()
    assert sandbox.otlp.metrics.totals[FAILED] == 1


def test_deployment_of_several_jobs_is_one_also_if_some_come_later(shop, sandbox):
    def jobs(*names):
        return [
            make_job(f"deploy {one}", id=uid(one), runnable_s=10 - len(one), step_key="deploy")
            for one in names
        ]

    shop.store.add(FIRST, [build("one", jobs("aa", "b"), commit="one")])
    shop.hour()
    # The build resumed; its first job, by the time of its start, is another one.
    shop.store.add(FIRST, [build("one", jobs("aa", "b", "cccc"), commit="one")])
    shop.hour()
    [row] = shop.rows()
    assert len(row["span_ids"]) == 3
    assert sandbox.otlp.metrics.totals == {DEPLOYED: 1, LEAD_TIME: 1}


def test_renamed_service_is_not_counted_again(shop, sandbox):
    shop.add("a", "failed", hour=0)
    shop.add("b", hour=1)
    shop.record()
    shop.send()
    before = Counter(sandbox.otlp.metrics.totals)
    path = shop.folder / "deployments.toml"
    renamed = RULES.replace('"deploy"', '"other"', 1).replace("production", "live")
    path.write_text(renamed)
    shop.rules = load_deployment_rules(path)
    shop.record()
    assert {row["environment"] for row in shop.rows()} == {"live"}
    assert shop.send() == 0
    assert sandbox.otlp.metrics.totals == before


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_counted_twice_in_any_order(shop, sandbox, seed):
    """Builds of five days are stored in a random order; deliveries fail now and then."""
    chance = random.Random(seed)
    builds = [
        (n, chance.choice(("passed", "passed", "failed")), chance.choice(("deploy", "undo")))
        for n in range(14)
    ]
    chance.shuffle(builds)
    for n, state, job in builds:
        shop.add(f"{n}", state, hour=n * 8, job=job, commit=f"{n // 2}")
        if chance.random() < 0.3:
            sandbox.faults.inject("otlp", "status", status=chance.choice((503, 429)), count=2)
        try:
            shop.hour()
        except PipelineError:
            sandbox.faults.clear()
    sandbox.faults.clear()
    shop.hour()
    left = uncounted_days(
        shop.days, stats=shop.stats, destination=shop.destination, ledger=shop.ledger
    )
    shop.send(*left) if left else None

    assert shop.send() == 0
    totals, rows = sandbox.otlp.metrics.totals, shop.rows()
    assert totals[DEPLOYED] == len(rows) == 14
    failed = {one for row in rows for one in row["restored"]}
    assert totals[RESTORE] <= len(failed)
    assert totals[RESTORE] >= sum(row["restore_s"] is not None for row in rows) - 3
    assert totals[LEAD_TIME] == len({row["commit"] for row in rows if row["lead_time_s"]})
    assert sandbox.otlp.metrics.duplicate_count == 0


def test_failed_delivery_leaves_the_day_to_be_counted(shop, sandbox):
    def left():
        options = {"stats": shop.stats, "destination": shop.destination}
        return uncounted_days(shop.days, ledger=shop.ledger, **options)

    shop.add("a", hour=0)
    shop.record()
    assert left() == shop.days
    sandbox.faults.inject("otlp", "status", status=503, count=1)
    with pytest.raises(PipelineError):
        shop.send()
    assert left() == shop.days
    assert shop.send() == 2
    assert left() == []
    # A day without deployments has nothing to be counted.
    shop.add("b", hour=24, job="test")
    shop.record()
    assert left() == ["2026-03-03"]
    assert shop.send() == 0
    assert left() == []


def test_events_older_than_the_destination_keeps_are_told_and_sent_if_that_changes(shop, sandbox):
    shop.add("a", hour=0)
    shop.record()
    age = MaxAge(timedelta(days=3), "it is a test", "X")
    settings = OtlpSettings.from_environment(shop.variables, signal=METRICS)
    shop.clock.moment = shop.rows()[0]["finished_at"] + timedelta(days=4)
    with closing(DeploymentMetrics(settings, clock=shop.clock, age=age)) as limited:
        done = deliver_deployments(
            shop.days[0],
            stats=shop.stats,
            spans=shop.store.spans,
            destination=limited,
            ledger=shop.ledger,
            clock=shop.clock,
        )
        assert (done.accepted, done.too_old) == (0, 2)
        options = {"stats": shop.stats, "ledger": shop.ledger}
        assert uncounted_days(shop.days, destination=limited, **options) == []
    assert uncounted_days(shop.days, destination=shop.destination, **options) == shop.days
    assert shop.send() == 2


def test_rejected_events_are_not_sent_again_until_requeued(shop, sandbox):
    shop.add("a", "failed", hour=0)
    shop.record()
    sandbox.faults.inject("otlp", "partial", rejected_spans=2, message="no", count=1)
    assert shop.send() == 0
    name = shop.destination.name
    assert {one.span_name for one in shop.ledger.rejections(name)} == {"deployment", "failure"}
    assert shop.send() == 0
    shop.ledger.requeue(name)
    assert shop.send() == 2


@pytest.mark.parametrize("kind", LEDGERS)
def test_lost_ledger_stops_the_delivery_until_it_is_adopted(new_shop, sandbox, kind):
    shop, other = new_shop(kind), new_shop(kind)
    shop.add("a", "failed", hour=0)
    shop.add("b", hour=1)
    shop.record()
    shop.send()
    before = Counter(sandbox.otlp.metrics.totals)
    with pytest.raises(LedgerBehind, match="another ledger"):
        shop.send(ledger=other.ledger)
    shop.add("c", hour=2)
    shop.record()
    adopted = adopt_deployments(
        shop.days[0],
        spans=shop.store.spans,
        destination=shop.destination,
        ledger=other.ledger,
    )
    # Three events of one key each, and two more keys for the change and for the restored failure.
    assert adopted == 6
    assert shop.send(ledger=other.ledger) == 2
    assert sandbox.otlp.metrics.totals == before + Counter({DEPLOYED: 1, LEAD_TIME: 1})


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["begin", "accept"])
def test_killed_delivery_loses_and_doubles_no_more_than_guaranteed(  # noqa: PLR0917
    shop, sandbox, seen, guarantee, method, when
):
    shop.add("a", "failed", hour=0)
    shop.add("b", hour=1)
    shop.record()
    variables = {**shop.variables, "BK_PIPELINE_DELIVER_GUARANTEE": guarantee}
    done = subprocess.run(
        [sys.executable, killed_delivery.__file__, shop.days[0], method, when, "1"],
        env={**os.environ, **variables},
        check=False,
    )
    assert done.returncode == killed_delivery.DIED
    app = App(Settings.of(**variables), clock=shop.clock)
    [configured] = app.deployment_metrics()
    with app.ledger() as ledger, app.destination(configured) as to:
        shop.send(ledger=ledger, destination=to, policy=app.delivery_policy())
        assert shop.send(ledger=ledger, destination=to, policy=app.delivery_policy()) == 0
    doubled = sandbox.otlp.metrics.duplicate_count
    counted = {name: seen(name) for name in (DEPLOYED, FAILED, LEAD_TIME, RESTORE)}
    everything = {DEPLOYED: {(): 2}, FAILED: {(): 1}, LEAD_TIME: {(): 1}, RESTORE: {(): 1}}
    sent = method == "accept"  # before the process died
    if guarantee == "at_least_once":
        assert counted == everything
        assert bool(doubled) == (sent and when == "before")
    else:
        in_doubt = when == "after" if method == "begin" else when == "before"
        assert doubled == 0
        assert counted == (everything if sent or not in_doubt else {one: {} for one in everything})


def test_runs_of_different_days_at_once_count_a_failure_once(shop, sandbox):
    """Both days say that they restored it, because one was found before a late build came."""
    shop.add("a", "failed", hour=0)
    shop.add("c", hour=48)
    shop.record()
    shop.add("b", hour=24)
    shop.record(shop.days[1])
    assert len([row for row in shop.rows() if row["restore_s"]]) == 2
    shop.clock = SystemClock()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(shop.send, shop.days))
    assert sandbox.otlp.metrics.totals[RESTORE] == 1
    assert sandbox.otlp.metrics.totals[DEPLOYED] == 3


def test_without_rules_nothing_is_counted(url):
    settings = Settings.of(OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert App(settings).deployment_metrics() == []
    with_rules = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "BK_PIPELINE_DEPLOYMENTS": "x.toml"}
    [found] = App(Settings.of(**with_rules)).deployment_metrics()
    assert found.asset == "deployment_metrics"
    named = {"BK_PIPELINE_DESTINATIONS": "otlp_metrics:x", "BK_PIPELINE_DEPLOYMENTS": "x.toml"}
    named["BK_PIPELINE_X_OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    assert [one.asset for one in App(Settings.of(**named)).deployment_metrics()] == [
        "deployment_metrics_x"
    ]


def test_events_share_no_keys_with_spans_and_have_their_own(shop):
    shop.add("a", "failed", hour=0)
    shop.add("b", hour=1)
    shop.record()
    keys = [key for one in events_of(shop.rows()) for key in one.keys]
    assert len(set(keys)) == len(keys) == 6
    spans = {span for row in shop.rows() for span in row["span_ids"]}
    assert spans.isdisjoint(item_id.hex() for _, item_id in keys)
