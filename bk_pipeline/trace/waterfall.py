"""Layout of a build's waterfall: its lines, its time scale, and what took longest."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bk_pipeline.spans.model import SpanKind
from bk_pipeline.text import counted, duration, shortened
from bk_pipeline.trace.labels import INSIDE, INSIDE_NAMES, Span, is_manual, name_of, readable
from bk_pipeline.units import NS_PER_MS

# Limits of the children shown per parent, tried in this order.
CHILDREN = (100, 50, 25, 12, 6, 3)
HALF, LONGEST_NAME = 0.5, 60
STATUS_LABELS = {"ok": "passed", "error": "failed", "unset": "canceled or forgiven"}

NOUNS = INSIDE | {
    SpanKind.BUILD: "build",
    SpanKind.STAGE: "stage",
    SpanKind.GROUP: "group",
    SpanKind.STEP: "step",
    SpanKind.WAIT: "wait",
}
# What is shown inside of jobs by default: the longest parts of the critical path, so many in all and
# in one job, and what failed, so many of each parent.
LONGEST_SHOWN, LONGEST_OF_JOB, FAILED_SHOWN = 6, 3, 3
# Kinds that tell where a job's time went. Threads do not: each takes most of the job.
TELLING = (SpanKind.SECTION, SpanKind.SUITE, SpanKind.EVENT)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the waterfall: one span, or several folded spans.

    Attributes:
        depth: The number of ancestors.
        span: The span; None for folded spans.
        start_ns: The start, in Unix nanoseconds.
        end_ns: The end, in Unix nanoseconds.
        jobs: The number of jobs by status among folded spans and below them.
        folded: The number of folded spans by kind, without those below them.
        failed: How many of these failed.
        name: The span's display name.
    """

    depth: int
    span: Span | None
    start_ns: int
    end_ns: int
    jobs: Counter[str]
    folded: Counter[str]
    failed: int = 0
    name: str = ""

    @property
    def folded_summary(self) -> str:
        """A text like `… 388 more: 380 passed, 8 canceled or forgiven` or `… 12 more sections`."""
        if self.jobs:
            parts = [
                f"{self.jobs[one]:,} {word}"
                for one, word in STATUS_LABELS.items()
                if self.jobs[one]
            ]
            return f"… {self.jobs.total():,} more: {', '.join(parts)}"
        parts = [
            counted(number, f"more {NOUNS[SpanKind(kind)]}")
            for kind, number in self.folded.most_common()
        ]
        failed = f", {self.failed:,} of them failed" if self.failed else ""
        return f"… {', '.join(parts)}{failed}"


def outline(spans: Sequence[Span], *, most_lines: int | None = None) -> list[Line]:
    """Return the lines of a waterfall: parents before their children, children by start.

    A step with one job is replaced by the job. With `most_lines`, of what is inside of jobs only
    what failed is shown, and the longest parts of the critical path. If there are still more lines,
    only some children of each parent are shown, failed ones first and then the longest. Another
    line counts the others, except that of a job that shows nothing of its inside.

    Args:
        spans: The spans of a build.
        most_lines: About how many lines; None for a line per span.
    """
    tree = _Tree(spans)
    if most_lines is None:
        return list(tree.lines(None))
    tree.hide_insides()
    lines = list(tree.lines(None))
    for most in CHILDREN:
        if len(lines) <= most_lines:
            break
        lines = list(tree.lines(most))
    return lines


def insides_note(spans: Sequence[Span], lines: Iterable[Line]) -> str | None:
    """Return a sentence on how much of what is inside of jobs is shown; None if all of it is."""
    inside = sum(span["name"] in INSIDE for span in spans)
    shown = sum(line.span is not None and line.span["name"] in INSIDE for line in lines)
    return None if shown == inside else f"{shown:,} of {inside:,} spans inside of jobs are shown"


