"""`bk-pipeline trace`: show a build as a waterfall, with links to its trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from bk_pipeline.app import App
from bk_pipeline.buildkite.quota import Quota
from bk_pipeline.buildkite.records import BuildRecord
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.display import safe_url
from bk_pipeline.errors import PipelineError
from bk_pipeline.lines import Lines
from bk_pipeline.settings import Settings
from bk_pipeline.spans.costs import with_costs
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.records import NEVER_RUN, Build, decode_build
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.text import counted, duration, money, one_line
from bk_pipeline.trace.labels import INSIDE, failure_kind, is_manual, name_of, notes_of, readable
from bk_pipeline.trace.lookup import Reference, at_buildkite, in_table, read_reference
from bk_pipeline.trace.waterfall import (
    Line,
    Timescale,
    insides_note,
    longest_on_path,
    outline,
    timescale_of,
    waiting_since,
)
from bk_pipeline.units import NS_PER_MS
from bk_pipeline.window import day_key

Span = dict[str, Any]

COLOURS = {"ok": "green", "error": "red", "unset": "yellow"}
PERSON = "blue"
RAN, OFF_PATH, WAITED, PAUSED, FOLDED, INSIDE_JOB = "█", "▓", "░", "╌", "▒", "▄"
LEGEND = "░ waited for an agent  █ ran  ▓ ran off the critical path  ╌ waited for a person"
LEGEND_INSIDE = "  ▄ inside of a job"

LABEL_SHARE, LONGEST_LABEL, SHORTEST_LABEL = 0.5, 60, 8
LONGEST_DURATION = 9
# With fewer columns than this, bars are not drawn.
LEAST_BARS = 8
# A few screens.
MOST_LINES = 150


def waterfall(spans: Sequence[Span], *, width: int, most_lines: int | None = MOST_LINES) -> Table:
    """Draw the spans of one trace (rows of `spans.table.rows`), `width` columns wide.

    Each span has one line, except that a step with one job is shown as that job, and that only what
    matters is shown inside of jobs. If there are more than `most_lines`, some children of each
    parent are folded into a line with their counts; None shows every span. Bars are omitted if there
    is no room, and long pauses are shortened.
    """
    lines = outline(spans, most_lines=most_lines)
    labels = [_label(line) for line in lines]
    room = width - LONGEST_DURATION - 2
    longest = max(cell_len(label.plain) for label in labels)
    label_width = min(longest, LONGEST_LABEL, max(int(room * LABEL_SHARE), SHORTEST_LABEL))
    bars = room - label_width - 1
    if bars < LEAST_BARS:
        label_width, bars = max(min(longest, room), SHORTEST_LABEL), 0
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=label_width, no_wrap=True, overflow="ellipsis")
    if bars:
        table.add_column(width=bars, no_wrap=True)
    table.add_column(width=LONGEST_DURATION, justify="right", no_wrap=True)
    scale = timescale_of(spans, columns=max(bars, 1))
    for line, label in zip(lines, labels, strict=True):
        bar = [_bar(line, scale, bars)] if bars else []
        length = duration((line.end_ns - line.start_ns) // NS_PER_MS)
        table.add_row(label, *bar, Text(length))
    inside = insides_note(spans, lines)
    notes = [f"{inside}: --all shows all" if inside else ""]
    notes += ["long pauses are shortened"] if bars and scale.shortened else []
    if caption := "; ".join(note for note in notes if note):
        table.caption = Text(caption, "dim")
        table.caption_justify = "left"
    return table


def _label(line: Line) -> Text:
    indent = "  " * line.depth
    if line.span is None:
        return Text(f"{indent}{line.folded_summary}", style="dim")
    failed = line.span["status"] == "error"
    notes = notes_of(line.span)
    text = f"{'✗ ' if failed else ''}{line.name}{f' ({notes})' if notes else ''}"
    return Text(indent + text, style=COLOURS["error"] if failed else "")


def _bar(line: Line, scale: Timescale, columns: int) -> Text:
    start = min(scale.column(line.start_ns), columns - 1)
    end = max(scale.column(line.end_ns), start + 1)
    if line.span is None:
        return Text.assemble(" " * start, (FOLDED * (end - start), "dim"))
    attributes = line.span["attributes"]
    colour = COLOURS[line.span["status"]]
    if line.span["name"] in INSIDE:
        # Most have no status; that does not mean that they were canceled.
        colour = COLOURS["error" if line.span["status"] == "error" else "ok"]
        return Text.assemble(" " * start, (INSIDE_JOB * (end - start), colour))
    if is_manual(line.span):
        return Text.assemble(" " * start, (PAUSED * (end - start), PERSON))
    if attributes.get("buildkite.job.started") is False or line.span["name"] == SpanKind.WAIT:
        return Text.assemble(" " * start, (WAITED * (end - start), colour))
    waiting = min(scale.column(waiting_since(line.span)), start)
    ran = OFF_PATH if attributes.get("bk_pipeline.critical_path") is False else RAN
    return Text.assemble(
        " " * waiting, (WAITED * (start - waiting), "dim"), (ran * (end - start), colour)
    )


# A user waits for the response of Buildkite, and for the links.
DEADLINE_S = 20.0
LINK_DEADLINE_S = 5.0
SHOWN_FAILURES, SHOWN_TESTS = 10, 3
LONGEST_MESSAGE = 200
SHORT_COMMIT = 7


def trace(build: str, fetch: bool, every: bool) -> None:
    """Show a build as a waterfall of its jobs and waits."""
    reference = read_reference(build)
    app = App(Settings.load(BK_PIPELINE_HTTP_DEADLINE_S=str(LINK_DEADLINE_S)))
    errors = Console(stderr=True)
    stored: list[Span] = []
    if not fetch:
        with errors.status("Searching the span table …"):
            stored = stored_spans(reference, app)
    if stored:
        _show(stored, app, every=every)
        return
    with (
        errors.status("Reading from Buildkite …") as status,
        closing(Lines(partial(echo, err=True))) as lines,
    ):
        tell = status.update if errors.is_terminal else lines.wait
        found = _fetched(reference, app, on_wait=tell)
        payload = decode_build(found.payload)
        made = spans_for_build(payload)
    if made is None:
        echo(_unfinished(payload, app))
        return
    table = with_costs(table_of([made]), app.prices())
    _show(list(rows(app.privacy().apply(table))), app, every=every)
    if not fetch:
        day = day_key(from_ns(found.created_ns), app.settings.timezone)
        echo(f"This build is not in the span table: materialize {day} to deliver it.", err=True)


def stored_spans(reference: Reference, app: App) -> list[Span]:
    """Return the build's spans from the span table; none if it does not have the build."""
    search = app.search()
    organization = app.settings.buildkite_organization_slug
    found = in_table(reference, search, app.settings.timezone, organization=organization)
    return list(rows(search.spans(found))) if found else []


