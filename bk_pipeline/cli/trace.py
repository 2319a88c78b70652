"""`bk-pipeline trace`: one build as a waterfall, and the way to its trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import click
from rich.text import Text

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.records import BuildRecord
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.cli.waterfall import LEGEND, MOST_LINES, waterfall
from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.errors import PipelineError
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.lines import Lines
from bk_pipeline.lookup import Reference, at_buildkite, in_table, read_reference
from bk_pipeline.settings import Settings
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import NEVER_RUN, Build, decode_build
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.search import SpanSearch
from bk_pipeline.text import counted, duration
from bk_pipeline.units import NS_PER_MS
from bk_pipeline.waterfall.labels import readable
from bk_pipeline.waterfall.words import name_of
from bk_pipeline.window import day_key

Span = dict[str, Any]

# A person waits for the answer: Buildkite's, and for a link.
DEADLINE_S = 20.0
LINK_DEADLINE_S = 5.0
SHOWN_FAILURES = 10
SHORT_COMMIT = 7


@click.command()
@click.argument("build", metavar="BUILD")
@click.option("--fetch", is_flag=True, help="Ask Buildkite, even if the span table has it.")
@click.option("--all", "every", is_flag=True, help="A line for every job, however many.")
def trace(build: str, fetch: bool, every: bool) -> None:
    """Show a build as a waterfall: who waited, who ran, who failed, when.

    BUILD is the URL of a build's page (or of its trace at Honeycomb), pipeline#number, a
    number, or a UUID. It is looked for in the span table, and asked of Buildkite if it is
    not there. Links to its trace follow, one for each destination that has pages.

    \b
      bk-pipeline trace https://buildkite.com/acme/web/builds/4182
      bk-pipeline trace web#4182

    Without a terminal there is no colour; NO_COLOR=1 takes it from a terminal too.
    """
    reference = read_reference(build)
    settings = Settings.load(BK_PIPELINE_HTTP_DEADLINE_S=str(LINK_DEADLINE_S))
    errors = Console(stderr=True)
    stored: list[Span] = []
    if not fetch:
        with errors.status("Looking in the span table …"):
            stored = _stored(reference, settings)
    if stored:
        _show(stored, settings, every=every)
        return
    with (
        errors.status("Asking Buildkite …") as status,
        closing(Lines(partial(echo, err=True))) as lines,
    ):
        tell = status.update if errors.is_terminal else lines.wait
        found = _fetched(reference, settings, on_wait=tell)
        payload = decode_build(found.payload)
        made = spans_for_build(payload)
    if made is None:
        echo(_unfinished(payload, Privacy.from_settings(settings)))
        return
    _show(
        list(rows(Privacy.from_settings(settings).apply(table_of([made])))), settings, every=every
    )
    if not fetch:
        day = day_key(from_ns(found.created_ns), settings.timezone)
        echo(f"Not in the span table: materialize {day} to deliver it.", err=True)


def _stored(reference: Reference, settings: Settings) -> list[Span]:
    search = SpanSearch(Folder(settings.storage))
    organization = settings.buildkite_organization_slug
    found = in_table(reference, search, settings.timezone, organization=organization)
    return list(rows(search.spans(found))) if found else []


def _fetched(
    reference: Reference, settings: Settings, *, on_wait: Callable[[str], None]
) -> BuildRecord:
    def connect() -> BuildkiteClient:
        return BuildkiteClient.from_settings(
            settings, retry_policy=RetryPolicy(deadline_s=DEADLINE_S), on_wait=on_wait
        )

    return at_buildkite(
        reference,
        connect,
        where=settings.storage,
        organization=settings.buildkite_organization_slug,
    )


def _show(spans: Sequence[Span], settings: Settings, *, every: bool) -> None:
    console = Console(highlight=False)
    root = spans[0]
    for line in _about(root):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(waterfall(spans, width=console.width, most_lines=None if every else MOST_LINES))
    console.print(f"\n{LEGEND}", style="dim")
    failures = _failures(spans)
    for failure in failures[:SHOWN_FAILURES]:
        console.print(failure, soft_wrap=True)
    if len(failures) > SHOWN_FAILURES:
        console.print(f"  and {len(failures) - SHOWN_FAILURES:,} more")
    for name, link in _links(root, settings):
        console.print(Text(f"{name}: {link}"), soft_wrap=True)


def _about(root: Span) -> list[Text]:
    """What the build is about, as far as it says."""
    own = {name.removeprefix("buildkite.build."): one for name, one in root["attributes"].items()}
    commit = (own.get("commit") or "")[:SHORT_COMMIT]
    where = " @ ".join(
        readable(one) for one in (own.get("tag") or own.get("branch"), commit) if one
    )
    message, *_ = (own.get("message") or "").splitlines() or [""]
    creator = own.get("creator.name")
    what = [where, readable(message), f"by {readable(creator)}" if creator else ""]
    created = f"created {own.get('created_at', '')}"
    lines = [" · ".join(one for one in what if one), f"{own.get('web_url') or ''}  {created}"]
    return [Text(line.strip()) for line in lines if line.strip()]


def _failures(spans: Sequence[Span]) -> list[Text]:
    """The jobs that failed for good, a line each, with their pages."""
    found = []
    for span in spans:
        attributes = span["attributes"]
        replaced = attributes.get("buildkite.job.retried")
        if span["name"] == SpanKind.JOB and span["status"] == "error" and not replaced:
            length = duration((span["end_unix_nano"] - span["start_unix_nano"]) // NS_PER_MS)
            url = attributes.get("buildkite.job.web_url") or ""
            what = (attributes.get("error.type") or "failed").replace("_", " ")
            found.append(Text(f"✗ {name_of(span)}: {what} after {length}  {url}", "red"))
    return found


def _links(root: Span, settings: Settings) -> Iterator[tuple[str, str]]:
    """The trace's page at each destination that has pages. None where one does not answer."""
    for one in destinations(settings):
        try:
            link = one.open(SystemClock()).trace_link(
                root["trace_id"], start_ns=root["start_unix_nano"], end_ns=root["end_unix_nano"]
            )
        except PipelineError as exc:
            echo(f"No link to {one.asset}: {exc}", err=True)
            continue
        if link:
            yield one.kind.capitalize(), link


def _unfinished(build: Build, privacy: Privacy) -> str:
    """`web#12 is running: 4 of 9 jobs have ended, 2 run, 3 wait. …`."""
    own = build.pipeline.slug if build.pipeline else None
    slug = privacy.shown("buildkite.pipeline.slug", own) or ""
    number = privacy.shown("buildkite.build.number", build.number) or "?"
    state = privacy.shown("buildkite.build.state", build.state) or "not finished"
    url = privacy.shown("buildkite.build.web_url", build.web_url) or ""
    if build.state in NEVER_RUN:
        state = state.replace("_", " ")
        return f"{slug}#{number} is {state}: it never runs, and has no trace."
    jobs = [job for job in build.jobs or () if job.type != "waiter"]
    states = Counter(privacy.shown("buildkite.job.state", job.state) or "unknown" for job in jobs)
    told = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.most_common())
    return (
        f"{slug}#{number} is {state}"
        + (f"; its {counted(len(jobs), 'job')}: {told}" if jobs else "")
        + f". Its trace is made when it has finished. {url}"
    )
