"""`bk-pipeline markers`: plan, apply, list and prune Honeycomb markers; add and delete one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from functools import cache

import click

from bk_pipeline.app import App
from bk_pipeline.cli.honeycomb import paint, wrong_colors
from bk_pipeline.cli.output import Console, echo, line_of, sentence, tell
from bk_pipeline.errors import ConfigError, NotFound
from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.placing import Plan
from bk_pipeline.honeycomb.rules import Marker, marker_dataset
from bk_pipeline.http.retry import report_pauses_to
from bk_pipeline.lines import Lines
from bk_pipeline.pipeline import MarkerContext, place_markers, plan_markers, prune_markers
from bk_pipeline.pipeline.mark import NO_CHANGES
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted, one_line

LONGEST_TYPE, LONGEST_MESSAGE = 100, 1_000


def listed(include_others: bool) -> None:
    """List the markers that we made, as Honeycomb has them now."""
    with _opened() as (_, it, _):
        ours = {one.marker_id: one for one in it.ledger.markers.placed(it.client.name)}
        datasets = {one.dataset for one in ours.values()}
        if include_others:
            datasets |= it.rules.datasets
        for dataset in sorted(datasets):
            present = {one.id: one for one in it.client.list_markers(dataset)}
            for marker_id, known in ours.items():
                if known.dataset == dataset and marker_id not in present:
                    _line(dataset, known.rule, marker_id, "deleted in Honeycomb")
            for one in sorted(present.values(), key=lambda one: one.start_time or 0):
                if one.id in ours or include_others:
                    rule = ours[one.id].rule if one.id in ours else "-"
                    times = (_moment(one.start_time), _moment(one.end_time))
                    words = (one.type or "", one.message or "", one.url or "")
                    _line(dataset, rule, one.id, *times, *words)


def plan(first: date | None, last: date | None, restore: bool) -> None:
    """Show what apply would create and change, and prune delete. Changes nothing."""
    total: Counter[str] = Counter()
    with _opened() as (app, it, _):
        days = {*app.raw().days(), *_placed_days(it)}
        listed = cache(it.client.list_markers)
        for day in _chosen(days, first, last):
            planned = plan_markers(day, it, listed=listed, restore=restore).plan
            _show(day, planned)
            total += _counts(planned)
        for dataset in sorted(it.rules.datasets):
            for one in wrong_colors(dataset, it.rules, it.client):
                _line("color", "-", dataset, one)
                total["to color"] += 1
    echo(sentence(total))


def apply(first: date | None, last: date | None, restore: bool) -> None:
    """Create and change markers according to the rules, and set the colors of their types."""
    total: Counter[str] = Counter()
    console = Console(stderr=True)
    with (
        _opened() as (app, it, lines),
        console.status("Placing markers …") as status,
    ):
        progress = status.update if console.is_terminal else lines.progress
        for day in _chosen(app.raw().days(), first, last):
            placed = place_markers(
                day, it, whole=True, restore=restore, progress=progress, on_wait=lines.wait
            )
            total.update({name.replace("_", " "): count for name, count in asdict(placed).items()})
        for dataset in sorted(it.rules.datasets):
            total["colors set"] += paint(dataset, it.rules, it.client)
    echo(sentence(total))


def prune(yes: bool) -> None:
    """Delete the markers that we made and that no rule asks for any more."""
    with _opened() as (_, it, lines):
        listed = cache(it.client.list_markers)
        plans = {day: plan_markers(day, it, listed=listed).plan for day in sorted(_placed_days(it))}
        doomed = {day: one for day, one in plans.items() if one.delete}
        if not doomed:
            echo("Nothing to delete.")
            return
        for day, one in doomed.items():
            _show(day, Plan(delete=one.delete))
        count = sum(len(one.delete) for one in doomed.values())
        if not yes:
            click.confirm(
                f"Delete {'this' if count == 1 else 'these'} {counted(count, 'marker')}?",
                abort=True,
            )
        total: Counter[str] = Counter()
        for day in doomed:
            pruned = prune_markers(day, it, on_wait=lines.wait)
            total.update(deleted=pruned.deleted, gone=pruned.missing)
    gone = f" {total['gone']:,} had been deleted in Honeycomb before." if total["gone"] else ""
    echo(f"{counted(total['deleted'], 'marker')} deleted.{gone}")


def add(
    *,
    message: str | None,
    kind: str,
    url: str | None,
    start: int | None,
    end: int | None,
    dataset: str | None,
) -> None:
    """Create one marker and print its id."""
    app = App(Settings.load())
    begin = int(app.clock.now().timestamp()) if start is None else start
    if end is not None and end < begin:
        raise ConfigError("--end is before --start.")
    marker = Marker(
        start_time=begin,
        end_time=end,
        type=one_line(kind, LONGEST_TYPE),
        message=one_line(message or _job_title(), LONGEST_MESSAGE),
        url=_page(url),
    )
    with _client(app) as client:
        slug = marker_dataset(dataset or app.settings.honeycomb_dataset)
        # So that a marker whose response is lost is not taken for an equal one of before.
        others = {one.id for one in client.list_markers(slug)}
        marker_id, _ = client.create(slug, marker, others=others)
    echo(marker_id)


def delete(marker_id: str, dataset: str | None) -> None:
    """Delete one marker."""
    app = App(Settings.load())
    with _client(app) as client:
        slug = marker_dataset(dataset or app.settings.honeycomb_dataset)
        if not client.delete(slug, marker_id):
            raise NotFound(
                f"There is no marker {marker_id} in {slug}. Name its dataset with --dataset."
            )


@contextmanager
def _client(app: App) -> Iterator[MarkerClient]:
    with (
        closing(Lines(tell)) as lines,
        report_pauses_to(lines.wait),
        app.marker_client(lines.wait) as client,
    ):
        yield client


def _job_title() -> str:
    """The current Buildkite job: its pipeline, number and step."""
    pipeline, number = (
        os.environ.get(f"BUILDKITE_{one}") for one in ("PIPELINE_SLUG", "BUILD_NUMBER")
    )
    if not pipeline or not number:
        raise ConfigError("Give a --message. Only within a Buildkite job is there a default.")
    step = os.environ.get("BUILDKITE_LABEL") or os.environ.get("BUILDKITE_STEP_KEY")
    return f"{pipeline} #{number}" + (f": {step}" if step else "")


def _page(url: str | None) -> str | None:
    """The marker's link: `url`, or the page of the current Buildkite job."""
    if url is None:
        build, job = os.environ.get("BUILDKITE_BUILD_URL"), os.environ.get("BUILDKITE_JOB_ID")
        if not build:
            return None
        url = f"{build}#{job}" if job else build
    if not url.startswith("https://") or not url.isascii() or not url.isprintable():
        raise ConfigError("The URL of a marker must begin with https://.")
    return url


