"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How it stands with what was looked at."""

    FINE = "fine"
    REMARK = "remark"  # works, and still there is something to know
    FAILED = "failed"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands, and why: what is there, or the one thing to do.

    Attributes:
        check: What was looked at, in a word or two.
        verdict: How it stands.
        words: A sentence or two; no secret is in them.
        setting: A failure that a setting or an argument is to blame for.
    """

    check: str
    verdict: Verdict
    words: str
    setting: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check has to say where nothing failed: that is raised, as a PipelineError."""

    words: str
    remark: bool = False


def fine(words: str) -> Answer:
    return Answer(words)


def remark(words: str) -> Answer:
    return Answer(words, remark=True)


def exit_status(findings: list[Finding]) -> int:
    """0: nothing failed; 2: a setting or argument is to blame for a failure; 1: something else."""
    failed = [one for one in findings if one.verdict is Verdict.FAILED]
    if any(one.setting for one in failed):
        return 2
    return 1 if failed else 0
