"""What the checks look at: settings, and what they lead to, made once and when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.quota import Quota, families
from bk_pipeline.clock import Clock
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.settings import Settings

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
    def quota(self) -> Quota:
        """Fed by what the client is answered; nobody else's."""
        return Quota(families(self.settings.buildkite_reserve_percent / 100))

    @cached_property
    def buildkite(self) -> BuildkiteClient:
        """The client, for as long as this lives.

        Raises:
            ConfigError: Token or organization are not set.
        """
        return BuildkiteClient.from_settings(
            self.settings,
            clock=self.clock,
            quota=self.quota,
            retry_policy=RetryPolicy(deadline_s=DEADLINE_S),
            on_wait=self._on_wait,
        )

    def close(self) -> None:
        """Close the connections."""
        if "buildkite" in vars(self):
            self.buildkite.close()
