"""The days that the sensor wants a run for, from the first build noticed to a run that succeeded.

A day has one run at a time: what is noticed while one is under way waits for its end, since
it may have listed the day before. A run that failed is asked for again, less and less often.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated

import dagster as dg
import msgspec

PARTITION_TAG = "dagster/partition"
# Runs that one tick may ask for: to start them all takes the daemon time.
MOST_RUNS = 20
# 1, 2, 4, 8 minutes and then every 15: an hour and a quarter before it is left to the night.
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=15)
MOST_FAILURES = 8

IN_PROGRESS = frozenset(
    {
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    }
)
FAILED = frozenset({dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


class WantedDay(msgspec.Struct, omit_defaults=True):
    """What is known of one day.

    Attributes:
        due: Builds have finished that no run has been asked for yet.
        asked: A run was asked for, and its end is not known.
        failures: Runs that failed in a row.
        not_before: After a failure, the moment from which to ask again.
    """

    due: bool = False
    asked: bool = False
    failures: int = 0
    not_before: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


WantedDays = dict[str, WantedDay]


def want(wanted: WantedDays, days: Iterable[str]) -> None:
    """Note that builds of `days` have finished."""
    for day in days:
        wanted.setdefault(day, WantedDay()).due = True


def take_turns(
    wanted: WantedDays, instance: dg.DagsterInstance, job_name: str, *, now: datetime
) -> tuple[list[str], list[str]]:
    """The days to ask a run for now, newest first, and a sentence on each that has to wait.

    Takes in how earlier runs ended: days that are done leave `wanted`, and so do days whose
    runs failed too often.
    """
    ready: list[str] = []
    remarks: list[str] = []
    for day in sorted(wanted, reverse=True):
        one = wanted[day]
        status = _newest_status(instance, job_name, day)
        if status in IN_PROGRESS:
            if one.due:
                remarks.append(f"{day} waits for its run that is under way.")
            continue
        if one.asked:
            remarks.append(_settle(day, one, failed=status in FAILED, now=now))
        if not one.due:
            del wanted[day]
        elif (one.not_before is None or one.not_before <= now) and len(ready) < MOST_RUNS:
            ready.append(day)
            one.due, one.asked = False, True
    return ready, [remark for remark in remarks if remark]


def _settle(day: str, one: WantedDay, *, failed: bool, now: datetime) -> str:
    """Takes in that the run of `day` has ended; a sentence if it failed, else nothing."""
    one.asked, one.not_before = False, None
    if not failed:
        one.failures = 0
        return ""
    one.failures += 1
    # Builds that have finished since are a reason of their own to go on.
    if one.failures >= MOST_FAILURES and not one.due:
        return (
            f"{day}: {one.failures} runs in a row have failed or were canceled. It is left to "
            "nightly_reread; the last run says why."
        )
    one.due = True
    one.not_before = now + min(FIRST_PAUSE * 2 ** min(one.failures - 1, 10), LONGEST_PAUSE)
    return (
        f"{day}: its run failed or was canceled ({one.failures} in a row). Another is asked for "
        f"from {one.not_before:%H:%M:%SZ} on."
    )


def _newest_status(
    instance: dg.DagsterInstance, job_name: str, day: str
) -> dg.DagsterRunStatus | None:
    filters = dg.RunsFilter(job_name=job_name, tags={PARTITION_TAG: day})
    newest = instance.get_runs(filters, limit=1)
    return newest[0].status if newest else None
