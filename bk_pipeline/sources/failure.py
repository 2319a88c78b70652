"""Why a job failed, from the end of its log.

The lines before the agent's report of the failure are searched by the rules of
`failure_rules.py`; the rule with the highest rank decides. All work is bounded: only the last
`TAIL_BYTES` are read, and of each line only the beginning.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from bk_pipeline.sources.failure_rules import DETAIL_LINES, GENERIC, RULES, FailureKind, Rule
from bk_pipeline.sources.headers import Phase, header_text, phase_of
from bk_pipeline.sources.signature import signature_of
from bk_pipeline.sources.terminal import plain, plain_lines, safe
from bk_pipeline.spans.secrets import mask_log_secrets
from bk_pipeline.text import one_line

__all__ = ["TAIL_BYTES", "Failure", "FailureKind", "failure_of", "signature_of"]

TAIL_BYTES = 256 * 1024
MESSAGE_LIMIT = 300
_LINE_LIMIT = 2_000
_MOST_DETAIL = 160

# Reasons for which Buildkite or the agent ended a job that have nothing to do with its command.
_REASONS = {
    "agent_stop": "The agent was stopped while the job ran",
    "agent_refused": "The agent refused the job",
    "agent_incompatible": "The agent cannot run the job",
    "process_run_error": "The agent could not start the job's process",
    "signature_rejected": "The job's signature was rejected",
    "stack_error": "The stack that runs agents failed",
}
_AGENT_LOST = -1
# Of `timeout`, and of what the system killed.
_STATUSES = {
    124: FailureKind.TIMEOUT,
    137: FailureKind.INFRASTRUCTURE,
    -9: FailureKind.INFRASTRUCTURE,
}
_BEFORE_COMMAND = (Phase.ENVIRONMENT, Phase.CHECKOUT, Phase.PLUGINS, Phase.ARTIFACTS)

_AGENT_ERROR = "\U0001f6a8 Error"
_AGENT_LINE = re.compile(r"\U0001f6a8 |user command error: |\^\^\^ |(?:~~~|---|\+\+\+) |\$ |# ")
_COMMAND_STEP = re.compile(r"~~~ Running (?:commands?\b|script|batch script|.{1,200} command hook)")
# What programs and containers put before each line of others: a time, a name.
_PREFIX = re.compile(
    r"(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]? "
    r"|[\[(]?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?[\])]? |#\d{1,4} \d{1,6}\.\d{1,3} "
    r"|[\w.-]{1,60}[-_]\d{1,4}\s{1,40}\| )++"
)
_LETTERS = re.compile(r"[^\W\d_]{2}")
# A line of a key, or of anything else in base64: no message, and perhaps a secret.
_ONE_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{16,}|\S{40,}")


class Failure(msgspec.Struct):
    """Why a job failed.

    Attributes:
        kind: What kind of failure it is.
        message: The line that says so, truncated and without secrets.
        signature: 16 hex digits, equal for the same failure in other builds.
        tool: The tool that reported it, as the table of rules names it; None if no rule matched.
        offset: Where the line begins in the bytes that were read; None if it is not from there.
    """

    kind: FailureKind
    message: str | None = None
    signature: str | None = None
    tool: str | None = None
    offset: int | None = None

    def without_text(self) -> Failure:
        """Return the failure without anything of the log's text."""
        return Failure(self.kind, tool=self.tool, offset=self.offset)


class _Text(msgspec.Struct):
    """The lines that are searched, their phase, and the agent's error if it is among them."""

    lines: list[str]
    offsets: list[int]
    phase: Phase | None
    error: str | None