@contextmanager
def _opened() -> Iterator[tuple[App, MarkerContext, Lines]]:
    """Open what the commands use, according to the settings, and a printer for waits."""
    app = App(Settings.load())
    with (
        closing(Lines(tell)) as lines,
        report_pauses_to(lines.wait),
        app.marking(lines.wait) as marking,
    ):
        if marking.lacks_changes:
            tell(NO_CHANGES)
        yield app, marking, lines


def _chosen(days: Iterable[str], first: date | None, last: date | None) -> list[str]:
    since = first.isoformat() if first else ""
    until = last.isoformat() if last else "9999"
    return [day for day in sorted(days) if since <= day <= until]


def _placed_days(it: MarkerContext) -> set[str]:
    """The days of the markers that we made."""
    return {one.day for one in it.ledger.markers.placed(it.client.name)}


def _show(day: str, planned: Plan) -> None:
    for subject, marker in planned.create:
        _action("create", day, subject.dataset, subject.rule, marker)
    for one in planned.recovered:
        _action("find", day, one.subject.dataset, one.subject.rule, one.marker)
    for one in planned.change:
        _action("change", day, one.subject.dataset, one.subject.rule, one.marker)
    for placed in planned.delete:
        _line("delete", day, placed.dataset, placed.rule, placed.marker_id)


def _action(what: str, day: str, dataset: str, rule: str, marker: Marker) -> None:
    _line(what, day, dataset, rule, _moment(marker.start_time), marker.message)


def _counts(planned: Plan) -> Counter[str]:
    return Counter(
        {
            "to create": len(planned.create),
            "to find again": len(planned.recovered),
            "to change": len(planned.change),
            "to delete (prune)": len(planned.delete),
            "as they should be": planned.unchanged,
            "deleted in Honeycomb (--restore places them)": len(planned.missing),
            "too old": planned.too_old,
        }
    )


def _moment(seconds: int | None) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _line(*fields: str) -> None:
    line_of(fields)
