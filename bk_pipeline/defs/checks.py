"""Asset checks: what must hold of a day's data, and what to do where it does not.

`no_quarantined_builds` and `all_accepted` are evaluated by the asset that they are about. The
audits read whole days: each night the last complete ones, and whenever a person executes them.
In a run that materializes days, those days' spans are checked too; Buildkite is not asked again
for what that run has just listed.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from bk_pipeline.analysis.change import Change
from bk_pipeline.app import App
from bk_pipeline.defs.daily_asset import as_dagster_failures, day_of, step_log
from bk_pipeline.defs.metadata import SHOWN, cleaned
from bk_pipeline.defs.naming import Naming
from bk_pipeline.defs.resources import app_of, resource_keys
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.pipeline import Day
from bk_pipeline.text import counted
from bk_pipeline.window import day_key, day_keys

if TYPE_CHECKING:
    from bk_pipeline.pipeline import FoundDeployments

NO_QUARANTINED_BUILDS = "no_quarantined_builds"
ALL_ACCEPTED = "all_accepted"
RESTORED = "restored"
NO_REGRESSIONS = "no_regressions"
COMPLETE, FRESH = "complete", "fresh"
NO_ORPHANS, NO_NEGATIVE_DURATIONS = "no_orphans", "no_negative_durations"

# When this long has passed after a day, it should have been read to its end.
GRACE = timedelta(hours=6)

# A change for the worse fails the check for as long after it began; then it is how things are.
NEWS = timedelta(days=7)

PARTITION = "dagster/partition"
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def no_quarantined_builds(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the check that every build of the day could be made into spans."""
    return dg.AssetCheckSpec(
        NO_QUARANTINED_BUILDS,
        asset=asset,
        description="Every build could be made into spans. If not, `bk-pipeline quarantined` lists "
        "those that could not, with the reasons; their payloads are in the raw store. Report "
        "them: a payload that Buildkite sends should be understood.",
    )