class _Tree:
    def __init__(self, spans: Sequence[Span]) -> None:
        self._children: dict[str | None, list[Span]] = defaultdict(list)
        self._spans = {span["span_id"]: span for span in spans}
        # The spans inside of jobs to show; None for all.
        self._kept: set[str] | None = None
        for span in spans:
            parent = span.get("parent_span_id")
            self._children[parent if parent in self._spans else None].append(span)
        for children in self._children.values():
            children.sort(key=lambda one: (one["start_unix_nano"], one["end_unix_nano"]))

    def hide_insides(self) -> None:
        """Show inside of jobs only what failed, and the longest parts of the critical path."""
        self._kept = set()
        telling: list[Span] = []
        for job in [one for one in self._spans.values() if one["name"] == SpanKind.JOB]:
            inside = list(self._inside(job))
            for of_parent in self._failed(inside).values():
                self._keep(of_parent[:FAILED_SHOWN])
            if job["attributes"].get("bk_pipeline.critical_path"):
                longest = [one for one in inside if self._tells(one)]
                telling += sorted(longest, key=_length_ns, reverse=True)[:LONGEST_OF_JOB]
        self._keep(sorted(telling, key=_length_ns, reverse=True)[:LONGEST_SHOWN])

    def _inside(self, job: Span) -> Iterator[Span]:
        """Yield what is inside of a job: parents before their children."""
        waiting = list(reversed(self._children[job["span_id"]]))
        while waiting:
            span = waiting.pop()
            if span["name"] in INSIDE:
                yield span
                waiting += reversed(self._children[span["span_id"]])

    @staticmethod
    def _failed(inside: Iterable[Span]) -> dict[str | None, list[Span]]:
        failed: dict[str | None, list[Span]] = defaultdict(list)
        for span in inside:
            if span["status"] == "error":
                failed[span.get("parent_span_id")].append(span)
        return failed

    def _tells(self, span: Span) -> bool:
        """Whether a span is of a kind that tells where time went, and in no other such span."""
        parent = self._spans[span["parent_span_id"]]
        return span["name"] in TELLING and parent["name"] not in TELLING

    def _keep(self, spans: Iterable[Span]) -> None:
        """Show these spans, and what they are in."""
        assert self._kept is not None
        for span in spans:
            one: Span | None = span
            while one is not None and one["name"] in INSIDE:
                self._kept.add(one["span_id"])
                one = self._spans.get(one.get("parent_span_id", ""))

    def lines(self, most: int | None) -> Iterator[Line]:
        """Yield all lines, with at most `most` lines per parent; None: no limit."""
        return self._below(None, 0, most)

    def _below(self, parent: str | None, depth: int, most: int | None) -> Iterator[Line]:
        children = self._children[parent]
        shown = self._shown(children)
        if not shown:
            return
        if most is not None and len(shown) + (len(shown) < len(children)) > most:
            chosen = {id(one) for one in sorted(shown, key=_interest)[: most - 1]}
            shown = [one for one in shown if id(one) in chosen]
        for span in shown:
            line = self._line(depth, span)
            yield line
            assert line.span is not None
            yield from self._below(line.span["span_id"], depth + 1, most)
        if len(shown) < len(children):
            kept = {id(one) for one in shown}
            yield self._folded(depth, [one for one in children if id(one) not in kept])

    def _shown(self, children: list[Span]) -> list[Span]:
        if self._kept is None:
            return children
        return [
            one for one in children if one["name"] not in INSIDE or one["span_id"] in self._kept
        ]

    def _line(self, depth: int, span: Span) -> Line:
        inside = self._children[span["span_id"]]
        alone = span["name"] == SpanKind.STEP and len(inside) == 1
        span = inside[0] if alone else span
        start, end = span["start_unix_nano"], span["end_unix_nano"]
        name = name_of(span, inside)
        return Line(depth, span, start, end, Counter(), Counter(), name=name)

    def _folded(self, depth: int, spans: Sequence[Span]) -> Line:
        jobs: Counter[str] = Counter()
        waiting = list(spans)
        while waiting:
            span = waiting.pop()
            if span["name"] == SpanKind.JOB:
                jobs[span["status"]] += 1
            else:
                waiting += self._children[span["span_id"]]
        return Line(
            depth,
            None,
            min(one["start_unix_nano"] for one in spans),
            max(one["end_unix_nano"] for one in spans),
            jobs,
            Counter(one["name"] for one in spans),
            sum(one["status"] == "error" for one in spans),
        )


