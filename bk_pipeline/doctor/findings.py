"""Results of checks, and the installation that is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from bk_pipeline.app import App
from bk_pipeline.clock import Clock
from bk_pipeline.settings import Settings

if TYPE_CHECKING:
    from bk_pipeline.buildkite.client import BuildkiteClient
    from bk_pipeline.buildkite.quota import Quota
    from bk_pipeline.buildkite.records import AccessToken


class Verdict(Enum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"  # works, but you should know something
    FAILED = "failed"
    SKIPPED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's verdict and its explanation.

    Attributes:
        check: The check's name.
        verdict: The result.
        message: What was found or what to do, in a sentence or two, without secrets.
        is_config_error: Whether a setting or argument caused the failure.
    """

    check: str
    verdict: Verdict
    message: str
    is_config_error: bool = False


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The message of a check that did not fail. A failed check raises a PipelineError."""

    message: str
    is_warning: bool = False


def ok(message: str) -> CheckResult:
    """Return the result of a check that found no problem."""
    return CheckResult(message)


def warning(message: str) -> CheckResult:
    """Return the result of a check that passed, but found something to know or do."""
    return CheckResult(message, is_warning=True)


def exit_status(findings: list[Finding]) -> int:
    """Return 0 if nothing failed, 2 if a setting or argument is wrong, 1 for other failures."""
    failed = [one for one in findings if one.verdict is Verdict.FAILED]
    if any(one.is_config_error for one in failed):
        return 2
    return 1 if failed else 0


# A user waits for the result; a run would retry for longer.
DEADLINE_S = 10.0


class Installation:
    """The environment and `.env` of this process, as a run would find them.

    Args:
        clock: Provides the time and waits.
        days: Number of days in the backfill to estimate.
        on_wait: Called before each wait for Buildkite.
        test_event: Whether to send one event to each Honeycomb dataset.
    """

    def __init__(
        self, *, clock: Clock, days: int, on_wait: Callable[[str], None], test_event: bool = False
    ) -> None:
        self.clock = clock
        self.days = days
        self.test_event = test_event
        self._on_wait = on_wait
        # Ledger names of the destinations that have responded.
        self.destination_names: list[str] = []

    @cached_property
    def settings(self) -> Settings:
        """The settings, with a short deadline for requests.

        Raises:
            ConfigError: A setting is malformed.
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
        """Rate limits according to the responses to this client only."""
        from bk_pipeline.buildkite.quota import Quota, families  # noqa: PLC0415  # as in `app.py`

        return Quota(families(self.settings.buildkite_reserve_percent / 100))

    @cached_property
    def buildkite(self) -> BuildkiteClient:
        """The client; `close` closes it.

        Raises:
            ConfigError: The token or organization is not set.
        """
        return self.app.buildkite(deadline_s=DEADLINE_S, quota=self.quota)

    @cached_property
    def access_token(self) -> AccessToken:
        """What Buildkite says of the token.

        Raises:
            TokenRefused: Buildkite does not know it.
        """
        return self.buildkite.access_token()

    def close(self) -> None:
        """Close the connections."""
        if "buildkite" in vars(self):
            self.buildkite.close()