def failure_of(
    tail: bytes,
    *,
    exit_status: int | None = None,
    signal_reason: str | None = None,
    state: str | None = None,
) -> Failure | None:
    """Return why a job failed; None if it did not.

    Args:
        tail: The end of its log, or all of it. Only the last `TAIL_BYTES` are read.
        exit_status: The job's. Without it, and without a reason, the job counts as failed if a
            line says so.
        signal_reason: Why the agent or Buildkite ended the job.
        state: The job's, which alone tells a time limit (`timed_out`) from a cancellation.
    """
    if exit_status == 0 and not signal_reason:
        return None
    skipped = max(len(tail) - TAIL_BYTES, 0)
    text = _searched(tail[skipped:])
    if exit_status is None and text.error:
        exit_status = _status_in(text.error)
    failure, rank = _by_rules(text)
    if failure is None and (text.error or exit_status is not None or signal_reason):
        failure = _by_last_line(text)
    failure = _by_status(failure, rank, text.phase, _Ending(exit_status, signal_reason, state))
    if failure and failure.offset is not None:
        failure.offset += skipped
    return failure


def _searched(raw: bytes) -> _Text:
    """Return the lines of the agent's step that failed.

    It ends with the agent's first error, and begins with the agent's last header before that. Its
    command may have printed headers of its own. Without an error, the step that ran the command
    is the one.
    """
    lines = plain_lines(raw)
    texts = [
        _PREFIX.sub("", text[:_LINE_LIMIT], count=1) if _PREFIX.match(text) else text[:_LINE_LIMIT]
        for _, text in lines
    ]
    end = next((at for at, text in enumerate(texts) if text.startswith(_AGENT_ERROR)), None)
    error = None if end is None else texts[end]
    headers = [(at, phase) for at, text in enumerate(texts) if (phase := _phase(text))]
    if end is None:
        commands = [at for at, _ in headers if _COMMAND_STEP.match(texts[at])]
        begin = commands[-1] if commands else None
        end = next((at for at, _ in headers if begin is not None and at > begin), len(texts)) - 1
    before = [(at, phase) for at, phase in headers if at <= end]
    begin, phase = before[-1] if before else (0, None)
    offsets = [at for at, _ in lines[begin : end + 1]]
    return _Text(texts[begin : end + 1], offsets, phase, error)


def _phase(text: str) -> Phase | None:
    if not text.startswith("~~~"):
        return None
    line = text.encode()
    header = header_text(line)
    return phase_of(line, plain(header)) if header is not None else None


def _by_rules(text: _Text) -> tuple[Failure | None, int]:
    """Return the failure that the rule with the highest rank finds, and the rank."""
    joined = "\n".join(text.lines)
    lowered = joined.lower()
    starts = list(accumulate((len(line) + 1 for line in text.lines), initial=0))
    for rule in _SORTED:
        found = _match(rule, joined) if any(hint in lowered for hint in rule.hints) else None
        if found:
            first, at, last = (
                bisect_right(starts, place) - 1
                for place in (found.start(), found.start(_message(rule)), found.end())
            )
            return _failure(rule, text, range(first, last + 1), at), rule.rank
    return None, 0


_SORTED = sorted(RULES, key=lambda rule: -rule.rank)


def _message(rule: Rule) -> int:
    """Return the group of a rule's match that is the message."""
    return rule.expression.groupindex.get("message", 0)


def _match(rule: Rule, text: str) -> re.Match[str] | None:
    """Return the match that the rule's message is taken from.

    Of several tests it is the first by name, because tests that run in parallel fail in any order.
    """
    if rule.last:
        return next(iter(deque(rule.expression.finditer(text), maxlen=1)), None)
    if rule.kind is FailureKind.TEST:
        group = _message(rule)
        return min(rule.expression.finditer(text), key=lambda found: found[group], default=None)
    return rule.expression.search(text)


