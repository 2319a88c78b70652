"""Client for the parts of Buildkite's REST API that the pipeline uses.

Every method may wait for the quota or before a retry. None of them prints, logs or stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Self
from urllib.parse import quote

import msgspec

from bk_pipeline.buildkite.answers import Subject, read_elements, read_object, read_payload
from bk_pipeline.buildkite.api import Api, Usage
from bk_pipeline.buildkite.budget import ByteBudget
from bk_pipeline.buildkite.details import DetailsClient
from bk_pipeline.buildkite.listing import (
    MAX_NAMED_PIPELINES,
    BranchFilter,
    PageFilter,
    PipelineFilter,
    collect_finished,
    finished_params,
    iter_pages,
    wire_time,
)
from bk_pipeline.buildkite.paging import LEAN, PageSize, Paging, RawPage, iter_raw_pages
from bk_pipeline.buildkite.quota import Quota
from bk_pipeline.buildkite.records import (
    AccessToken,
    ActiveBuild,
    BuildRecord,
    FinishedListing,
    Page,
    Sample,
    read_active,
    read_build,
    read_cluster,
    read_organization,
    read_sample,
)
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.errors import AnswerTooLarge, NotFound
from bk_pipeline.http.network import Network, Timeouts
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import HttpSession, Params
from bk_pipeline.settings import Settings
from bk_pipeline.spans.organizations import Cluster, Organization
from bk_pipeline.window import Window

API_URL = "https://api.buildkite.com"
PER_PAGE = "100"
# Recently finished builds mostly fit on the organization's first page. With more named
# pipelines than this, that page is requested first.
MAX_NAMED_PIPELINES_FINISHED = 2
WHOLE = {"include_retried_jobs": "true"}
# What the names of organization and clusters need. They are optional, so nothing waits long.
ORGANIZATION_SCOPE, CLUSTERS_SCOPE = "read_organizations", "read_clusters"
NAMES_DEADLINE_S = 15.0
MAX_CLUSTER_PAGES = 50


def _ignore_wait(_: str) -> None:
    """Default of `on_wait`."""


class BuildkiteClient:
    """Reads the builds of one organization. Thread-safe: threads share connections and quota.

    Args:
        organization: Slug of the organization.
        token: An API access token with the scope `read_builds`.
        api_url: Base URL of the REST API.
        clock: Used for measuring and waiting.
        network: Proxies and CA bundle. Default: from the exported variables.
        session: Used instead of a new one; must send the token itself. Closed by `close`.
        quota: Can be shared with other clients of the same token.
        paging: What is known about the service's paging; can be shared with other clients.
        retry_policy: Deadline and pauses of retries.
        pipelines: The pipelines whose builds to return.
        branches: The branches whose builds to return.
        on_wait: Called before each wait with a message: why, and until when.
        max_wait_s: Limit for one request and for one wait for the quota, in seconds.
    """

    def __init__(
        self,
        organization: str,
        token: str,
        *,
        api_url: str = API_URL,
        clock: Clock | None = None,
        network: Network | None = None,
        session: HttpSession | None = None,
        quota: Quota | None = None,
        paging: Paging | None = None,
        retry_policy: RetryPolicy | None = None,
        pipelines: PipelineFilter | None = None,
        branches: BranchFilter | None = None,
        on_wait: Callable[[str], None] = _ignore_wait,
        max_wait_s: float = math.inf,
    ) -> None:
        self.organization = organization
        self.pipelines = pipelines or PipelineFilter()
        self.branches = branches or BranchFilter()
        self._clock = clock or SystemClock()
        policy = retry_policy or RetryPolicy()
        self._network = network
        self._timeouts = Timeouts.for_deadline(policy.deadline_s).within(max_wait_s)
        self._session = session or HttpSession(
            # The base URL in Buildkite's documentation ends in the version.
            api_url.rstrip("/").removesuffix("/v2"),
            setting="BUILDKITE_API_URL",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeouts=self._timeouts,
            network=network,
            clock=self._clock,
        )
        self._paging = paging or Paging()
        self._api = Api(
            self._session,
            quota=quota or Quota(),
            clock=self._clock,
            policy=policy,
            on_wait=on_wait,
            max_wait_s=max_wait_s,
        )

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        clock: Clock | None = None,
        quota: Quota | None = None,
        paging: Paging | None = None,
        retry_policy: RetryPolicy | None = None,
        on_wait: Callable[[str], None] = _ignore_wait,
        max_wait_s: float = math.inf,
    ) -> Self:
        """A client with the token, organization and filters of the settings.

        Raises:
            ConfigError: The token or the organization is not set.
        """
        organization, token = settings.require_buildkite()
        return cls(
            organization,
            token,
            api_url=settings.buildkite_api_url,
            network=Network.of(settings.environment),
            clock=clock,
            quota=quota,
            paging=paging,
            retry_policy=retry_policy,
            pipelines=PipelineFilter(settings.pipelines),
            branches=BranchFilter(settings.branches),
            on_wait=on_wait,
            max_wait_s=max_wait_s,
        )

    def iter_builds(
        self, window: Window, *, finished_from: datetime | None = None, jobs: bool = True
    ) -> Iterator[Page]:
        """The builds created in `window`, each once, in pages of at most 100.

        Newest first; if pipelines are listed separately, one pipeline after the other. Pages
        are requested lazily and not kept. `jobs` includes every retried job.

        Args:
            window: Of `created_at`, half-open like the API's filters.
            finished_from: Only builds that finished at this time (aware UTC) or later.
            jobs: Whether builds include their jobs; responses are small and fast without.

        Raises:
            RetryableError: No response before the deadline.
            FatalError: Buildkite rejected a request; the message says what to do.
            ListingTooDeep: One second holds more builds than Buildkite lists.
        """
        names = self._pipelines_to_list(window, finished_from)
        if names is None:
            return
        # A pipeline that was renamed is found by its old slug and returned with its new one.
        page_filter = PageFilter(PipelineFilter() if names else self.pipelines, self.branches)
        for pipeline in names or (None,):
            subject = Subject(self.organization, pipeline)
            fullness = WHOLE if jobs else LEAN
            read = partial(self._raw_pages, subject, PageSize(), finished_from, fullness)
            yield from iter_pages(read, window, page_filter)

    def iter_finished(
        self, window: Window, *, finished_from: datetime, max_pages: int
    ) -> FinishedListing:
        """The builds created in `window` that finished recently, without jobs.

        Buildkite lists by creation, newest first, and has no "finished before" filter, so
        `max_pages` cuts off the oldest builds. A single named pipeline is listed by itself;
        otherwise the organization is listed and filtered here, so that the number of requests
        does not depend on the number of pipelines.

        Args:
            window: Of `created_at`; widened to whole seconds.
            finished_from: Aware UTC; rounded down to a whole second.
            max_pages: Maximum number of pages of 100 builds to read.

        Raises:
            RetryableError: No response before the deadline.
            FatalError: Buildkite rejected a request; the message says what to do.
        """
        raw_pages, page_filter = self._recent({**LEAN, **finished_params(window, finished_from)})
        return collect_finished(raw_pages, page_filter, max_pages=max_pages)

    def active_builds(
        self, states: Sequence[str], *, before: datetime, max_pages: int, until_s: float
    ) -> list[ActiveBuild] | None:
        """The builds that are in one of `states`, with the names of their pipelines; or None.

        None if they do not fit on `max_pages` pages of 100 builds, or are not read in time: a
        part of them would be a wrong number. Filters as `iter_finished` does.

        Args:
            states: Values of Buildkite's filter `state[]`.
            before: Only builds created before this time (aware UTC), widened to whole seconds.
            max_pages: Maximum number of pages to read.
            until_s: Time of the monotonic clock after which no other page is requested.

        Raises:
            RetryableError: No response before the deadline.
            FatalError: Buildkite rejected a request; the message says what to do.
        """
        raw_pages, page_filter = self._recent(
            {
                "exclude_jobs": "true",
                "state[]": list(states),
                "created_to": wire_time(before.replace(microsecond=0) + timedelta(seconds=1)),
            }
        )
        found: list[ActiveBuild] = []
        for number, raw_page in enumerate(raw_pages, start=1):
            found += map(read_active, page_filter.sort(raw_page.elements)[0].builds)
            if not raw_page.more:
                break
            if number == max_pages or self._clock.monotonic() >= until_s:
                return None
        return found

    def _recent(self, params: Params) -> tuple[Iterator[RawPage], PageFilter]:
        """List without splitting in time: the pages, and what filters their builds."""
        names = self.pipelines.names
        single = len(names) == 1
        subject = Subject(self.organization, names[0] if single else None)
        params = {"per_page": PER_PAGE, **params, **self.branches.params}
        raw_pages = iter_raw_pages(
            self._api, _path(subject), params=params, subject=subject, paging=self._paging
        )
        return raw_pages, PageFilter(PipelineFilter() if single else self.pipelines, self.branches)

    def build(self, pipeline: str, number: int) -> BuildRecord:
        """The current state of one build, including its retried jobs.

        Raises:
            NotFound: The build does not exist, or the token may not see it.
            RecordError: The build's JSON cannot be used.
        """
        subject = Subject(self.organization, pipeline, number=number)
        payload = self._api.get(
            f"{_path(subject)}/{number}",
            lambda response: read_payload(response, self._session.quote),
            params={"include_retried_jobs": "true"},
            subject=subject,
        )
        return read_build(payload)

    def sample(
        self,
        window: Window,
        *,
        pipeline: str | None = None,
        count: int = 100,
        jobs: bool = False,
        finished_from: datetime | None = None,
    ) -> Sample:
        """The newest builds created in `window`, and the number of pages of that size.

        Lists the organization or one pipeline, without the filter on pipelines. Costs one
        request, or two if the first page does not show whether there is another.

        Args:
            window: Of `created_at`.
            pipeline: A slug; None: the whole organization.
            count: Maximum number of builds, up to 100.
            jobs: Whether builds include their jobs; then only finished builds are listed.
            finished_from: Only builds that finished at this time (aware UTC) or later.
        """
        subject = Subject(self.organization, pipeline)
        params: dict[str, str | Sequence[str]] = {
            "per_page": str(count),
            **_window_params(window, finished_from),
            **self.branches.params,
        }
        params |= {"include_retried_jobs": "true", "state": "finished"} if jobs else LEAN
        found = self._sample_page(subject, params, count)
        if found.pages is None and not self._paging.links:
            following = self._sample_page(subject, {**params, "page": "2"}, count)
            known = {build.id for build in found.builds}
            if known.issuperset(build.id for build in following.builds):
                return msgspec.structs.replace(found, pages=1)
        return found

    def _sample_page(self, subject: Subject, params: Params, count: int) -> Sample:
        read = partial(read_sample, quote=self._session.quote, paging=self._paging, per_page=count)
        return self._api.get(_path(subject), read, params=params, subject=subject)

    @property
    def clock_skew(self) -> timedelta:
        """Upper bound of how far this host's clock is ahead of Buildkite's.

        Zero if it is not ahead, or unknown. Derived from the `Date` headers so far; includes
        the responses' time in transit.
        """
        return self._api.clock_skew

    @property
    def usage(self) -> Usage:
        """Requests and waiting time of this client so far."""
        return self._api.usage_clock.usage

    def access_token(self) -> AccessToken:
        """The token's scopes, expiry and owner. Needs no scope.

        Raises:
            TokenRefused: Buildkite does not know the token.
        """
        return self._api.get(
            "/v2/access-token",
            lambda response: read_object(response, AccessToken, self._session.quote),
            subject=Subject(self.organization, scope=None),
        )

    def organization_visible(self) -> bool:
        """Whether the token can list the organization's builds; False if it cannot see it.

        Raises:
            TokenRefused: Buildkite does not know the token.
            AccessDenied: The organization exists, but the token lacks the scope.
        """
        subject = Subject(self.organization)
        try:
            self._api.get(
                _path(subject),
                lambda response: read_elements(response, self._session.quote),
                params={"per_page": "1", **LEAN},
                subject=subject,
            )
        except NotFound:
            return False
        return True

    def organization_details(self) -> Organization:
        """The organization's id and name. Needs the scope `read_organizations`.

        Raises:
            AccessDenied: The token lacks the scope.
        """
        subject = Subject(self.organization, scope=ORGANIZATION_SCOPE, what="id and name")
        payload = self._api.within(NAMES_DEADLINE_S).get(
            _organization_path(subject),
            lambda response: read_payload(response, self._session.quote),
            subject=subject,
        )
        return read_organization(payload, self.organization)

    def clusters(self) -> list[Cluster]:
        """The organization's clusters. Needs the scope `read_clusters`.

        Raises:
            AccessDenied: The token lacks the scope.
        """
        subject = Subject(self.organization, scope=CLUSTERS_SCOPE, what="clusters")
        raw_pages = iter_raw_pages(
            self._api.within(NAMES_DEADLINE_S),
            f"{_organization_path(subject)}/clusters",
            params={"per_page": PER_PAGE},
            subject=subject,
            # Saves the request that would find out whether a gateway shortens pages.
            paging=Paging(links=True),
        )
        found = (
            read_cluster(one)
            for page in islice(raw_pages, MAX_CLUSTER_PAGES)
            for one in page.elements
        )
        return [cluster for cluster in found if cluster is not None]

    def details(
        self, quota: Quota, *, budget: ByteBudget | None = None, max_wait_s: float = math.inf
    ) -> DetailsClient:
        """A client for logs, artifacts and test results, over this client's connections.

        Args:
            quota: Of the same token, in the background, so that it leaves room to extraction.
            budget: The bytes that may be read; None: any number.
            max_wait_s: Longest wait for the quota, in seconds; a longer one is a QuotaSpent.
        """
        return DetailsClient(
            self._api.with_quota(quota, max_wait_s=max_wait_s),
            self.organization,
            network=self._network,
            timeouts=self._timeouts,
            clock=self._clock,
            paging=self._paging,
            budget=budget,
        )

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"BuildkiteClient({self.organization!r}, {self._session.origin!r})"

    def _pipelines_to_list(
        self, window: Window, finished_from: datetime | None
    ) -> tuple[str, ...] | None:
        """The pipelines to list separately; empty to list the organization.

        None if the window holds no builds of the pipelines. If there are many names, the
        organization's first page, without jobs, shows which way needs fewer requests.
        """
        names = self.pipelines.plain
        few = MAX_NAMED_PIPELINES if finished_from is None else MAX_NAMED_PIPELINES_FINISHED
        if len(names) <= few:
            return names
        sample = self.sample(window, finished_from=finished_from)
        if sample.pages == 1 and not any(one.pipeline in self.pipelines for one in sample.builds):
            return None
        return () if sample.pages is not None and sample.pages <= len(names) else names

    def _raw_pages(
        self,
        subject: Subject,
        size: PageSize,
        finished_from: datetime | None,
        fullness: Mapping[str, str],
        window: Window,
    ) -> Iterator[RawPage]:
        """The raw pages of a window's listing, with a page size adapted to the builds' size."""
        params: Params = {
            "per_page": str(size.builds),
            **fullness,
            **_window_params(window, finished_from),
            **self.branches.params,
        }
        raw_pages = iter_raw_pages(
            self._api,
            _path(subject),
            params=params,
            subject=subject,
            paging=self._paging,
            max_bytes=size.max_bytes,
        )
        try:
            for raw_page in raw_pages:
                size.learn(raw_page.elements)
                yield raw_page
        except AnswerTooLarge:
            size.shrink()
            raise


def _window_params(window: Window, finished_from: datetime | None) -> dict[str, str]:
    params = {"created_from": wire_time(window.start), "created_to": wire_time(window.end)}
    if finished_from is not None:
        params["finished_from"] = wire_time(finished_from)
    return params


def _path(subject: Subject) -> str:
    pipeline = f"/pipelines/{quote(subject.pipeline, safe='')}" if subject.pipeline else ""
    return f"{_organization_path(subject)}{pipeline}/builds"


def _organization_path(subject: Subject) -> str:
    return f"/v2/organizations/{quote(subject.organization, safe='')}"