def _length_ns(span: Span) -> int:
    return int(span["end_unix_nano"]) - int(span["start_unix_nano"])


def _interest(span: Span) -> tuple[bool, int]:
    """Sort key: failed spans first, then the longest."""
    return span["status"] != "error", -_length_ns(span)


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


def longest_on_path(spans: Sequence[Span]) -> str | None:
    """Return what took the most time of the critical path, as a phrase.

    It is like `3 m 12 s of 9 m 11 s: waiting for agents of queue linux-large`. If it is running a
    job whose inside is known, it also says where in the job. None if the spans have no critical path.
    """
    parts: Counter[str] = Counter()
    running: dict[str, list[Span]] = defaultdict(list)
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
        length_ms = _length_ns(span) // NS_PER_MS
        started = attributes.get("buildkite.job.started") is not False
        waited_ms = attributes.get("buildkite.job.wait_time_ms") or 0 if started else length_ms
        waiting_ms = min(waited_ms, share_ms)
        parts[_agents_of(attributes)] += waiting_ms
        if started:
            parts[f"running {name_of(span)}"] += min(length_ms, share_ms - waiting_ms)
            running[f"running {name_of(span)}"].append(span)
    if not parts:
        return None
    parts["waiting for a person to retry a job"] += blocked_ms
    part, ms = parts.most_common(1)[0]
    within = _longest_inside(spans, running[part])
    return f"{duration(ms)} of {duration(_length_ns(spans[0]) // NS_PER_MS)}: {part}{within}"


def _longest_inside(spans: Sequence[Span], jobs: Sequence[Span]) -> str:
    """Return `, most of it in `npm ci` (2 m 03 s)`: the longest section of jobs, or its command.

    Sections of the same name in several jobs count together. Empty if nothing is known.
    """
    of_jobs = {job["span_id"] for job in jobs}
    sections = {
        one["span_id"]: one
        for one in spans
        if one["name"] == SpanKind.SECTION and one.get("parent_span_id") in of_jobs
    }
    lengths = _lengths_by_name(sections.values())
    if not lengths:
        return ""
    [(name, length_ns)] = lengths.most_common(1)
    inside = {key for key, one in sections.items() if name_of(one) == name}
    commands = _lengths_by_name(
        one
        for one in spans
        if one["name"] == SpanKind.COMMAND and one.get("parent_span_id") in inside
    )
    for command, command_ns in commands.most_common(1):
        if command_ns * 2 >= length_ns:
            name, length_ns = command, command_ns
    share = length_ns / max(sum(map(_length_ns, jobs)), 1)
    where = "most of it in" if share > HALF else "the longest part of it"
    return f", {where} `{shortened(name, LONGEST_NAME)}` ({duration(length_ns // NS_PER_MS)})"


def _lengths_by_name(spans: Iterable[Span]) -> Counter[str]:
    """Return the total length by name, of spans that have a name of their own."""
    lengths: Counter[str] = Counter()
    for span in spans:
        if span["attributes"].get(INSIDE_NAMES[span["name"]][0]):
            lengths[name_of(span)] += _length_ns(span)
    return lengths


def _agents_of(attributes: dict[str, Any]) -> str:
    """Return `waiting for agents of queue linux-large`, from the agent or the query rules."""
    rules = attributes.get("buildkite.job.agent_query_rules") or ()
    requested = [rule.removeprefix("queue=") for rule in rules if rule.startswith("queue=")]
    queue = attributes.get("buildkite.agent.queue") or next(iter(requested), None)
    return f"waiting for agents of queue {readable(queue)}" if queue else "waiting for agents"
