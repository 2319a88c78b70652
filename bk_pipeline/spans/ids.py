"""Deterministic trace and span ids: the same build always has the same ids.

The rules must never change. Users rely on them to compute the parents of their own spans
inside jobs from `BUILDKITE_BUILD_ID` and `BUILDKITE_JOB_ID` alone, and the delivery ledger
identifies delivered spans by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256

ROOT_KIND = "buildkite.build"
JOB_KIND = "buildkite.job"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NO_SPAN = "0" * 16
_NO_TRACE = "0" * 32


def trace_id(build_id: str) -> str:
    """Return the trace id of a build, 32 hex digits: its UUID without dashes.

    Buildkite derives its own trace context from it in the same way. An id that is not a UUID
    (as in anonymized data) is hashed.
    """
    lower = build_id.lower()
    if _UUID.fullmatch(lower):
        digits = lower.replace("-", "")
        if digits != _NO_TRACE:
            return digits
    return _hash("trace", build_id)[:32]


def uuid_span_id(kind: str, uuid: str) -> str:
    """Return a span id, 16 hex digits: the last ones of the UUID of a build or job.

    An id that is not a UUID, or that ends in 16 zeros (an invalid span id), is hashed.
    """
    lower = uuid.lower()
    if _UUID.fullmatch(lower):
        digits = lower[19:23] + lower[24:]
        if digits != _NO_SPAN:
            return digits
    return derived_span_id(kind, uuid)


def derived_span_id(kind: str, *parts: str) -> str:
    """Return a span id, 16 hex digits: the first 8 bytes of SHA-256 over kind and parts.

    The parts are separated by NUL, so that ("12", "3") and ("1", "23") differ.

    Args:
        kind: The kind of the span.
        parts: Values that identify the span permanently; ids rather than names.
    """
    return _hash(kind, *parts)[:16]


def root_span_id(build_id: str) -> str:
    """Return the id of a build's root span, which links to that build refer to."""
    return uuid_span_id(ROOT_KIND, build_id)


def _hash(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class SpanIds:
    """The ids of one trace, without duplicate span ids.

    Two jobs whose UUIDs end in the same 16 digits have never been observed, but a payload can
    have them. Then the job that ended first keeps the digits and the other's id is hashed, so
    that later jobs never change the ids of earlier ones.

    Args:
        build_id: The id of the build.
        ended: The end of each job in nanoseconds, by job id.
    """

    def __init__(self, build_id: str, ended: Mapping[str, int]) -> None:
        self.trace = trace_id(build_id)
        self.root = root_span_id(build_id)
        self._jobs = {job_id: uuid_span_id(JOB_KIND, job_id) for job_id in ended}
        self._taken = {self.root, *self._jobs.values()}
        if len(self._taken) <= len(ended):
            self._resolve_collisions(ended)

    def _resolve_collisions(self, ended: Mapping[str, int]) -> None:
        """Give each job an id that neither an earlier job nor the root has."""
        self._taken = {self.root}
        for job_id in sorted(ended, key=lambda job_id: (ended[job_id], job_id)):
            digits = self._jobs[job_id]
            if digits in self._taken:
                digits = self.derived(JOB_KIND, job_id)
            self._taken.add(digits)
            self._jobs[job_id] = digits

    def job(self, job_id: str) -> str:
        """Return the span id of a job, which need not be in the build's payload."""
        return self._jobs.get(job_id) or uuid_span_id(JOB_KIND, job_id)

    def derived(self, kind: str, *parts: str) -> str:
        """Reserve and return the span id for `kind` and the `parts` that identify the span."""
        digits = _hash(kind, self.trace, *parts)[:16]
        while digits in self._taken or digits == _NO_SPAN:
            digits = derived_span_id(kind, self.trace, *parts, digits)
        self._taken.add(digits)
        return digits
