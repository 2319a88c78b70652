"""What the assets need from outside, made when they need it.

A resource holds the settings and makes the plain object that `pipeline` works with. A
missing token is thus an error of the run that needs it, in our words, and not one of the
code location.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.paging import Paging
from bk_pipeline.buildkite.shared_quota import SharedQuota
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destinations import Configured, destinations
from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.rules_file import load_rules
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline import Day, MarkerContext, Results, restore_day
from bk_pipeline.settings import Settings
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import rows
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.search import SpanSearch
from bk_pipeline.store.spans import SpanStore, StatsStore

# After the requests' own retries (BK_PIPELINE_HTTP_DEADLINE_S): outages that last.
RUN_RETRIES = 2


def _nobody(_: str) -> None:
    """Nobody wants to know."""


class Services:
    """The outside world of one code location, as its settings describe it.

    Args:
        settings: Of everything.
        clock: Tells time and waits.
        retries: How often a step is tried again after an error that may pass.
        tell: Told of each bit of progress, besides Dagster's log.
        on_wait: Told of each wait, likewise.

    Attributes:
        results: What runs that use these services have done so far.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        retries: int = RUN_RETRIES,
        tell: Callable[[str], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.retries = retries
        self.tell = tell or _nobody
        self.on_wait = on_wait or _nobody
        self.results = Results()
        self._paging = Paging()
        reserve = settings.buildkite_reserve_percent / 100
        self._quota = SharedQuota(settings.quota_path, reserve=reserve)
        # Of the reserve, so that a backfill that runs flat out does not blind the sensor.
        self._sensors_quota = SharedQuota(settings.quota_path, reserve=reserve / 2, owners=0)

    def buildkite(
        self, on_wait: Callable[[str], None], *, patience_s: float = math.inf
    ) -> BuildkiteClient:
        """A client whose waits for quota or a better moment are told to `on_wait`.

        All processes of this host keep one quota: it is the token's, not the client's.
        `patience_s` bounds each wait, each answer, and the retries of a request; who has
        little of it is taken for the sensor, and may use some of the reserve.
        """
        return BuildkiteClient.from_settings(
            self.settings,
            clock=self.clock,
            quota=self._quota if math.isinf(patience_s) else self._sensors_quota,
            paging=self._paging,
            retry_policy=RetryPolicy(deadline_s=min(self.settings.http_deadline_s, patience_s)),
            on_wait=on_wait,
            patience_s=patience_s,
        )

    def restore(self, day: Day, *, on_wait: Callable[[str], None]) -> list[str]:
        """Fetch and make again what damaged files of `day` held; what is to be said of more."""
        return restore_day(
            day,
            connect=lambda: self.buildkite(on_wait=on_wait),
            raw=self.raw(),
            spans=self.spans(),
            clock=self.clock,
            privacy=self.privacy(),
            progress=self.tell,
        )

    def raw(self) -> RawStore:
        return RawStore(Folder(self.settings.storage))

    def spans(self) -> SpanStore:
        return SpanStore(Folder(self.settings.storage))

    def trace(self, trace_id: str, day: str) -> list[dict[str, Any]]:
        """The spans of a build of `day`, as `spans.table.rows` gives them; none if it has none."""
        search = SpanSearch(Folder(self.settings.storage))
        found = search.find_by_trace_id(trace_id, [day])
        return list(rows(search.spans(found))) if found else []

    def stats(self) -> StatsStore:
        return StatsStore(Folder(self.settings.storage))

    def privacy(self) -> Privacy:
        return Privacy.from_settings(self.settings)

    def span_options(self) -> SpanOptions:
        """Which spans, links and columns are made."""
        given = self.settings
        settled = given.spans_export == "settled"
        return SpanOptions(
            links=given.spans_links,
            waits=given.spans_waits,
            conventions=given.spans_conventions,
            settled_after_s=given.spans_settled_hours * 3600 if settled else None,
        )

    def ledger(self) -> Ledger:
        """The ledger to deliver with, made if it is missing.

        Raises:
            ConfigError: It would be a file on this host, and the data are in an object store.
        """
        self.settings.refuse_lone_ledger()
        return Ledger.from_settings(self.settings, clock=self.clock)

    def delivery_policy(self) -> DeliveryPolicy:
        return DeliveryPolicy(guarantee=Guarantee(self.settings.deliver_guarantee))

    def marking(self, on_wait: Callable[[str], None]) -> MarkerContext:
        """By the rules as their file has them now; waits for the rate limit go to `on_wait`.

        What began before spans are sent is not marked either.
        """
        given = self.settings
        days = given.honeycomb_max_age_days
        return MarkerContext(
            spans=self.spans(),
            rules=load_rules(given.require_markers(), dataset=given.honeycomb_dataset),
            client=MarkerClient.from_settings(given, clock=self.clock, on_wait=on_wait),
            ledger=self.ledger(),
            oldest=self.clock.now() - timedelta(days=days) if days else None,
        )

    def destinations(self) -> list[Configured]:
        return destinations(self.settings)
