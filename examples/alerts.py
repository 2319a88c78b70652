"""Alerts of failed runs and failed checks, as a Dagster code location of its own.

Both post `{"text": …}` to ALERT_WEBHOOK_URL, which Slack's and Mattermost's incoming webhooks accept.
docs/alerts.md describes how to add it. The sensors begin with what happens after they are switched
on, and see every code location of the instance.
"""

from __future__ import annotations

import os

import dagster as dg
import requests

AT_ONCE = 50
TIMEOUT_S = 10
SEVERITIES = {"ERROR", "WARN"}


def post(text: str) -> None:
    """Post a message. A failure fails the tick, and the next one tries again.

    Raises:
        dagster.Failure: The webhook did not accept it. Its URL, which is a secret, is not named.
    """
    try:
        response = requests.post(
            os.environ["ALERT_WEBHOOK_URL"], json={"text": text}, timeout=TIMEOUT_S
        )
    except requests.RequestException as exc:
        reason = type(exc).__name__
    else:
        if response.ok:
            return
        reason = f"HTTP {response.status_code}"
    raise dg.Failure(
        f"The webhook did not accept the alert: {reason}.", allow_retries=True
    ) from None


@dg.run_failure_sensor(
    monitor_all_code_locations=True, default_status=dg.DefaultSensorStatus.RUNNING
)
def alert_on_failed_runs(context: dg.RunFailureSensorContext) -> None:
    """Say which run failed, for which days, and why."""
    run = context.dagster_run
    days = run.tags.get("dagster/partition") or run.tags.get(
        "dagster/asset_partition_range_start", ""
    )
    reason = next(iter((context.failure_event.message or "").splitlines()), "")
    post(f"Run {run.run_id[:8]} of {run.job_name} failed{f' for {days}' if days else ''}: {reason}")


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def alert_on_failed_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Say which checks failed, for example `no_regressions`, `all_accepted` or `fresh`."""
    events = context.instance.event_log_storage
    of_checks = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    if context.cursor is None:
        newest = events.get_event_records(dg.EventRecordsFilter(of_checks), limit=1)
        return dg.SensorResult(cursor=str(newest[0].storage_id if newest else 0))
    records = events.get_event_records(
        dg.EventRecordsFilter(of_checks, after_cursor=int(context.cursor)),
        limit=AT_ONCE,
        ascending=True,
    )
    if not records:
        return dg.SkipReason("No check was evaluated.")
    failed = [
        f"Check {one.check_name} of {one.asset_key.to_user_string()} failed"
        f"{f' for {one.partition}' if one.partition else ''}: {one.description or 'see its metadata'}"
        for record in records
        if not (one := record.event_log_entry.dagster_event.asset_check_evaluation_data).passed
        and one.severity.value in SEVERITIES
    ]
    # One message for all: if it is not accepted, the cursor stays, and none is lost or sent twice.
    if failed:
        post("\n".join(failed))
    return dg.SensorResult(cursor=str(records[-1].storage_id))


defs = dg.Definitions(sensors=[alert_on_failed_runs, alert_on_failed_checks])