def _failure(rule: Rule, text: _Text, lines: range, at: int) -> Failure:
    """Return the failure that a rule found in `lines`, with its message in the line `at`.

    Secrets are masked in whole lines first: what makes them recognizable may be outside of the
    message.
    """
    masked = [mask_log_secrets(text.lines[one]) for one in lines if one < len(text.lines)]
    found = rule.expression.search("\n".join(masked))
    message = found[_message(rule)] if found else masked[at - lines.start]
    detail = _detail(rule, text.lines[at + 1 : at + 1 + DETAIL_LINES]) if rule.detail else ""
    if detail and detail not in message:
        message = f"{message}: {detail}"
    return _finished(rule.kind, message, text.offsets[at], rule)


def _detail(rule: Rule, lines: Sequence[str]) -> str:
    for line in lines:
        found = rule.detail_expression.match(line)
        if found and not _ONE_TOKEN.fullmatch(line.strip()):
            masked = rule.detail_expression.match(mask_log_secrets(line))
            return one_line(masked["detail"], _MOST_DETAIL) if masked else ""
    return ""


def _finished(kind: FailureKind, message: str, offset: int | None, rule: Rule | None) -> Failure:
    shown = one_line(message, _LINE_LIMIT)
    return Failure(
        kind=kind,
        message=safe(shown, MESSAGE_LIMIT),
        signature=signature_of(shown),
        tool=rule.tool if rule else None,
        offset=offset,
    )


def _by_last_line(text: _Text) -> Failure | None:
    """Return a failure with the last line that is a program's, or else the agent's error."""
    agents = None
    for at in range(len(text.lines) - 1, -1, -1):
        line = text.lines[at].strip()
        if _AGENT_LINE.match(line):
            agents = at if line.startswith(_AGENT_ERROR) else agents
        elif _LETTERS.search(line) and not _ONE_TOKEN.fullmatch(line) and line != "[masked]":
            return _finished(FailureKind.UNKNOWN, mask_log_secrets(line), text.offsets[at], None)
    if agents is None:
        return None
    line = mask_log_secrets(text.lines[agents]).removeprefix(_AGENT_ERROR).strip(": ")
    return _finished(FailureKind.UNKNOWN, line, text.offsets[agents], None)


def _status_in(error: str) -> int | None:
    """Return the exit status that the agent's error names."""
    found = re.search(r"exited with status (-?\d{1,5})", error)
    return int(found[1]) if found else None


class _Ending(NamedTuple):
    """How a job ended."""

    exit_status: int | None
    signal_reason: str | None
    state: str | None


def _by_status(
    failure: Failure | None, rank: int, phase: Phase | None, ending: _Ending
) -> Failure | None:
    """Return a failure whose kind takes into account how the job ended.

    Otherwise what a tool reports goes before the exit status, which counts only if no tool said
    what happened.
    """
    status = ending.exit_status
    outside = _from_outside(ending)
    if status == _AGENT_LOST and failure and failure.kind is FailureKind.INFRASTRUCTURE:
        outside = outside and failure
    if outside or failure is None:
        ended = f"The command exited with status {status}" if status else None
        return outside or (_finished(FailureKind.UNKNOWN, ended, None, None) if ended else None)
    if phase in _BEFORE_COMMAND and failure.kind in (FailureKind.UNKNOWN, FailureKind.BUILD):
        failure.kind = FailureKind.INFRASTRUCTURE
    elif rank <= GENERIC and status in _STATUSES:
        failure.kind = _STATUSES[status]
    return failure


def _from_outside(ending: _Ending) -> Failure | None:
    """Return why the job was ended, if that was neither its command's nor a hook's doing."""
    status, reason, state = ending
    if state == "timed_out":
        return _finished(FailureKind.TIMEOUT, "The job's time was over", None, None)
    if reason in _REASONS:
        return _finished(FailureKind.INFRASTRUCTURE, _REASONS[reason], None, None)
    if reason == "cancel" or state == "canceled":
        return _finished(FailureKind.UNKNOWN, "The job was canceled", None, None)
    if status == _AGENT_LOST:
        return _finished(FailureKind.INFRASTRUCTURE, "The agent was lost", None, None)
    return None
