"""What a waterfall says of a span: its name, what is worth knowing, since when it waited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bk_pipeline.spans.model import SpanKind
from bk_pipeline.units import NS_PER_MS
from bk_pipeline.waterfall.labels import of_all_jobs, readable
from bk_pipeline.waterfall.timescale import Timescale

Span = dict[str, Any]


def name_of(span: Span) -> str:
    """What a person calls it."""
    attributes = span["attributes"]
    match span["name"]:
        case SpanKind.BUILD:
            slug = span["resource"].get("buildkite.pipeline.slug", "")
            return f"{readable(slug)} #{attributes.get('buildkite.build.number', '')}"
        case SpanKind.STAGE:
            return f"stage {attributes.get('buildkite.build.stage', '')}"
        case SpanKind.GROUP:
            return f"group {readable(attributes.get('buildkite.step.group.key', ''))}"
        case _:
            names = ("job.label", "step.label", "step.key", "job.type", "step.type")
            found = (readable(attributes.get(f"buildkite.{one}") or "") for one in names)
            label = next((name for name in found if name), "step")
            return of_all_jobs(label) if span["name"] == SpanKind.STEP else label


def notes_of(span: Span) -> str:
    """What is worth knowing of a span besides its name, separated by commas."""
    own = {name.removeprefix("buildkite."): value for name, value in span["attributes"].items()}
    if span["name"] == SpanKind.BUILD:
        blocked = own.get("build.blocked_state")
        return f"{own.get('build.state', '')}{', blocked' if blocked else ''}"
    if span["name"] not in {SpanKind.JOB, SpanKind.WAIT}:
        return ""
    index, retries = own.get("job.parallel.index"), own.get("job.retries_count")
    notes = (
        "" if index is None else f"{index + 1}/{own.get('job.parallel.total', '?')}",
        f"attempt {retries + 1}" if retries else "",
        "retried" if own.get("job.retried") else "",
        "soft failed" if own.get("job.soft_failed") else "",
        _ending(own),
        "never started" if own.get("job.started") is False else "",
    )
    return ", ".join(note for note in notes if note)


def _ending(job: dict[str, Any]) -> str:
    """How a job ended, unless it passed: `exit 1`, `timed out`, `agent lost`."""
    if job.get("error.type") == "agent_lost":
        return "agent lost"
    state, exit_status = job.get("job.state"), job.get("job.exit_status")
    if state == "failed":
        return "" if exit_status is None else f"exit {exit_status}"
    return "" if state in {None, "passed", "finished"} else str(state).replace("_", " ")


def timescale_of(spans: Sequence[Span], *, columns: int) -> Timescale:
    busy = [
        (waiting_since(span), span["end_unix_nano"])
        for span in spans
        if span["name"] == SpanKind.JOB and not is_manual(span)
    ]
    began = min(one["start_unix_nano"] for one in spans)
    ended = max(one["end_unix_nano"] for one in spans)
    inside = [(max(start, began), min(end, ended)) for start, end in busy]
    return Timescale(began, ended, inside, columns=columns)


def waiting_since(span: Span) -> int:
    wait_ms = span["attributes"].get("buildkite.job.wait_time_ms") or 0
    return int(span["start_unix_nano"]) - wait_ms * NS_PER_MS


def is_manual(span: Span) -> bool:
    return bool(span["attributes"].get("buildkite.job.type") == "manual")
