"""Layout of a build's waterfall: labels, lines, and time scale."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
from rich.emoji import Emoji

from bk_pipeline.display import printable
from bk_pipeline.spans.derived import MATRIX_PLACEHOLDER
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import compact_json, duration
from bk_pipeline.units import NS_PER_MS

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


Span = dict[str, Any]
MOST_VALUES = 4

# Limits of the children shown per parent, tried in this order.
CHILDREN = (100, 50, 25, 12, 6, 3)
STATUS_LABELS = {"ok": "passed", "error": "failed", "unset": "canceled or forgiven"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the waterfall: one span, or several folded spans, of which only jobs are counted.

    Attributes:
        depth: The number of ancestors.
        span: The span; None for folded spans.
        start_ns: The start, in Unix nanoseconds.
        end_ns: The end, in Unix nanoseconds.
        jobs: The number of folded jobs by status.
    """

    depth: int
    span: Span | None
    start_ns: int
    end_ns: int
    jobs: Counter[str]

    @property
    def folded_summary(self) -> str:
        """A text like `… 388 more: 380 passed, 8 canceled or forgiven`."""
        parts = [
            f"{self.jobs[one]:,} {word}" for one, word in STATUS_LABELS.items() if self.jobs[one]
        ]
        return f"… {self.jobs.total():,} more: {', '.join(parts)}"


def outline(spans: Sequence[Span], *, most_lines: int | None = None) -> list[Line]:
    """Return a line per span: parents before their children, children by start.

    A step with one job is replaced by the job. If there are more than `most_lines` lines, only some
    children of each parent are shown, failed ones first and then the longest. Another line counts
    the jobs of the others.
    """
    tree = _Tree(spans)
    lines = list(tree.lines(None))
    for most in CHILDREN:
        if most_lines is None or len(lines) <= most_lines:
            break
        lines = list(tree.lines(most))
    return lines


class _Tree:
    def __init__(self, spans: Sequence[Span]) -> None:
        self._children: dict[str | None, list[Span]] = defaultdict(list)
        present = {span["span_id"] for span in spans}
        for span in spans:
            parent = span.get("parent_span_id")
            self._children[parent if parent in present else None].append(span)
        for children in self._children.values():
            children.sort(key=lambda one: (one["start_unix_nano"], one["end_unix_nano"]))

    def lines(self, most: int | None) -> Iterator[Line]:
        """Yield all lines, with at most `most` lines per parent; None: no limit."""
        return self._below(None, 0, most)

    def _below(self, parent: str | None, depth: int, most: int | None) -> Iterator[Line]:
        children = self._children[parent]
        shown = children
        if most is not None and len(children) > most:
            chosen = {id(one) for one in sorted(children, key=_interest)[: most - 1]}
            shown = [one for one in children if id(one) in chosen]
        for span in shown:
            inside = self._children[span["span_id"]]
            if span["name"] == SpanKind.STEP and len(inside) == 1:
                yield _line(depth, inside[0])
            else:
                yield _line(depth, span)
                yield from self._below(span["span_id"], depth + 1, most)
        if len(shown) < len(children):
            kept = {id(one) for one in shown}
            yield self._folded(depth, [one for one in children if id(one) not in kept])

    def _folded(self, depth: int, spans: Sequence[Span]) -> Line:
        jobs: Counter[str] = Counter()
        waiting = list(spans)
        while waiting:
            span = waiting.pop()
            jobs[span["status"]] += span["name"] == SpanKind.JOB
            waiting += self._children[span["span_id"]]
        start = min(one["start_unix_nano"] for one in spans)
        end = max(one["end_unix_nano"] for one in spans)
        return Line(depth, None, start, end, jobs)


def _line(depth: int, span: Span) -> Line:
    return Line(depth, span, span["start_unix_nano"], span["end_unix_nano"], Counter())


def _interest(span: Span) -> tuple[bool, int]:
    """Sort key: failed spans first, then the longest."""
    return span["status"] != "error", span["start_unix_nano"] - span["end_unix_nano"]


# A pause longer than all activity together is shortened to this fraction of the activity.
SHORTENED = 0.3


