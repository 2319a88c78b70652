"""How a job ended, and how spans over several jobs did: OpenTelemetry's status and `error.type`."""

from __future__ import annotations

from collections.abc import Iterable

from bk_pipeline.spans.model import SpanStatus
from bk_pipeline.spans.records import Job

UNSET, OK, ERROR = SpanStatus
Outcome = tuple[SpanStatus, str | None]  # and what the error was
PASSED: Outcome = (OK, None)
NEITHER: Outcome = (UNSET, None)

PASSED_STATES = frozenset({"passed", "unblocked"})
HARD_FAILURES = frozenset({"failed", "timed_out", "expired"})
AGENT_LOST = "agent_lost"
LOST_EXIT_STATUS = -1
AGENT_STOPPED = "agent_stop"


def failed_hard(job: Job) -> bool:
    """It failed, timed out, expired or lost its agent, and the pipeline does not forgive it."""
    if job.soft_failed:
        return False
    if job.state == "finished":
        return bool(job.exit_status)
    return job.state in HARD_FAILURES


def agent_was_lost(job: Job) -> bool:
    """It failed because its agent vanished or was stopped, not by its command's doing.

    -1 is also the exit status of what was canceled or timed out, and of what an agent
    refused; the last is known by its `signal_reason`.
    """
    if job.state not in {"failed", "finished"}:
        return False
    unexplained = job.exit_status == LOST_EXIT_STATUS and not job.signal_reason
    return unexplained or job.signal_reason == AGENT_STOPPED


def status(job: Job) -> Outcome:
    """The span status, and `error.type` where it is ERROR."""
    if job.state in PASSED_STATES:
        return PASSED
    if failed_hard(job):
        if agent_was_lost(job):
            return ERROR, AGENT_LOST
        return ERROR, "failed" if job.state == "finished" else job.state
    return PASSED if job.state == "finished" and job.exit_status == 0 else NEITHER


def status_of_all(outcomes: Iterable[Outcome]) -> Outcome:
    """The first error there is, else OK if all are, else UNSET."""
    found = PASSED
    for one in outcomes:
        if one[0] is ERROR:
            return one
        if one[0] is not OK:
            found = NEITHER
    return found