def _fetched(reference: Reference, app: App, *, on_wait: Callable[[str], None]) -> BuildRecord:
    return at_buildkite(
        reference,
        lambda: app.buildkite(on_wait, deadline_s=DEADLINE_S, quota=Quota()),
        where=app.settings.storage,
        organization=app.settings.buildkite_organization_slug,
    )


def _show(spans: Sequence[Span], app: App, *, every: bool) -> None:
    console = Console(highlight=False)
    describe(spans, console, app.settings.buildkite_hosts, every=every)
    for name, link in _links(spans[0], app):
        console.print(Text(f"{name}: {link}"), soft_wrap=True)


def describe(
    spans: Sequence[Span], console: Console, hosts: Collection[str], *, every: bool = False
) -> None:
    """Print a build's heading, waterfall, critical path and failures.

    Args:
        spans: The build's spans, as `spans.table.rows` has them.
        console: Where to print.
        hosts: The hosts of Buildkite's pages: links lead nowhere else.
        every: Print a line for every span, however many there are.
    """
    root = spans[0]
    for line in _about(root, hosts):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(waterfall(spans, width=console.width, most_lines=None if every else MOST_LINES))
    inside = LEGEND_INSIDE if any(one["name"] in INSIDE for one in spans) else ""
    console.print(f"\n{LEGEND}{inside}", style="dim")
    if advice := longest_on_path(spans):
        console.print(Text(f"Critical path: {advice}"), soft_wrap=True)
    failures = _failures(spans, hosts)
    for failure in failures[:SHOWN_FAILURES]:
        for line in failure:
            console.print(line, soft_wrap=True)
    if len(failures) > SHOWN_FAILURES:
        console.print(f"  and {len(failures) - SHOWN_FAILURES:,} more")


def _about(root: Span, hosts: Collection[str]) -> list[Text]:
    """Return the heading: branch, commit, message, creator, URL, creation time, cost."""
    own = {name.removeprefix("buildkite.build."): one for name, one in root["attributes"].items()}
    commit = (own.get("commit") or "")[:SHORT_COMMIT]
    where = " @ ".join(
        readable(one) for one in (own.get("tag") or own.get("branch"), commit) if one
    )
    message, *_ = (own.get("message") or "").splitlines() or [""]
    creator = own.get("creator.name")
    what = [where, readable(message), f"by {readable(creator)}" if creator else ""]
    created = f"created {own.get('created_at', '')}{_cost_of(root['attributes'])}"
    lines = [
        " · ".join(one for one in what if one),
        f"{safe_url(own.get('web_url'), hosts) or ''}  {created}",
    ]
    return [Text(line.strip()) for line in lines if line.strip()]