class Timescale:
    """Maps times to columns; long pauses are shortened.

    Args:
        began: The first time, in Unix nanoseconds, like all times.
        ended: The last time.
        busy: Start and end of each activity, in any order; they may overlap.
        columns: The number of columns, at least 1.

    Attributes:
        shortened: Whether a pause was shortened.
    """

    def __init__(
        self, began: int, ended: int, busy: Iterable[tuple[int, int]], *, columns: int
    ) -> None:
        self._columns = columns
        activity = _merged(busy)
        total = sum(end - start for start, end in activity)
        edges = [(began, began), *activity, (max(ended, began + 1),) * 2]
        self._moments, self._places = [began], [0.0]
        self.shortened = False
        for (_, pause), (start, end) in pairwise(edges):
            length = float(max(start - pause, 0))
            if total and length > total:
                length, self.shortened = SHORTENED * total, True
            for moment, place in ((start, length), (end, float(end - start))):
                self._moments.append(moment)
                self._places.append(self._places[-1] + place)

    def column(self, moment: int) -> int:
        """Return the column of `moment`, from 0 to `columns`."""
        at = bisect_right(self._moments, moment)
        if at == 0:
            return 0
        if at == len(self._moments):
            return self._columns
        first, last = self._moments[at - 1], self._moments[at]
        share = (moment - first) / max(last - first, 1)
        place = self._places[at - 1] + share * (self._places[at] - self._places[at - 1])
        return int(place / self._places[-1] * self._columns)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of the intervals as sorted, disjoint intervals."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def name_of(span: Span) -> str:
    """Return a span's display name."""
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
    """Return notes on a span, such as attempt and exit status, separated by commas."""
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
    """Return how a job ended, like `exit 1` or `timed out`; empty if it passed."""
    if job.get("error.type") == "agent_lost":
        return "agent lost"
    state, exit_status = job.get("job.state"), job.get("job.exit_status")
    if state == "failed":
        return "" if exit_status is None else f"exit {exit_status}"
    return "" if state in {None, "passed", "finished"} else str(state).replace("_", " ")


def timescale_of(spans: Sequence[Span], *, columns: int) -> Timescale:
    """Return the time scale of a trace drawn on `columns` columns."""
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
    """Return when a job began to wait for an agent, in Unix nanoseconds."""
    wait_ms = span["attributes"].get("buildkite.job.wait_time_ms") or 0
    return int(span["start_unix_nano"]) - wait_ms * NS_PER_MS


def is_manual(span: Span) -> bool:
    """Return whether the span is a block step."""
    return bool(span["attributes"].get("buildkite.job.type") == "manual")


def longest_on_path(spans: Sequence[Span]) -> str | None:
    """Return what took the most time of the critical path, as a phrase.

    It is like `3 m 12 s of 9 m 11 s: waiting for agents of queue linux-large`. None if the spans have
    no critical path.
    """
    parts: Counter[str] = Counter()
    blocked_ms = spans[0]["attributes"].get("bk_pipeline.critical_path.blocked_ms") or 0
    for span in spans:
        attributes = span["attributes"]
        share_ms = attributes.get("bk_pipeline.critical_path_ms")
        if span["name"] != SpanKind.JOB or not share_ms:
            continue
        if is_manual(span):
            parts[f"waiting for a person at {name_of(span)}"] += share_ms
            blocked_ms -= share_ms
            continue
        length_ms = (span["end_unix_nano"] - span["start_unix_nano"]) // NS_PER_MS
        started = attributes.get("buildkite.job.started") is not False
        waited_ms = attributes.get("buildkite.job.wait_time_ms") or 0 if started else length_ms
        waiting_ms = min(waited_ms, share_ms)
        parts[_agents_of(attributes)] += waiting_ms
        if started:
            parts[f"running {name_of(span)}"] += min(length_ms, share_ms - waiting_ms)
    if not parts:
        return None
    parts["waiting for a person to retry a job"] += blocked_ms
    part, ms = parts.most_common(1)[0]
    length_ms = (spans[0]["end_unix_nano"] - spans[0]["start_unix_nano"]) // NS_PER_MS
    return f"{duration(ms)} of {duration(length_ms)}: {part}"


def _agents_of(attributes: dict[str, Any]) -> str:
    """Return `waiting for agents of queue linux-large`, from the agent or the query rules."""
    rules = attributes.get("buildkite.job.agent_query_rules") or ()
    requested = [rule.removeprefix("queue=") for rule in rules if rule.startswith("queue=")]
    queue = attributes.get("buildkite.agent.queue") or next(iter(requested), None)
    return f"waiting for agents of queue {readable(queue)}" if queue else "waiting for agents"
