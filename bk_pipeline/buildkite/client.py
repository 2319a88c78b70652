"""What the program asks of Buildkite. Every method may wait; none prints, logs or stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Self
from urllib.parse import quote

import msgspec

from bk_pipeline.buildkite.answers import Subject, read_elements, read_object, read_payload
from bk_pipeline.buildkite.api import Api, Usage
from bk_pipeline.buildkite.listing import (
    MOST_NAMES,
    BranchChoice,
    PipelineChoice,
    Sieve,
    finished_params,
    gather,
    iter_pages,
    wire_time,
)
from bk_pipeline.buildkite.paging import LEAN, PageSize, Paging, Sheet, iter_sheets
from bk_pipeline.buildkite.quota import Quota
from bk_pipeline.buildkite.records import (
    AccessToken,
    BuildRecord,
    FinishedListing,
    Page,
    Sample,
    read_build,
    sample_in,
)
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.errors import AnswerTooLarge, NotFound
from bk_pipeline.http.network import Network
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.http.session import HttpSession, Params, Timeouts
from bk_pipeline.settings import Settings
from bk_pipeline.window import Window

API_URL = "https://api.buildkite.com"
PER_PAGE = "100"
# Of what has finished lately the organization's first page is mostly all: beyond so many
# pipelines that is asked for first.
FEW_NAMES = 2
WHOLE = {"include_retried_jobs": "true"}


def _unheard(_: str) -> None:
    """Nobody wants to know of waits."""


class BuildkiteClient:
    """One organization's builds. For several threads at once: they share connections and quota.

    Args:
        organization: Its slug.
        token: An API access token with the scope `read_builds`.
        api_url: Where the REST API answers.
        clock: Tells time and waits.
        network: Proxies and CA bundle; by default those that are exported.
        session: Instead of one made for `token`; must carry the token itself. Closed by
            `close`.
        quota: To be shared with other clients of the same token.
        paging: What is known of the service's paging, to be shared with other clients of it.
        retry_policy: How long to go on after failures.
        choice: The pipelines wanted.
        branches: The branches wanted.
        on_wait: Told of each wait, before it: why, and until when.
        patience_s: How long an answer may take, and a wait for the quota; for those who
            would rather ask another time.
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
        choice: PipelineChoice | None = None,
        branches: BranchChoice | None = None,
        on_wait: Callable[[str], None] = _unheard,
        patience_s: float = math.inf,
    ) -> None:
        self.organization = organization
        self.choice = choice or PipelineChoice()
        self.branches = branches or BranchChoice()
        self._clock = clock or SystemClock()
        policy = retry_policy or RetryPolicy()
        self._session = session or HttpSession(
            # Some copy the documentation's base URL, which ends in the version.
            api_url.rstrip("/").removesuffix("/v2"),
            setting="BUILDKITE_API_URL",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeouts=Timeouts.for_deadline(policy.deadline_s).within(patience_s),
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
            patience_s=patience_s,
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
        on_wait: Callable[[str], None] = _unheard,
        patience_s: float = math.inf,
    ) -> Self:
        """The client that the environment describes.

        Raises:
            ConfigError: Token or organization are not set.
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
            choice=PipelineChoice(settings.pipelines),
            branches=BranchChoice(settings.branches),
            on_wait=on_wait,
            patience_s=patience_s,
        )

    def iter_builds(
        self, window: Window, *, finished_from: datetime | None = None, jobs: bool = True
    ) -> Iterator[Page]:
        """The builds created in `window`, each once, on pages of at most 100.

        Newest first within a pipeline; pipelines that are named one by one follow each
        other. Asks while it is read, and keeps no page. Every retried job is in `jobs`.

        Args:
            window: By `created_at`, half-open as the API's filters are.
            finished_from: Only builds that finished at this moment (aware, UTC) or later.
            jobs: Whether they come with their jobs; without, answers are small and quick.

        Raises:
            RetryableError: Buildkite did not answer until the deadline.
            FatalError: It refuses; the message says what to do.
            ListingTooDeep: One second holds more builds than Buildkite lists.
        """
        names = self._names_to_ask(window, finished_from)
        if names is None:
            return
        # What is asked for by name is wanted, whatever slug it answers with: it may be renamed.
        sieve = Sieve(PipelineChoice() if names else self.choice, self.branches)
        for pipeline in names or (None,):
            subject = Subject(self.organization, pipeline)
            fullness = WHOLE if jobs else LEAN
            read = partial(self._sheets, subject, PageSize(), finished_from, fullness)
            yield from iter_pages(read, window, sieve)

    def iter_finished(
        self, window: Window, *, finished_from: datetime, max_pages: int
    ) -> FinishedListing:
        """The builds created in `window` that have finished since, without jobs; cheap to ask.

        Buildkite lists by creation, newest first, and has no "finished before": what
        `max_pages` cuts off are the builds created longest ago. With one pipeline named,
        only that one is asked for; otherwise one listing of the organization is sifted here,
        so that a question costs one request however many pipelines are chosen.

        Args:
            window: By `created_at`; widened to whole seconds.
            finished_from: Aware, UTC. Asked for from the beginning of its second.
            max_pages: Pages of 100 builds to read at most.

        Raises:
            RetryableError: Buildkite did not answer until the deadline.
            FatalError: It refuses; the message says what to do.
        """
        names = self.choice.names
        single = len(names) == 1
        subject = Subject(self.organization, names[0] if single else None)
        params: Params = {
            "per_page": PER_PAGE,
            **LEAN,
            **finished_params(window, finished_from),
            **self.branches.params,
        }
        sheets = iter_sheets(
            self._api, _path(subject), params=params, subject=subject, paging=self._paging
        )
        sieve = Sieve(PipelineChoice() if single else self.choice, self.branches)
        return gather(sheets, sieve, max_pages=max_pages)

    def build(self, pipeline: str, number: int) -> BuildRecord:
        """One build as it is now, retried jobs and all.

        Raises:
            NotFound: There is none, or the token may not see it.
            RecordError: It cannot be used.
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
        """The newest builds created in `window`, and how many pages of so many there are.

        One request, of the organization or of one pipeline; whatever pipelines are chosen. A
        second one where it is not clear that there is no further page.

        Args:
            window: By `created_at`.
            pipeline: A slug.
            count: Builds at most, up to 100.
            jobs: Whether they come with their jobs, and then only those that have finished.
            finished_from: Only those that finished at this moment (aware, UTC) or later.
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
        read = partial(sample_in, quote=self._session.quote, paging=self._paging, asked=count)
        return self._api.get(_path(subject), read, params=params, subject=subject)

    @property
    def ahead(self) -> timedelta:
        """By how much our clock is ahead of Buildkite's, at most; 0 if it is not, or unknown.

        Known from the `Date` of the answers so far; their time under way is in it.
        """
        return self._api.ahead

    @property
    def usage(self) -> Usage:
        """What this client's questions have cost so far."""
        return self._api.tally.usage

    def access_token(self) -> AccessToken:
        """What the token may do; needs no scope.

        Raises:
            TokenRefused: Buildkite does not know it.
        """
        return self._api.get(
            "/v2/access-token",
            lambda response: read_object(response, AccessToken, self._session.quote),
            subject=Subject(self.organization, scope=None),
        )

    def organization_visible(self) -> bool:
        """Whether the token may list the organization's builds; False if it cannot see it.

        Raises:
            TokenRefused: Buildkite does not know the token.
            AccessDenied: The organization is there, and the scope is missing.
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

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"BuildkiteClient({self.organization!r}, {self._session.origin!r})"

    def _names_to_ask(
        self, window: Window, finished_from: datetime | None
    ) -> tuple[str, ...] | None:
        """The pipelines to ask for one by one; none to ask for the organization.

        None if nothing is there to be asked for. Where it is not clear what needs fewer
        requests, the organization's first page tells, without jobs: how many pages it has.
        """
        names = self.choice.plain
        few = MOST_NAMES if finished_from is None else FEW_NAMES
        if len(names) <= few:
            return names
        sample = self.sample(window, finished_from=finished_from)
        if sample.pages == 1 and not any(one.pipeline in self.choice for one in sample.builds):
            return None
        return () if sample.pages is not None and sample.pages <= len(names) else names

    def _sheets(
        self,
        subject: Subject,
        size: PageSize,
        finished_from: datetime | None,
        fullness: Mapping[str, str],
        window: Window,
    ) -> Iterator[Sheet]:
        """The pages of a window's listing, of a size that follows what builds take."""
        params: Params = {
            "per_page": str(size.builds),
            **fullness,
            **_window_params(window, finished_from),
            **self.branches.params,
        }
        sheets = iter_sheets(
            self._api,
            _path(subject),
            params=params,
            subject=subject,
            paging=self._paging,
            max_bytes=size.max_bytes,
        )
        try:
            for sheet in sheets:
                size.learn(sheet.elements)
                yield sheet
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
    return f"/v2/organizations/{quote(subject.organization, safe='')}{pipeline}/builds"
