"""Alerts of failed runs and failed checks, as a Dagster code location of its own.

Both post to a webhook, ALERT_WEBHOOK_URL, or with SLACK_BOT_TOKEN to the channel SLACK_CHANNEL (extra
`slack`). docs/alerts.md describes how to add it. The sensors begin with what happens after they are
switched on, and see every code location of the instance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import dagster as dg
import requests

AT_ONCE = 50
TIMEOUT_S = 10
SEVERITIES = {"ERROR", "WARN"}
ON = dg.DefaultSensorStatus.RUNNING
SLACK_TOKEN, SLACK_CHANNEL = os.environ.get("SLACK_BOT_TOKEN"), os.environ.get("SLACK_CHANNEL", "")
Tick = dg.SensorResult | dg.SkipReason
# The records after a storage id, oldest first, or the newest one.
Records = Callable[[int | None], Sequence[dg.EventLogRecord]]


def post(text: str) -> None:
    """Post a message. A failure fails the tick, and the next one tries again.

    Raises:
        dagster.Failure: The message was not accepted. The webhook's URL, which is a secret, is not
            named.
    """
    reason = _refused_by_slack(text) if SLACK_TOKEN else _refused_by_webhook(text)
    if reason:
        raise dg.Failure(f"The alert was not accepted: {reason}.", allow_retries=True)


def _refused_by_webhook(text: str) -> str | None:
    url = os.environ["ALERT_WEBHOOK_URL"]
    try:
        response = requests.post(url, json={"text": text}, timeout=TIMEOUT_S)
    except requests.RequestException as exc:
        return type(exc).__name__
    return None if response.ok else f"HTTP {response.status_code}"


def _refused_by_slack(text: str) -> str | None:
    from slack_sdk import WebClient  # noqa: PLC0415  # only with the extra
    from slack_sdk.errors import SlackApiError  # noqa: PLC0415

    try:
        WebClient(SLACK_TOKEN, timeout=TIMEOUT_S).chat_postMessage(channel=SLACK_CHANNEL, text=text)
    except SlackApiError as exc:
        return f"Slack says {exc.response['error']}"
    except OSError as exc:
        return type(exc).__name__
    return None


def tell(
    context: dg.SensorEvaluationContext,
    records: Records,
    lines: Callable[[dg.EventLogRecord], Iterable[str]],
) -> Tick:
    """Post the lines of what was recorded since the last tick, in one message.

    If it is not accepted, the cursor stays: no line is lost, and none is posted twice.
    """
    if context.cursor is None:
        newest = records(None)
        return dg.SensorResult(cursor=str(newest[0].storage_id if newest else 0))
    found = records(int(context.cursor))
    if not found:
        return dg.SkipReason("There is nothing new.")
    if told := [line for record in found for line in lines(record)]:
        post("\n".join(told))
    return dg.SensorResult(cursor=str(found[-1].storage_id))


@dg.sensor(minimum_interval_seconds=60, default_status=ON)
def alert_on_failed_runs(context: dg.SensorEvaluationContext) -> Tick:
    """Say which run failed, for which days, and why.

    Not a `run_failure_sensor`: Dagster moves such a sensor's cursor on even if it failed.
    """

    def records(after: int | None) -> Sequence[dg.EventLogRecord]:
        chosen = dg.RunStatusChangeRecordsFilter(
            dg.DagsterEventType.RUN_FAILURE, after_storage_id=after
        )
        limit, ascending = (1, False) if after is None else (AT_ONCE, True)
        return context.instance.fetch_run_status_changes(chosen, limit, ascending=ascending).records

    def lines(record: dg.EventLogRecord) -> Iterable[str]:
        run = context.instance.get_run_by_id(record.run_id)
        if run:
            yield f"Run {run.run_id[:8]} of {run.job_name} failed{_days(run)}: {_reason(record)}"

    return tell(context, records, lines)


def _days(run: dg.DagsterRun) -> str:
    days = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_start")
    return f" for {days}" if days else ""


def _reason(record: dg.EventLogRecord) -> str:
    event = record.event_log_entry.dagster_event
    return next(iter(((event and event.message) or "").splitlines()), "no reason is recorded")


@dg.sensor(minimum_interval_seconds=60, default_status=ON)
def alert_on_failed_checks(context: dg.SensorEvaluationContext) -> Tick:
    """Say which checks failed, for example `no_regressions`, `all_accepted` or `fresh`."""

    def records(after: int | None) -> Sequence[dg.EventLogRecord]:
        chosen = dg.EventRecordsFilter(
            dg.DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after
        )
        limit, ascending = (1, False) if after is None else (AT_ONCE, True)
        return context.instance.event_log_storage.get_event_records(chosen, limit, ascending)

    def lines(record: dg.EventLogRecord) -> Iterable[str]:
        one = record.event_log_entry.dagster_event.asset_check_evaluation_data
        if not one.passed and one.severity.value in SEVERITIES:
            day = f" for {one.partition}" if one.partition else ""
            why = one.description or "see its metadata"
            yield f"Check {one.check_name} of {one.asset_key.to_user_string()} failed{day}: {why}"

    return tell(context, records, lines)


def on_failed_runs() -> dg.SensorDefinition:
    """Return the sensor of failed runs: dagster-slack's, with a button to the run, if Slack is used."""
    if not SLACK_TOKEN:
        return alert_on_failed_runs
    from dagster_slack import make_slack_on_run_failure_sensor  # noqa: PLC0415  # only with the extra

    return make_slack_on_run_failure_sensor(
        SLACK_CHANNEL,
        SLACK_TOKEN,
        text_fn=lambda context: (
            f"Failed{_days(context.dagster_run)}: {context.failure_event.message}"
        ),
        name="alert_on_failed_runs",
        monitor_all_code_locations=True,
        default_status=ON,
        webserver_base_url=os.environ.get("DAGSTER_WEBSERVER_URL"),
    )


defs = dg.Definitions(sensors=[on_failed_runs(), alert_on_failed_checks])