def all_accepted(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the check that a destination rejected nothing of the day."""
    return dg.AssetCheckSpec(
        ALL_ACCEPTED,
        asset=asset,
        description="The destination rejected nothing. If it did, `bk-pipeline ledger rejected` "
        "lists what, with the reasons; fix the cause, then `bk-pipeline ledger requeue` has them "
        "sent again with the next run.",
    )


def restored(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the check that no service is left with a failed deployment."""
    return dg.AssetCheckSpec(
        RESTORED,
        asset=asset,
        description="The day's last deployment or rollback of each service and environment "
        "succeeded. If it did not, deploy or roll back; a later day shows when it was restored.",
    )


def not_restored(found: "FoundDeployments") -> Iterator[str]:
    """Yield each service and environment whose last deployment or rollback failed."""
    last = {one.target: one for one in found.deployments}
    for (service, environment), one in last.items():
        if one.outcome == "failed":
            yield f"{service} in {environment}: {one.url or one.pipeline}"


def no_regressions(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the check that nothing changed for the worse lately."""
    return dg.AssetCheckSpec(
        NO_REGRESSIONS,
        asset=asset,
        description=f"Nothing that lasts changed for the worse in the {NEWS.days} days before the "
        "partition's end. If it did, the first build on the new side is named, with its commit: "
        "compare it with the one before. `bk-pipeline changes` shows all changes.",
    )


def regressions(found: Iterable[Change], day: Day) -> Iterator[str]:
    """Yield a sentence for each change for the worse that lasts and is news, the worst first."""
    for one in found:
        if one.lasts and one.began_at >= day.window.end - NEWS:
            yield f"{day.key}: {one.sentence}: {one.values}"


def rejections(day: str, done: Delivery) -> Iterator[str]:
    """Yield a message for each kind of rejection in a delivery."""
    if done.rejected:
        reasons = "; ".join({one.reason for one in done.rejections})
        yield f"{day}: {counted(done.rejected, 'event')}: {reasons}"
    if done.rejected_unnamed:
        yield f"{day}: {counted(done.rejected_unnamed, 'event')} that the destination did not identify"


def result(
    name: str, offenders: list[str], *, asset: dg.AssetKey | None = None, **metadata: Any
) -> dg.AssetCheckResult:
    """Return the result of a check, which passes if there are no `offenders`."""
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset,
        passed=not offenders,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=cleaned(
            {
                **metadata,
                "count": len(offenders),
                **({"first": offenders[:SHOWN]} if offenders else {}),
            }
        ),
    )


def audits(naming: Naming) -> list[dg.AssetChecksDefinition]:
    """Return the audits; each says in its description what to do when it fails."""
    return [_raw_builds(naming), _spans(naming)]


def _raw_builds(naming: Naming) -> dg.AssetChecksDefinition:
    asset = naming.key("raw_builds")
    specs = [
        dg.AssetCheckSpec(
            COMPLETE,
            asset=asset,
            description="Buildkite lists no finished build of the last complete days that is not "
            "stored. Costs a request for 100 builds. If it fails, materialize raw_builds and what "
            "follows for the days it names, with `reconcile: true` in the run's config, or leave "
            f"it to {naming.named('nightly_reconcile')}.",
        ),
        dg.AssetCheckSpec(
            FRESH,
            asset=asset,
            description="The last complete day was read since it was over. If it fails, switch on "
            f"{naming.named('builds_sensor')} and {naming.named('nightly_reconcile')} under "
            "Automation; if they are on, their last run says what is wrong.",
        ),
    ]

    # can_subset: so that it may also have nothing to say.
    @dg.multi_asset_check(
        name=naming.op("raw_builds_audit"),
        specs=specs,
        can_subset=True,
        required_resource_keys=resource_keys(naming),
    )
    def raw_builds_audit(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if asset in (context.run.asset_selection or ()):
            return
        selected = {key.name for key in context.selected_asset_check_keys}
        with as_dagster_failures(retries=0):
            app = app_of(context, naming)
        with as_dagster_failures(retries=app.retries), step_log(context, app) as log:
            if FRESH in selected:
                yield result(FRESH, _unread(app), asset=asset)
            if COMPLETE in selected:
                days = _days(context, app)
                yield _complete(asset, days, app, on_wait=log.wait)

    return raw_builds_audit


def _complete(
    asset: dg.AssetKey, days: list[Day], app: App, on_wait: Callable[[str], None]
) -> dg.AssetCheckResult:
    from bk_pipeline.doctor.audit import completeness  # noqa: PLC0415  # only runs need it

    missing, listed, checked = [], 0, []
    with app.buildkite(on_wait) as client:
        for day in days:
            found = completeness(
                day.key, day.window, client=client, raw=app.raw(), privacy=app.privacy()
            )
            if found is not None:
                checked.append(day.key)
                listed += found.listed
                missing += [f"{day.key}: {one}" for one in found.missing]
    return result(COMPLETE, missing, asset=asset, days=", ".join(checked), builds=listed)


def _unread(app: App) -> list[str]:
    """A message if the last complete day was not read since it ended."""
    from bk_pipeline.doctor.audit import read_to_its_end  # noqa: PLC0415  # only runs need it

    settings, now = app.settings, app.clock.now()
    last = day_of(day_key(now - GRACE - timedelta(days=1), settings.timezone), settings)
    if last.key < settings.start_date.isoformat():
        return []
    if read_to_its_end(last.key, last.window, raw=app.raw()):
        return []
    read_at = app.raw().watermark(last.key)
    return [f"{last.key} was last read {f'at {read_at:%Y-%m-%d %H:%MZ}' if read_at else 'never'}."]


def _spans(naming: Naming) -> dg.AssetChecksDefinition:
    asset = naming.key("spans")
    report = (
        " If it fails, keep the payloads that it names (raw_builds has them) and report them: "
        "it is a bug of bk_pipeline. What was delivered of these builds has gaps."
    )
    specs = [
        dg.AssetCheckSpec(
            NO_ORPHANS, asset=asset, description="Every span's parent is in its trace." + report
        ),
        dg.AssetCheckSpec(
            NO_NEGATIVE_DURATIONS,
            asset=asset,
            description="No span ends before it starts." + report,
        ),
    ]

    @dg.multi_asset_check(
        name=naming.op("spans_audit"),
        specs=specs,
        can_subset=True,
        required_resource_keys=resource_keys(naming),
    )
    def spans_audit(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        from bk_pipeline.doctor.audit import soundness  # noqa: PLC0415  # only runs need it

        selected = {key.name for key in context.selected_asset_check_keys}
        orphans, negative, spans, checked = [], [], 0, []
        with as_dagster_failures(retries=0):
            app = app_of(context, naming)
        with as_dagster_failures(retries=app.retries):
            for day in _days(context, app):
                found = soundness(day.key, spans=app.spans())
                if found.spans:
                    checked.append(day.key)
                spans += found.spans
                orphans += [f"{day.key}: {one}" for one in found.orphans]
                negative += [f"{day.key}: {one}" for one in found.negative]
        for name, offenders in ((NO_ORPHANS, orphans), (NO_NEGATIVE_DURATIONS, negative)):
            if name in selected:
                yield result(name, offenders, asset=asset, days=", ".join(checked), spans=spans)

    return spans_audit


def _days(context: dg.AssetCheckExecutionContext, app: App) -> list[Day]:
    """The run's partitions; without any, the last complete days."""
    settings, tags = app.settings, context.run.tags
    first, last = tags.get(FIRST, tags.get(PARTITION)), tags.get(LAST, tags.get(PARTITION))
    if first is None or last is None:
        today = app.clock.now().astimezone(settings.timezone).date()
        start = max(today - timedelta(days=settings.nightly_days), settings.start_date)
        keys = day_keys(start, today - timedelta(days=1))
    else:
        keys = day_keys(date.fromisoformat(first), date.fromisoformat(last))
    return [day_of(key, settings) for key in keys]
