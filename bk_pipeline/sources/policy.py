"""The policy of job details: of which jobs logs, tests and profiles are read, and how much of them.

Rules are tried in their order, which is also that in which jobs are read: the first rule that
matches a job decides. Works on whole columns of the span table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bk_pipeline.errors import ConfigError
from bk_pipeline.rules import (
    CONDITIONS,
    EXPECTED_ID,
    RULE,
    Conditions,
    Globs,
    Path,
    Seconds,
    read_rules,
    repeated_ids,
)
from bk_pipeline.spans.matching import WAIT_MS, meets
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.privacy import Privacy

Source = Literal["log", "tests", "test_engine", "profiles"]
# What tells an attempt that failed, soft failures included.
EXIT_STATUS, SIGNAL_REASON = "buildkite.job.exit_status", "buildkite.job.signal_reason"
STATE = "buildkite.job.state"
TYPE, STARTED = "buildkite.job.type", "buildkite.job.started"
SOFT_FAILED = "buildkite.job.soft_failed"
# Conditions that are a column of the span table.
FLAGS = {"retried": "buildkite.job.retried", "critical_path": "bk_pipeline.critical_path"}
STEP_NAMES = ("buildkite.step.key", "buildkite.step.label", "buildkite.step.command")
PIPELINE = "buildkite.pipeline.slug"
# What logs and artifacts are requested by.
ADDRESS = (PIPELINE, "buildkite.build.number", "buildkite.build.id", "buildkite.job.id")
# The random digits at the end of a UUID.
SHARE_DIGITS, SHARE_BITS = 14, 56
COLUMNS = tuple(
    dict.fromkeys([
        *("trace_id", "span_id", "name", "start", "end", "status"),
        *(TYPE, STARTED, SOFT_FAILED, EXIT_STATUS, SIGNAL_REASON, STATE, WAIT_MS, PIPELINE),
        *FLAGS.values(),
        *STEP_NAMES,
        *(by_kind[SpanKind.JOB] for by_kind in CONDITIONS.values()),
    ])
)  # fmt: skip

TESTS = ("**/junit*.xml", "**/TEST-*.xml", "**/*junit.xml", "**/test-results/**/*.xml")
PROFILES = ("**/*.profile.gz", "**/*profile*.json", "**/*profile*.json.gz", "**/*trace*.json.gz")
EXPECTED_SOURCES = 'expected a list of "log", "tests", "test_engine" and "profiles"'


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def _sources(value: Any) -> tuple[str, ...]:
    known = get_args(Source)
    if type(value) is not list or not value or any(one not in known for one in value):
        raise ValueError(EXPECTED_SOURCES)
    return tuple(one for one in known if one in value)


Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Rule(Conditions):
    """One `[[rule]]` of the file, about jobs that ran. All conditions that are set must hold.

    Attributes:
        read: What is read of the jobs.
        skip: Read nothing of them.
        commands: Whether each command that a log shows becomes a span.
        cases: Which test cases become spans; all are counted.
        slow_case_s: From which length in seconds a case is slow.
        min_event_ms: The least length of a profile's events that become spans.
        max_depth: How many levels of them there are.
        failed: Whether the job failed, softly or not.
        slow: Whether it took longer than usual: than 95 % of the step's jobs that passed in the
            14 days before.
        retried: Whether it was retried.
        critical_path: Whether it is on the critical path.
        one_in: Of the jobs that meet the other conditions, one in this many, by a hash of their id.
    """

    read: Annotated[tuple[Source, ...], BeforeValidator(_sources)] = ("log",)
    skip: Flag = False
    commands: Flag = False
    cases: Literal["failed", "slow", "all", "none"] = "failed"
    slow_case_s: Seconds = 10.0
    min_event_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0
    max_depth: Count = 5
    failed: Flag | None = None
    slow: Flag | None = None
    retried: Flag | None = None
    critical_path: Flag | None = None
    one_in: Count | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is read of the jobs; nothing with `skip`."""
        return () if self.skip else self.read


class Policy(BaseModel):
    """The file.

    Attributes:
        rule: The rules; a job that none matches is left alone.
        share: The share of the requests that extraction leaves, from 0 to 1.
        minutes_per_run: How long a run reads before it goes on with what it has.
        mib_per_day: How much of logs and artifacts may be read in a UTC day.
        text: Whether text of logs and artifacts may leave: names, messages, commands, signatures.
        keep_logs: Whether the logs that are read are stored as they are, secrets included.
        tests: Globs of the paths of artifacts with test results (JUnit XML).
        profiles: Globs of the paths of artifacts with profiles (Chrome's trace events).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    minutes_per_run: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    mib_per_day: Count = 1024
    text: Flag = True
    keep_logs: Flag = False
    tests: Globs = TESTS
    profiles: Globs = PROFILES

    @property
    def bytes_per_day(self) -> int:
        """`mib_per_day` in bytes."""
        return self.mib_per_day * 2**20

    @property
    def seconds_per_run(self) -> float:
        """`minutes_per_run` in seconds."""
        return self.minutes_per_run * 60

    @property
    def needs_usual(self) -> bool:
        """Whether a rule compares jobs with their usual length."""
        return any(rule.slow is not None for rule in self.rule)

    @property
    def sources(self) -> frozenset[Source]:
        """Everything that some rule reads."""
        return frozenset(source for rule in self.rule for source in rule.sources)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A job to be read: its row in the table, and the index of its rule."""

    row: int
    rule: int


