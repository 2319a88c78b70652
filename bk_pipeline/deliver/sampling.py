"""Which builds are sent, and the weight of those that are: rules, decisions, thresholds. Pure.

A build is kept or dropped whole, by OpenTelemetry's rule for consistent probability sampling: its
randomness is the last 56 bits of the trace id, a rate has a threshold (the dropped share of all
randomness), and a build is kept if its randomness is at or above the threshold. So a sampler that
comes later agrees, and a build that is kept at one rate is kept at every lower one.

Sources: OpenTelemetry's specification, "TraceState: Probability Sampling"; Honeycomb's translator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path as FilePath
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict

from bk_pipeline.rules import (
    CONDITIONS,
    EXPECTED_ID,
    RULE,
    Conditions,
    Path,
    read_rules,
    repeated_ids,
)
from bk_pipeline.spans.matching import (
    QUEUE_MS,
    RUN_MS,
    STARTED,
    WAIT_MS,
    at_least,
    matches_globs,
    run_ms,
    wait_ms,
)
from bk_pipeline.spans.model import SpanKind, SpanStatus

RANDOMNESS_BYTES = 7
SPACE: int = 2 ** (8 * RANDOMNESS_BYTES)
MAX_RATE = 1_000_000
# The index of builds that no rule matches: all of them are kept.
NO_RULE = -1
BUILD_CONDITIONS = ("pipeline", "branch", "source", "state")
JOB_CONDITIONS = ("step_key", "job_name", "queue")
# Conditions that hold if they hold for any job of the build.
JOB_FLAGS = {"retried": "buildkite.job.retried", "soft_failed": "buildkite.job.soft_failed"}
BASE_COLUMNS = ("trace_id", "name", "status", "start", "end")


def _rate(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RATE:
        raise ValueError(
            f"expected a whole number from 1 (keep all) to {MAX_RATE:,}; 10 keeps one build in 10"
        )
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]


class Rule(Conditions):
    """One `[[rule]]` of the file: of the builds that match, one in `rate` is kept.

    Conditions on jobs hold if they hold together for one job of the build.
    """

    rate: Annotated[int, BeforeValidator(_rate)]
    retried: Flag | None = None
    soft_failed: Flag | None = None

    @property
    def columns(self) -> Iterator[str]:
        """The columns of the span table that the conditions need, besides `BASE_COLUMNS`."""
        yield from (CONDITIONS[name][SpanKind.BUILD] for name in self.globs(BUILD_CONDITIONS))
        yield from (CONDITIONS[name][SpanKind.JOB] for name in self.globs(JOB_CONDITIONS))
        yield from (one for name, one in JOB_FLAGS.items() if getattr(self, name) is not None)
        yield from (RUN_MS,) if self.min_duration_s is not None else ()
        yield from (QUEUE_MS, WAIT_MS, STARTED) if self.min_wait_s is not None else ()


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """The rules, in the order in which they are tried: the first one that matches decides."""

    rules: tuple[Rule, ...]

    @property
    def digest(self) -> str:
        """16 hex digits that change with the rules."""
        return sha256(repr(self.rules).encode()).hexdigest()[:16]

    @property
    def columns(self) -> list[str]:
        """The columns of the span table that decisions need."""
        return list(dict.fromkeys([*BASE_COLUMNS, *(n for one in self.rules for n in one.columns)]))

    def choose(self, table: pa.Table) -> tuple[list[bytes], Any]:
        """Return the trace ids of the builds in `table`, and the index of each one's rule.

        The index is `NO_RULE` where none matches. A failed build is only matched by a rule whose
        `state` includes its state, so failures are kept unless a rule is about them.

        Args:
            table: Whole builds, with the columns of `columns`.
        """
        roots = table.filter(pc.equal(table["name"], str(SpanKind.BUILD)))
        jobs = table.filter(pc.equal(table["name"], str(SpanKind.JOB)))
        failed = _true(pc.equal(roots["status"], str(SpanStatus.ERROR)))
        chosen = np.full(len(roots), NO_RULE)
        for index, rule in enumerate(self.rules):
            matches = (chosen == NO_RULE) & _matches(roots, jobs, rule)
            if failed.any():
                matches &= ~failed | _includes_state(roots, rule)
            chosen[matches] = index
        return list(map(bytes.fromhex, roots["trace_id"].to_pylist())), chosen

    def thresholds(self, tables: Iterable[pa.Table]) -> dict[bytes, int]:
        """Return the threshold of each build; those that are always kept are left out."""
        by_rule = [threshold_of(rule.rate) for rule in self.rules]
        return {
            trace_id: by_rule[index]
            for table in tables
            for trace_id, index in zip(*self.choose(table), strict=True)
            if index != NO_RULE and by_rule[index]
        }


@dataclass(slots=True)
class DaySample:
    """The decisions about the builds of one delivery.

    Attributes:
        thresholds: What the rules say, by trace id; a build that is not in it is kept.
        dropped: The trace ids of the builds of the day that are not sent. Updated as builds are
            dropped or sent.
    """

    thresholds: Mapping[bytes, int]
    dropped: set[bytes]

    def decide(
        self, trace_ids: Iterable[bytes], known: Collection[bytes], sent: Mapping[bytes, int]
    ) -> dict[bytes, int]:
        """Return the thresholds of the builds to send; the others are in `dropped` now.

        A build of which something was sent is sent to its end, whatever the rules say by now. The
        probability of that is that of the lowest threshold it has ever had, so this is the one
        that gives what is new of it the right weight.

        Args:
            trace_ids: The builds.
            known: Those of which something was sent, or may have been.
            sent: The thresholds with which builds were sent; a build that is not in it was sent
                without sampling.
        """
        kept: dict[bytes, int] = {}
        for trace_id in trace_ids:
            threshold = self.thresholds.get(trace_id, 0)
            if trace_id in known:
                threshold = min(threshold, sent.get(trace_id, 0))
            elif not is_kept(trace_id, threshold):
                self.dropped.add(trace_id)
                continue
            kept[trace_id] = threshold
            self.dropped.discard(trace_id)
        return kept


@dataclass(slots=True)
class Share:
    """What a rule decides about: builds, their spans, and their events (spans and links).

    The `kept_` ones are those that are sent, by the trace ids of the builds.
    """

    builds: int = 0
    spans: int = 0
    events: int = 0
    kept_builds: int = 0
    kept_spans: int = 0
    kept_events: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def shares(rules: Sampling, tables: Iterable[pa.Table]) -> dict[int, Share]:
    """Return what each rule, by its index, or no rule (`NO_RULE`) decides about.

    Args:
        rules: The rules.
        tables: Whole builds, each once, with the columns of `rules` and `links`.
    """
    found = {index: Share() for index in [*range(len(rules.rules)), NO_RULE]}
    rates = {index: rule.rate for index, rule in enumerate(rules.rules)} | {NO_RULE: 1}
    for table in tables:
        links = pc.fill_null(pc.list_value_length(table["links"]), 0)
        counted = pa.table({"trace": table["trace_id"].cast(pa.string()), "links": links})
        grouped = counted.group_by("trace").aggregate([("links", "count"), ("links", "sum")])
        sizes = {row["trace"]: row for row in grouped.to_pylist()}
        for trace_id, index in zip(*rules.choose(table), strict=True):
            size = sizes[trace_id.hex()]
            spans, events = size["links_count"], size["links_count"] + size["links_sum"]
            kept = is_kept(trace_id, threshold_of(rates[int(index)]))
            found[int(index)] += Share(1, spans, events, kept, spans * kept, events * kept)
    return found


def load_sampling(path: FilePath) -> Sampling:
    """Read the rules in the file at `path`.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    file = read_rules(
        path,
        _File,
        Rule,
        setting="BK_PIPELINE_SAMPLING",
        page="docs/sampling.md",
        expected={"id": EXPECTED_ID},
        check=_rule_errors,
    )
    return Sampling(file.rule)


