"""Trace and span ids: the same build always gives the same ids, whoever runs it.

This is a promise to users, who compute the parents of their own in-job spans from
`BUILDKITE_BUILD_ID` and `BUILDKITE_JOB_ID` alone. Nothing in here may ever change.
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
    """32 hex digits: the build's UUID without its dashes.

    What Buildkite derives its own trace context from. An id that is no UUID (anonymised
    data has such) is hashed.
    """
    lower = build_id.lower()
    if _UUID.fullmatch(lower):
        digits = lower.replace("-", "")
        if digits != _NO_TRACE:
            return digits
    return _hash("trace", build_id)[:32]


def uuid_span_id(kind: str, uuid: str) -> str:
    """16 hex digits: the last ones of a build's or job's UUID.

    An id that is no UUID, or ends in 16 zeros (no valid span id), is hashed.
    """
    lower = uuid.lower()
    if _UUID.fullmatch(lower):
        digits = lower[19:23] + lower[24:]
        if digits != _NO_SPAN:
            return digits
    return derived_span_id(kind, uuid)


def derived_span_id(kind: str, *parts: str) -> str:
    """16 hex digits: the first 8 bytes of SHA-256 over kind and parts, separated by NUL.

    The separator keeps ("12", "3") and ("1", "23") apart.

    Args:
        kind: The span's kind.
        parts: What identifies it for good, ids before names.
    """
    return _hash(kind, *parts)[:16]


def root_span_id(build_id: str) -> str:
    """The span id of a build's root span: where links to that build lead."""
    return uuid_span_id(ROOT_KIND, build_id)


def _hash(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


class SpanIds:
    """The ids of one trace, no span id twice.

    Two jobs whose UUIDs end in the same 16 digits have never been seen, but a payload can
    say so. Then the one that ended first keeps them, and the other's id is hashed: jobs
    that come later never change the ids of earlier ones.

    Args:
        build_id: The build's.
        ended: When its jobs ended, by their ids.
    """

    def __init__(self, build_id: str, ended: Mapping[str, int]) -> None:
        self.trace = trace_id(build_id)
        self.root = root_span_id(build_id)
        self._jobs = {job_id: uuid_span_id(JOB_KIND, job_id) for job_id in ended}
        self._taken = {self.root, *self._jobs.values()}
        if len(self._taken) <= len(ended):
            self._tell_apart(ended)

    def _tell_apart(self, ended: Mapping[str, int]) -> None:
        """Give each job an id that no earlier one has, nor the root."""
        self._taken = {self.root}
        for job_id in sorted(ended, key=lambda job_id: (ended[job_id], job_id)):
            digits = self._jobs[job_id]
            if digits in self._taken:
                digits = self.derived(JOB_KIND, job_id)
            self._taken.add(digits)
            self._jobs[job_id] = digits

    def job(self, job_id: str) -> str:
        """The span id of a job, of this build or one that is not in its payload."""
        return self._jobs.get(job_id) or uuid_span_id(JOB_KIND, job_id)

    def derived(self, kind: str, *parts: str) -> str:
        """A new span id within this trace, from `kind` and what identifies it there."""
        digits = _hash(kind, self.trace, *parts)[:16]
        while digits in self._taken or digits == _NO_SPAN:
            digits = derived_span_id(kind, self.trace, *parts, digits)
        self._taken.add(digits)
        return digits