def _cost_of(build: dict[str, Any]) -> str:
    """Return what a build cost, and what of it was spent on retried attempts, if that is known."""
    cost, currency = build.get("bk_pipeline.cost"), build.get("bk_pipeline.currency")
    if cost is None:
        return ""
    retries = build.get("bk_pipeline.retries_cost")
    part = f", of which {money(retries, None)} for retried attempts" if retries else ""
    return f"  cost {money(cost, currency)}{part}"


def _failures(spans: Sequence[Span], hosts: Collection[str]) -> list[list[Text]]:
    """Return lines for each failed job that was not retried: with a link, the reason and tests."""
    failed = {
        span["span_id"]: span
        for span in spans
        if span["name"] == SpanKind.JOB
        and span["status"] == "error"
        and not span["attributes"].get("buildkite.job.retried")
    }
    causes = _causes(spans, failed)
    return [[_failure(job, hosts), *_reasons(causes[span_id])] for span_id, job in failed.items()]


def _failure(job: Span, hosts: Collection[str]) -> Text:
    attributes = job["attributes"]
    length = duration((job["end_unix_nano"] - job["start_unix_nano"]) // NS_PER_MS)
    url = safe_url(attributes.get("buildkite.job.web_url"), hosts) or ""
    what = (attributes.get("error.type") or "failed").replace("_", " ")
    return Text(f"✗ {name_of(job)}: {what} after {length}  {url}", "red")


def _causes(spans: Sequence[Span], jobs: Collection[str]) -> dict[str, list[Span]]:
    """Return, by the ids of jobs, the sections and tests inside of them that say why they failed."""
    parents = {span["span_id"]: span.get("parent_span_id") for span in spans}
    found: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span["name"] in {SpanKind.SECTION, SpanKind.CASE} and span["status"] == "error":
            above = span["span_id"]
            while above is not None and above not in jobs:
                above = parents.get(above)
            if above is not None:
                found[above].append(span)
    return found


def _reasons(causes: Sequence[Span]) -> Iterator[Text]:
    """Yield what the job's log says, and the first of its tests that failed."""
    tests = [one for one in causes if one["name"] == SpanKind.CASE]
    for one in causes:
        told = (failure_kind(one), _message(one))
        if one["name"] == SpanKind.SECTION and any(told):
            yield Text(f"    {': '.join(part for part in told if part)}")
    for one in tests[:SHOWN_TESTS]:
        class_ = readable(one["attributes"].get("bk_pipeline.test.class") or "")
        named = " / ".join(part for part in (class_, name_of(one)) if part)
        yield Text("    ✗ " + ": ".join(part for part in (named, _message(one)) if part))
    if len(tests) > SHOWN_TESTS:
        yield Text(f"    and {counted(len(tests) - SHOWN_TESTS, 'more failed test')}")


def _message(span: Span) -> str:
    return one_line(span["attributes"].get("bk_pipeline.failure.message") or "", LONGEST_MESSAGE)


def _links(root: Span, app: App) -> Iterator[tuple[str, str]]:
    """Yield the trace link of each destination that has trace pages and responds."""
    for one in app.destinations():
        try:
            with app.destination(one) as destination:
                link = destination.trace_link(
                    root["trace_id"], start_ns=root["start_unix_nano"], end_ns=root["end_unix_nano"]
                )
        except PipelineError as exc:
            echo(f"No link to {one.asset}: {exc}", err=True)
            continue
        if link:
            yield one.kind.capitalize(), link


def _unfinished(build: Build, app: App) -> str:
    """`web#12 is running: 4 of 9 jobs have ended, 2 run, 3 wait. …`."""
    privacy = app.privacy()
    own = build.pipeline.slug if build.pipeline else None
    slug = privacy.shown("buildkite.pipeline.slug", own) or ""
    number = privacy.shown("buildkite.build.number", build.number) or "?"
    state = privacy.shown("buildkite.build.state", build.state) or "not finished"
    shown_url = privacy.shown("buildkite.build.web_url", build.web_url)
    url = safe_url(shown_url, app.settings.buildkite_hosts) or ""
    if build.state in NEVER_RUN:
        state = state.replace("_", " ")
        return f"{slug}#{number} is {state}: it never runs and has no trace."
    jobs = [job for job in build.jobs or () if job.type != "waiter"]
    states = Counter(privacy.shown("buildkite.job.state", job.state) or "unknown" for job in jobs)
    told = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.most_common())
    return (
        f"{slug}#{number} is {state}"
        + (f"; its {counted(len(jobs), 'job')}: {told}" if jobs else "")
        + f". Its trace is available after it has finished. {url}"
    )