def choose(
    policy: Policy, jobs: pa.Table, usual_s: Mapping[tuple[str, str], float]
) -> list[Chosen]:
    """Return the jobs that are to be read, those of the first rule first.

    Args:
        policy: The policy.
        jobs: Rows of the span table with `COLUMNS`.
        usual_s: The usual length in seconds by pipeline and step, where it is known.
    """
    ran = _equals(jobs["name"], SpanKind.JOB) & _equals(jobs[TYPE], "script") & _true(jobs[STARTED])
    rule_of = np.full(len(jobs), len(policy.rule))
    for index, rule in reversed(list(enumerate(policy.rule))):
        rule_of[ran & _matches(rule, jobs, usual_s)] = index
    reading = [index for index, rule in enumerate(policy.rule) if rule.sources]
    return [
        Chosen(int(row), index) for index in reading for row in np.flatnonzero(rule_of == index)
    ]


def _matches(rule: Rule, jobs: pa.Table, usual_s: Mapping[tuple[str, str], float]) -> Any:
    matches = _true(
        meets(
            jobs,
            SpanKind.JOB,
            {CONDITIONS[name][SpanKind.JOB]: globs for name, globs in rule.globs().items()},
            min_duration_s=rule.min_duration_s,
            min_wait_s=rule.min_wait_s,
        )
    )
    for name, column in FLAGS.items():
        wanted = getattr(rule, name)
        if wanted is not None:
            matches = matches & (_true(jobs[column]) == wanted)
    if rule.failed is not None:
        failed = _equals(jobs["status"], SpanStatus.ERROR) | _true(jobs[SOFT_FAILED])
        matches = matches & (failed == rule.failed)
    if rule.slow is not None:
        matches = matches & (_is_slow(jobs, usual_s) == rule.slow)
    if rule.one_in is not None:
        matches = matches & _in_share(jobs["span_id"], rule.one_in)
    return matches


def _is_slow(jobs: pa.Table, usual_s: Mapping[tuple[str, str], float]) -> Any:
    """Return for each job whether it took longer than usual; not if it is not known what is usual."""
    lengths_ns = np.asarray(jobs["end"].cast(pa.int64())) - np.asarray(
        jobs["start"].cast(pa.int64())
    )
    limits = (usual_s.get(one, np.inf) for one in zip(*_steps(jobs), strict=True))
    return lengths_ns / 1e9 > np.fromiter(limits, np.float64, len(jobs))


def _steps(jobs: pa.Table) -> tuple[list[str], list[str]]:
    """Return pipeline and step of each job, as the view `jobs` names them."""
    names = [jobs[name].cast(pa.string()) for name in STEP_NAMES]
    blank = pa.scalar(None, pa.string())
    *key_and_label, command = names
    known = [pc.if_else(pc.equal(one, ""), blank, one) for one in key_and_label]
    steps = pc.coalesce(*known, command, pa.scalar(""))
    return pc.fill_null(jobs[PIPELINE].cast(pa.string()), "").to_pylist(), steps.to_pylist()


def _in_share(span_ids: Any, one_in: int) -> Any:
    hashes = (int(one[-SHARE_DIGITS:], 16) for one in span_ids.to_pylist())
    return np.fromiter((one * one_in < 1 << SHARE_BITS for one in hashes), bool, len(span_ids))


def _equals(column: Any, value: str) -> Any:
    return _true(pc.equal(column.cast(pa.string()), str(value)))


def _true(column: Any) -> Any:
    return np.asarray(pc.fill_null(column, False), bool)  # noqa: FBT003


def require_visible(privacy: Privacy) -> None:
    """Raise an error if the privacy settings hide what a job's logs and artifacts are requested by.

    Raises:
        ConfigError: They do.
    """
    for name in ADDRESS:
        if privacy.shown(name, "1") != "1":
            raise ConfigError(
                f"The privacy settings hide {name}, by which logs and artifacts are requested. Take it "
                "out of BK_PIPELINE_SPANS_DROP and BK_PIPELINE_SPANS_HASH, or unset "
                "BK_PIPELINE_JOB_DETAILS."
            )


def load_policy(path: FilePath) -> Policy:
    """Read the policy in the file at `path`.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    return read_rules(
        path,
        Policy,
        Rule,
        setting="BK_PIPELINE_JOB_DETAILS",
        page="docs/inside-jobs.md",
        expected={"id": EXPECTED_ID},
        check=_rule_errors,
    )


def _rule_errors(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Yield the errors of rules that are well-formed."""
    yield from repeated_ids(rule.id for rule in policy.rule)
    if not policy.rule:
        yield (RULE,), "is missing: without a [[rule]] no job would be read."
    seen: list[dict[str, Any]] = []
    for number, rule in enumerate(policy.rule):
        conditions = _conditions(rule)
        if conditions in seen:
            first = policy.rule[seen.index(conditions)].id
            yield (RULE, number), f'never decides, because rule "{first}" has the same conditions.'
        seen.append(conditions)


ACTIONS = frozenset({
    *("id", "read", "skip", "commands", "cases", "slow_case_s", "min_event_ms", "max_depth"),
})  # fmt: skip


def _conditions(rule: Rule) -> dict[str, Any]:
    return rule.model_dump(exclude=set(ACTIONS))
