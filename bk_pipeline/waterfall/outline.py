"""The spans of a trace as the lines of a tree, few enough to be read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bk_pipeline.spans.model import SpanKind

Span = dict[str, Any]

# How many children of one parent are shown, from generous to sparse.
CHILDREN = (100, 50, 25, 12, 6, 3)
JOB_WORDS = {"ok": "passed", "error": "failed", "unset": "canceled or forgiven"}


@dataclass(frozen=True, slots=True)
class Line:
    """A span, or several that are only counted: then `span` is None and `jobs` says how many.

    Attributes:
        depth: Steps from the root.
        jobs: Folded jobs by status.
    """

    depth: int
    span: Span | None
    start_ns: int
    end_ns: int
    jobs: Counter[str]

    @property
    def folded_words(self) -> str:
        """`… 388 more: 380 passed, 8 canceled or forgiven`."""
        parts = [f"{self.jobs[one]:,} {word}" for one, word in JOB_WORDS.items() if self.jobs[one]]
        return f"… {self.jobs.total():,} more: {', '.join(parts)}"


def outline(spans: Sequence[Span], *, most_lines: int | None = None) -> list[Line]:
    """A line each, parents before their children, these in order of start.

    A step with one job is that job. If there are more than `most_lines`, of each parent's
    children only some are shown, failed ones first and then the longest, and the jobs of
    the others are counted in a line behind them.
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
        """All lines, at most `most` children of each parent among them."""
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
    """What is to be seen first sorts first."""
    return span["status"] != "error", span["start_unix_nano"] - span["end_unix_nano"]