def _rule_errors(file: _File) -> Iterator[tuple[Path, str]]:
    """Yield the errors of rules that are well-formed."""
    yield from repeated_ids(rule.id for rule in file.rule)
    for number, rule in enumerate(file.rule):
        same = next(
            (one for one in file.rule[:number] if _conditions(one) == _conditions(rule)), None
        )
        if same is not None:
            yield (
                (RULE, number),
                f'never decides, because rule "{same.id}" has the same conditions.',
            )


def _conditions(rule: Rule) -> dict[str, Any]:
    return rule.model_dump(exclude={"id", "rate"})


def randomness(trace_id: bytes) -> int:
    """Return the randomness of a trace: its last 56 bits."""
    return int.from_bytes(trace_id[-RANDOMNESS_BYTES:])


def threshold_of(rate: int) -> int:
    """Return the threshold of a rate: one trace in `rate` has at least this randomness."""
    dropped: int = SPACE - (SPACE + rate // 2) // rate
    return dropped


def rate_of(threshold: int) -> int:
    """Return the rate of a threshold, which is the weight of each trace that is kept."""
    kept: int = SPACE - threshold
    return (SPACE + kept // 2) // kept


def is_kept(trace_id: bytes, threshold: int) -> bool:
    """Return whether a trace is kept at this threshold."""
    return randomness(trace_id) >= threshold


def trace_state(threshold: int) -> str:
    """Return the W3C `tracestate` of a kept trace: hex digits without trailing zeros."""
    return f"ot=th:{f'{threshold:014x}'.rstrip('0')}"


def _matches(roots: pa.Table, jobs: pa.Table, rule: Rule) -> Any:
    """Return a boolean for each root: whether its build meets all conditions of the rule."""
    matches = np.ones(len(roots), bool)
    for name, globs in rule.globs(BUILD_CONDITIONS).items():
        matches &= _true(matches_globs(roots[CONDITIONS[name][SpanKind.BUILD]], globs))
    of_jobs = rule.globs(JOB_CONDITIONS)
    if of_jobs:
        each = (matches_globs(jobs[CONDITIONS[n][SpanKind.JOB]], g) for n, g in of_jobs.items())
        matches &= _any_job(roots, jobs, np.logical_and.reduce([_true(one) for one in each]))
    for name, column in JOB_FLAGS.items():
        wanted = getattr(rule, name)
        if wanted is not None:
            matches &= _any_job(roots, jobs, _true(jobs[column])) == wanted
    if rule.min_duration_s is not None:
        matches &= _true(at_least(run_ms(roots, SpanKind.BUILD), rule.min_duration_s))
    if rule.min_wait_s is not None:
        waited = _true(at_least(wait_ms(roots, SpanKind.BUILD), rule.min_wait_s))
        job_waited = _true(at_least(wait_ms(jobs, SpanKind.JOB), rule.min_wait_s))
        matches &= waited | _any_job(roots, jobs, job_waited)
    return matches


def _includes_state(roots: pa.Table, rule: Rule) -> Any:
    """Return a boolean for each root: whether a glob of `state` includes its state."""
    included = [glob for glob in rule.state or () if not glob.startswith("!")]
    if not included:
        return np.zeros(len(roots), bool)
    return _true(matches_globs(roots[CONDITIONS["state"][SpanKind.BUILD]], included))


def _any_job(roots: pa.Table, jobs: pa.Table, mask: Any) -> Any:
    """Return a boolean for each root: whether `mask` is true for a job of its build."""
    traces = jobs["trace_id"].cast(pa.string()).filter(pa.array(mask, pa.bool_()))
    found = pc.is_in(roots["trace_id"].cast(pa.string()), value_set=pc.unique(traces))
    return _true(found)


def _true(column: Any) -> Any:
    """Return booleans as a numpy array, null as false."""
    filled = pc.fill_null(column, fill_value=False)
    return np.asarray(filled, bool)
