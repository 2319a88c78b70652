"""Asset checks that look at whole days: with the eyes of somebody who does not trust us.

They run at night over the last complete days, and when a person executes them. In a run
that materializes days the spans of those days are looked at too; Buildkite is not asked
again what that run has just listed.
"""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg

from bk_pipeline.defs.checks import judged
from bk_pipeline.defs.daily_asset import step_log
from bk_pipeline.defs.failures import as_dagster_failures
from bk_pipeline.defs.partitions import day_of
from bk_pipeline.defs.resources import Services
from bk_pipeline.doctor.audit import completeness, read_to_its_end, soundness
from bk_pipeline.pipeline import Day
from bk_pipeline.window import day_key, day_keys

RAW_BUILDS = dg.AssetKey("raw_builds")
COMPLETE, FRESH = "complete", "fresh"
NO_ORPHANS, NO_NEGATIVE_DURATIONS = "no_orphans", "no_negative_durations"

# So long after its end a day should have been read to its end: nightly_reread takes a while.
GRACE = timedelta(hours=6)
CRON = "15 5 * * *"  # an hour after nightly_reread

PARTITION = "dagster/partition"
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def audits() -> list[dg.AssetChecksDefinition]:
    """The checks; each says in its description what to do when it fails."""
    return [_raw_builds(), _spans()]


def _raw_builds() -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            COMPLETE,
            asset=RAW_BUILDS,
            description="Buildkite lists no finished build of the last complete days that is not "
            "stored. Costs a request for 100 builds. If it fails, materialize raw_builds and what "
            "follows for the days it names, with `reread: true` in the run's config, or leave it "
            "to nightly_reread.",
        ),
        dg.AssetCheckSpec(
            FRESH,
            asset=RAW_BUILDS,
            description="The last complete day was read since it was over. If it fails, switch on "
            "builds_sensor and nightly_reread under Automation; if they are on, their last run "
            "says what is wrong.",
        ),
    ]

    # can_subset: so that it may also have nothing to say.
    @dg.multi_asset_check(name="raw_builds_audit", specs=specs, can_subset=True)
    def raw_builds_audit(
        context: dg.AssetCheckExecutionContext, services: dg.ResourceParam[Services]
    ) -> Iterator[dg.AssetCheckResult]:
        if RAW_BUILDS in (context.run.asset_selection or ()):
            return
        asked = {key.name for key in context.selected_asset_check_keys}
        days = _days(context, services)
        if FRESH in asked:
            yield _result(RAW_BUILDS, judged(FRESH, _unread(services)))
        if COMPLETE in asked:
            with step_log(context, services) as log:
                yield _result(RAW_BUILDS, _complete(days, services, on_wait=log.wait))

    return raw_builds_audit


def _complete(
    days: list[Day], services: Services, on_wait: Callable[[str], None]
) -> dg.AssetCheckResult:
    missing, listed, looked_at = [], 0, []
    with as_dagster_failures(retries=services.retries), services.buildkite(on_wait) as client:
        for day in days:
            found = completeness(
                day.key,
                day.window,
                client=client,
                raw=services.raw(),
                privacy=services.privacy(),
            )
            if found is not None:
                looked_at.append(day.key)
                listed += found.listed
                missing += [f"{day.key}: {one}" for one in found.missing]
    return judged(COMPLETE, missing, days=", ".join(looked_at), builds=listed)


def _unread(services: Services) -> list[str]:
    settings, now = services.settings, services.clock.now()
    last = day_of(day_key(now - GRACE - timedelta(days=1), settings.timezone), settings)
    if last.key < settings.start_date.isoformat():
        return []
    with as_dagster_failures(retries=services.retries):
        if read_to_its_end(last.key, last.window, raw=services.raw()):
            return []
        read_at = services.raw().watermark(last.key)
    return [f"{last.key} was last read {f'at {read_at:%Y-%m-%d %H:%MZ}' if read_at else 'never'}."]


def _spans() -> dg.AssetChecksDefinition:
    report = (
        " If it fails, keep the payloads that it names (raw_builds has them) and report them: "
        "it is a fault of bk_pipeline's. What was delivered of these builds shows holes."
    )
    specs = [
        dg.AssetCheckSpec(
            NO_ORPHANS, asset="spans", description="Every span's parent is in its trace." + report
        ),
        dg.AssetCheckSpec(
            NO_NEGATIVE_DURATIONS,
            asset="spans",
            description="No span ends before it starts." + report,
        ),
    ]

    @dg.multi_asset_check(name="spans_audit", specs=specs, can_subset=True)
    def spans_audit(
        context: dg.AssetCheckExecutionContext, services: dg.ResourceParam[Services]
    ) -> Iterator[dg.AssetCheckResult]:
        orphans, negative, spans, looked_at = [], [], 0, []
        for day in _days(context, services):
            with as_dagster_failures(retries=services.retries):
                found = soundness(day.key, spans=services.spans())
            if found.spans:
                looked_at.append(day.key)
            spans += found.spans
            orphans += [f"{day.key}: {one}" for one in found.orphans]
            negative += [f"{day.key}: {one}" for one in found.negative]
        asked = {key.name for key in context.selected_asset_check_keys}
        for name, offenders in ((NO_ORPHANS, orphans), (NO_NEGATIVE_DURATIONS, negative)):
            if name in asked:
                judgement = judged(name, offenders, days=", ".join(looked_at), spans=spans)
                yield _result(dg.AssetKey("spans"), judgement)

    return spans_audit


def _result(asset: dg.AssetKey, judgement: dg.AssetCheckResult) -> dg.AssetCheckResult:
    return judgement._replace(asset_key=asset)


def _days(context: dg.AssetCheckExecutionContext, services: Services) -> list[Day]:
    """The run's partitions; without any, the last complete days."""
    settings, tags = services.settings, context.run.tags
    first, last = tags.get(FIRST, tags.get(PARTITION)), tags.get(LAST, tags.get(PARTITION))
    if first is None or last is None:
        today = services.clock.now().astimezone(settings.timezone).date()
        start = max(today - timedelta(days=settings.nightly_days), settings.start_date)
        keys = day_keys(start, today - timedelta(days=1))
    else:
        keys = day_keys(date.fromisoformat(first), date.fromisoformat(last))
    return [day_of(key, settings) for key in keys]


def nightly_audit(services: Services, job: Any) -> dg.ScheduleDefinition:
    """The schedule of `job`. Off until it is switched on, as what it looks after is."""
    return dg.ScheduleDefinition(
        name="nightly_audit",
        job=job,
        cron_schedule=CRON,
        execution_timezone=services.settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Executes the checks of raw_builds and spans for the last "
        f"{services.settings.nightly_days} complete days (BK_PIPELINE_NIGHTLY_DAYS): is all "
        "there that Buildkite lists, and is it sound? Costs a request for 100 builds.",
    )
