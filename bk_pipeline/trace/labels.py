"""What a span is called where a build is shown: names, and notes on how it went."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from rich.emoji import Emoji

from bk_pipeline.display import printable
from bk_pipeline.spans.derived import MATRIX_PLACEHOLDER
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import compact_json, counted

Span = dict[str, Any]

SHORTCODE = re.compile(r"(?<!\w):([a-zA-Z][\w+-]*):(?!\w)")
# `%n`, `%n/%t`, `(%n of %t)`, `{{matrix.os}}`.
PLACEHOLDER = re.compile(
    r"(?P<open>\()?(?:%[nNt]\b(?:\s*(?:/|of)\s*%[nNt]\b)?|\{\{[^}]*\}\})(?(open)\))"
)
# Not printable by itself, but part of many emoji.
JOINER = "\u200d"


def readable(label: str) -> str:
    """Return a label as one printable line, with `:rocket:` replaced by the emoji.

    Codes without a Unicode emoji, such as an organization's own, are removed (`:jest: Unit tests`
    becomes "Unit tests"). If nothing else is left, their names stay: `:pipeline:` is "pipeline".
    """
    shown = Emoji.replace(label)
    bare = SHORTCODE.sub("", shown)
    if not bare.strip():
        bare = SHORTCODE.sub(lambda match: f" {match[1]} ", shown)
    lines = "".join(c if c.isprintable() or c == JOINER else " " for c in bare)
    return " ".join(printable(lines).split())


def of_all_jobs(label: str) -> str:
    """Return a step's label without the placeholders of its jobs, like `%n` and `{{matrix.os}}`."""
    return " ".join(PLACEHOLDER.sub("", label).split()) or label


def with_matrix_values(label: str, matrices: Iterable[str | None]) -> str:
    """Return a step's label with the values of its jobs' matrices: `Test 1.23/1.24 amd64/arm64`.

    Args:
        label: The label, with placeholders like `{{matrix.os}}`.
        matrices: The matrix values of the jobs, as JSON; null for other jobs. If they are unknown,
            the placeholders are removed.
    """
    if "{{" not in label:
        return of_all_jobs(label)
    values: dict[str, list[str]] = defaultdict(list)
    for matrix in matrices:
        for dimension, value in _dimensions(matrix):
            if value not in values[dimension]:
                values[dimension].append(value)
    alone = next(iter(values), "") if len(values) == 1 else ""

    def filled(placeholder: re.Match[str]) -> str:
        found = values.get(placeholder[1] or alone, [])
        return "/".join(found[:MOST_VALUES]) + ("/…" if len(found) > MOST_VALUES else "")

    return of_all_jobs(MATRIX_PLACEHOLDER.sub(filled, label))


def _dimensions(matrix: str | None) -> Iterator[tuple[str, str]]:
    """Yield the dimensions and values of a job's matrix; none if it is malformed."""
    with suppress(msgspec.DecodeError):
        values = msgspec.json.decode(matrix or "{}")
        for dimension, value in (values if isinstance(values, dict) else {"": values}).items():
            yield dimension, value if isinstance(value, str) else compact_json(value)


MOST_VALUES = 4
# The kinds of spans inside of jobs, and the nouns for folded ones.
INSIDE = {
    SpanKind.SECTION: "section",
    SpanKind.COMMAND: "command",
    SpanKind.SUITE: "test suite",
    SpanKind.CASE: "test",
    SpanKind.THREAD: "thread",
    SpanKind.EVENT: "event",
}


# The attribute that names a span of the kind, and its name without a value.
INSIDE_NAMES = {
    SpanKind.SECTION: ("buildkite.job.section.name", "log"),
    SpanKind.COMMAND: ("buildkite.job.section.command", "command"),
    SpanKind.SUITE: ("test.suite.name", "tests"),
    SpanKind.CASE: ("test.case.name", "test"),
    SpanKind.THREAD: ("thread.name", "thread"),
    SpanKind.EVENT: ("bk_pipeline.profile.name", "event"),
}


def name_of(span: Span, jobs: Sequence[Span] = ()) -> str:
    """Return a span's display name; of a step, without what differs between its `jobs`."""
    attributes = span["attributes"]
    match span["name"]:
        case SpanKind.BUILD:
            slug = span["resource"].get("buildkite.pipeline.slug", "")
            return f"{readable(slug)} #{attributes.get('buildkite.build.number', '')}"
        case SpanKind.STAGE:
            return f"stage {attributes.get('buildkite.build.stage', '')}"
        case SpanKind.GROUP:
            return f"group {readable(attributes.get('buildkite.step.group.key', ''))}"
        case kind if kind in INSIDE:
            named, otherwise = INSIDE_NAMES[kind]
            return readable(str(attributes.get(named) or "")) or otherwise
        case _:
            names = ("job.label", "step.label", "step.key", "job.type", "step.type")
            found = (readable(attributes.get(f"buildkite.{one}") or "") for one in names)
            label = next((name for name in found if name), "step")
            return _of_jobs(label, jobs) if span["name"] == SpanKind.STEP else label


def _of_jobs(label: str, jobs: Sequence[Span]) -> str:
    """Return a step's label without placeholders; if it is nothing else, with the jobs' values."""
    rest = of_all_jobs(label)
    if "{{" not in rest:
        return rest
    matrices = [one["attributes"].get("buildkite.job.matrix") for one in jobs]
    return with_matrix_values(label, matrices) or rest


def notes_of(span: Span) -> str:
    """Return notes on a span, such as attempt and exit status, separated by commas."""
    own = {name.removeprefix("buildkite."): value for name, value in span["attributes"].items()}
    if span["name"] == SpanKind.BUILD:
        blocked = own.get("build.blocked_state")
        return f"{own.get('build.state', '')}{', blocked' if blocked else ''}"
    if span["name"] in INSIDE:
        return _notes_inside(span)
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


def failure_kind(span: Span) -> str | None:
    """Return the kind of a section's failure for reading, like `test failure`; None if unknown."""
    kind = span["attributes"].get("bk_pipeline.failure.kind")
    if kind in {None, "unknown"}:
        return None
    return "timeout" if kind == "timeout" else f"{kind} failure"


def _notes_inside(span: Span) -> str:
    """Return the kind of a section's failure, a suite's counts, or a test's result."""
    own = span["attributes"]
    if (cases := own.get("bk_pipeline.test.cases")) is not None:
        broken = sum(own.get(f"bk_pipeline.test.{one}") or 0 for one in ("failures", "errors"))
        return (
            f"{broken:,} of {counted(cases, 'test')} failed" if broken else counted(cases, "test")
        )
    if (kind := failure_kind(span)) is not None:
        return kind
    result = own.get("bk_pipeline.test.result")
    return "" if result in {None, "passed", "failed"} else str(result)


def _ending(job: dict[str, Any]) -> str:
    """Return how a job ended, like `exit 1` or `timed out`; empty if it passed."""
    if job.get("error.type") == "agent_lost":
        return "agent lost"
    state, exit_status = job.get("job.state"), job.get("job.exit_status")
    if state == "failed":
        return "" if exit_status is None else f"exit {exit_status}"
    return "" if state in {None, "passed", "finished"} else str(state).replace("_", " ")


def is_manual(span: Span) -> bool:
    """Return whether the span is a block step."""
    return bool(span["attributes"].get("buildkite.job.type") == "manual")
