"""What a check comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from bk_pipeline.app import App
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.quota import Quota, families
from bk_pipeline.clock import Clock
from bk_pipeline.settings import Settings


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


# A person waits for the answer; a run would try for longer.
DEADLINE_S = 10.0


class Installation:
    """This process's environment and `.env`, as a run would find them.

    Args:
        clock: Tells time and waits.
        days: How long a backfill is to be reckoned with.
        on_wait: Told of each wait for Buildkite, before it.
    """

    def __init__(self, *, clock: Clock, days: int, on_wait: Callable[[str], None]) -> None:
        self.clock = clock
        self.days = days
        self._on_wait = on_wait
        # Of the destinations that have answered: what the ledger knows each by.
        self.destination_names: list[str] = []

    @cached_property
    def settings(self) -> Settings:
        """The settings, but that nothing is tried for long.

        Raises:
            ConfigError: One is malformed.
        """
        Settings.read()
        return Settings.read(BK_PIPELINE_HTTP_DEADLINE_S=str(DEADLINE_S))

    @cached_property
    def app(self) -> App:
        """The objects that the settings describe.

        Raises:
            ConfigError: A setting is malformed.
        """
        return App(self.settings, clock=self.clock, on_wait=self._on_wait)

    @cached_property
    def quota(self) -> Quota:
        """Fed by what the client is answered; nobody else's."""
        return Quota(families(self.settings.buildkite_reserve_percent / 100))

    @cached_property
    def buildkite(self) -> BuildkiteClient:
        """The client, for as long as this lives.

        Raises:
            ConfigError: Token or organization are not set.
        """
        return self.app.buildkite(deadline_s=DEADLINE_S, quota=self.quota)

    def close(self) -> None:
        """Close the connections."""
        if "buildkite" in vars(self):
            self.buildkite.close()
