"""Read one source of a job: its log, its test results, or its profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from bk_pipeline.buildkite.detail_records import Artifact, JobRef
from bk_pipeline.clock import Clock
from bk_pipeline.errors import (
    AccessDenied,
    AnswerTooLarge,
    Gone,
    RequestRefused,
    RetryableError,
    UnexpectedAnswer,
)
from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.sources.policy import Policy, Rule, Source
from bk_pipeline.store.spans import ReadSource
from bk_pipeline.text import Globs

if TYPE_CHECKING:
    from bk_pipeline.buildkite.details import DetailsClient

READ, GONE, TOO_LARGE, UNREADABLE = "read", "gone", "too_large", "unreadable"
# Limits for one artifact. A profile of this size takes minutes.
MAX_TESTS_BYTES, MAX_PROFILE_BYTES = 512 * 1024 * 1024, 2 * 1024 * 1024 * 1024

# Opens a file for the log of the job with this id.
LogWriter = Callable[[str], AbstractContextManager[pa.NativeFile]]


@dataclass(slots=True)
class JobDetails:
    """The result of reading a day's job details.

    Attributes:
        chosen: Jobs that the policy chose.
        known: Sources of theirs that earlier runs have read.
        sources: Sources that this run has read, by outcome.
        left_out: Sources that it did not read because a budget was spent, or a scope is missing.
        spans: New spans, by kind.
        bytes: How much was read.
        truncated: Spans that the limits of one source left out.
        missing: A message for each scope that the token lacks.
        stopped: Why the run stopped before its end: which budget was spent, or what failed.
        damaged: A message for each stored file that was damaged.
    """

    chosen: int = 0
    known: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    spans: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    truncated: int = 0
    missing: list[str] = field(default_factory=list)
    stopped: str | None = None
    damaged: list[str] = field(default_factory=list)


class Job(msgspec.Struct, frozen=True):
    """A job to read: its row, and the sources that were not read yet."""

    row: int
    span_id: str
    build_id: str
    ref: JobRef
    times: JobTimes
    rule: Rule
    sources: tuple[Source, ...]
    exit_status: int | None
    signal_reason: str | None
    state: str | None


class Found(msgspec.Struct):
    """What a source gave: its record, and its spans by the list that their parents refer to."""

    read: ReadSource
    spans: list[list[DetailSpan]]


class SourceReader:
    """Reads sources of jobs until a budget is spent; leaves out those that the token may not read."""

    def __init__(
        self,
        client: DetailsClient,
        policy: Policy,
        clock: Clock,
        result: JobDetails,
        *,
        log_writer: LogWriter,
    ) -> None:
        self._client, self._policy, self._clock = client, policy, clock
        self._result, self._log_writer = result, log_writer
        self._ends_at = clock.monotonic() + policy.seconds_per_run
        self._denied: set[Source] = set()
        # Of the job that was read last: tests and profiles need the same listing.
        self._listed: tuple[str, list[Artifact]] = ("", [])
        self._tests, self._profiles = Globs(policy.tests), Globs(policy.profiles)

    def read(self, job: Job, source: Source) -> Found | None:
        """Return what `source` of `job` gives; None if it is left to a later run."""
        result = self._result
        if result.stopped is None and self._clock.monotonic() >= self._ends_at:
            result.stopped = f"The {self._policy.minutes_per_run:g} minutes of a run are over."
        if result.stopped or source in self._denied:
            result.left_out += 1
            return None
        found = Found(ReadSource(job.span_id, source, READ), [])
        try:
            outcome, size = self._read(job, source, found.spans)
        except Gone:
            outcome, size = GONE, 0
        except AnswerTooLarge:
            outcome, size = TOO_LARGE, 0
        except (UnexpectedAnswer, RequestRefused):
            outcome, size = UNREADABLE, 0
        except AccessDenied as exc:
            self._denied.add(source)
            result.missing.append(str(exc))
            result.left_out += 1
            return None
        except RetryableError as exc:
            # A budget is spent, or Buildkite fails: what is there already need not wait for it.
            result.stopped = str(exc)
            result.left_out += 1
            return None
        result.sources[outcome] += 1
        result.bytes += size
        found.read = ReadSource(job.span_id, source, outcome, size, sum(map(len, found.spans)))
        return found

    def _read(self, job: Job, source: Source, spans: list[list[DetailSpan]]) -> tuple[str, int]:
        """Add the source's spans to `spans`; return the outcome and how many bytes were read."""
        if source == "log":
            return self._log(job, spans)
        if source == "test_engine":
            return self._engine(job, spans)
        outcomes, size = set[str](), 0
        read = self._tests_of if source == "tests" else self._profile_of
        max_bytes = MAX_TESTS_BYTES if source == "tests" else MAX_PROFILE_BYTES
        for artifact in self._artifacts(job, source):
            try:
                with self._client.download(artifact, max_bytes=max_bytes) as pieces:
                    counter = _Counted(pieces)
                    outcomes.add(read(job, artifact, counter, spans))
                    size += counter.bytes
            except Gone:
                continue  # the others are still there
            except AnswerTooLarge:
                outcomes.add(TOO_LARGE)
        # The worst one: what could not be read is to be seen.
        return next((one for one in (UNREADABLE, TOO_LARGE) if one in outcomes), READ), size

    def _artifacts(self, job: Job, source: Source) -> Iterator[Artifact]:
        globs = self._tests if source == "tests" else self._profiles
        ref = job.ref
        if self._listed[0] != ref.job_id:
            found = self._client.artifacts(ref.pipeline, ref.number, job_id=ref.job_id)
            self._listed = ref.job_id, list(found)
        for one in self._listed[1]:
            # So that `**/` may also stand for no folder.
            if one.state == "finished" and (one.path in globs or f"/{one.path}" in globs):
                yield one

    def _log(self, job: Job, spans: list[list[DetailSpan]]) -> tuple[str, int]:
        from bk_pipeline.sources.log import read_log  # noqa: PLC0415

        keeping = self._log_writer(job.ref.job_id) if self._policy.keep_logs else nullcontext()
        with self._client.log(job.ref) as pieces, keeping as kept:
            log = read_log(
                pieces if kept is None else _copied(pieces, kept),
                job.times,
                # Agents of long ago put no times into the log.
                header_times=lambda: self._client.header_times(job.ref),
                commands=job.rule.commands,
                text=self._policy.text,
                exit_status=job.exit_status,
                signal_reason=job.signal_reason,
                state=job.state,
            )
        spans.append(log.spans)
        self._result.truncated += log.omitted_sections + log.omitted_commands
        return READ, log.bytes

    def _engine(self, job: Job, spans: list[list[DetailSpan]]) -> tuple[str, int]:
        from bk_pipeline.sources.results import CasePolicy  # noqa: PLC0415
        from bk_pipeline.sources.test_engine import tests_from_engine  # noqa: PLC0415

        records = self._client.tests(job.build_id, job_id=job.ref.job_id)
        cases = CasePolicy(job.rule.cases, job.rule.slow_case_s)
        tests = tests_from_engine(records, job.times, cases=cases)
        spans.append(tests.spans)
        self._result.truncated += tests.spans_left_out
        return READ, 0

    def _tests_of(
        self, job: Job, artifact: Artifact, pieces: Iterator[bytes], spans: list[list[DetailSpan]]
    ) -> str:
        from bk_pipeline.sources.junit import read_junit  # noqa: PLC0415
        from bk_pipeline.sources.results import CasePolicy  # noqa: PLC0415

        cases = CasePolicy(job.rule.cases, job.rule.slow_case_s)
        tests = read_junit(
            pieces,
            job.times,
            path=artifact.path,
            cases=cases,
            artifact_id=artifact.id,
            text=self._policy.text,
        )
        spans.append(tests.spans)
        self._result.truncated += tests.spans_left_out
        return UNREADABLE if tests.problem and not tests.cases else READ

    def _profile_of(
        self, job: Job, artifact: Artifact, pieces: Iterator[bytes], spans: list[list[DetailSpan]]
    ) -> str:
        from bk_pipeline.sources.profile import EventPolicy, read_profile  # noqa: PLC0415

        events = EventPolicy(job.rule.min_event_ms, job.rule.max_depth)
        profile = read_profile(
            pieces,
            job.times,
            path=artifact.path,
            events=events,
            artifact_id=artifact.id,
            text=self._policy.text,
        )
        spans.append(profile.spans)
        self._result.truncated += profile.left_out
        return UNREADABLE if profile.problem and not profile.events else READ


def _copied(pieces: Iterator[bytes], file: pa.NativeFile) -> Iterator[bytes]:
    """Yield the pieces, which are written to `file` too."""
    for piece in pieces:
        file.write(piece)
        yield piece


class _Counted:
    """Counts the bytes that go through it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.bytes = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self.bytes += len(piece)
        return piece
