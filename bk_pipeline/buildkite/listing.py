"""List all builds of a window, each once, even if the listing changes while it is read.

The API lists newest first. Paging goes by time: after each page, the next request is for
builds created before the end of the oldest listed second. Page numbers are not safe, because
they count from the newest build: one that leaves the listing (resumed or deleted) moves an
unread build onto a page that was already read. The API also refuses deep pages. Within one
second, where time cannot narrow the listing, the `Link` header is followed. If that is refused
as too deep, or the order is not as documented, the window is halved, and the later half is
read first. A build that is listed twice is dropped by its id.

`PipelineFilter` and `BranchFilter`, at the end, select builds by globs.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from bk_pipeline import telemetry
from bk_pipeline.buildkite.paging import RawPage
from bk_pipeline.buildkite.records import (
    BuildRecord,
    FinishedBuild,
    FinishedListing,
    Page,
    read_build,
)
from bk_pipeline.errors import AnswerTooLarge, ListingTooDeep, RecordError, RequestRefused
from bk_pipeline.http.session import BAD_REQUEST
from bk_pipeline.spans.timing import from_ns, to_ns
from bk_pipeline.text import Globs
from bk_pipeline.window import Window, halve

# Number of pipelines named in the message about a second with too many builds.
PIPELINES_SHOWN = 5
OF_DEPTH = re.compile(r"\b(this|too) deep\b|\bdepth\b", re.IGNORECASE)


def wire_time(moment: datetime) -> str:
    """A UTC datetime in ISO 8601, as the API's filters expect it.

    Whole seconds have no fraction, others all six digits. Rounding would move the window's
    edge, and put a build at the edge into two windows or none.
    """
    whole = moment.microsecond == 0
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ" if whole else "%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class PageFilter:
    """Selects the new builds of a page that match the filters, and the unusable ones.

    Attributes:
        pipelines: The pipelines to keep, by slug.
        branches: The branches to keep.
        seen: Creation times of the builds that may be listed again, by id.
        unusable: Digests of the unusable builds so far.
    """

    pipelines: Container[str]
    branches: Container[str | None] = field(default_factory=Globs)
    seen: dict[str, int] = field(default_factory=dict)
    unusable: set[bytes] = field(default_factory=set)

    def sort(self, elements: list[bytes]) -> tuple[Page, list[BuildRecord]]:
        """The page to return, and all its usable builds, including seen and filtered ones."""
        listed: list[BuildRecord] = []
        new: list[BuildRecord] = []
        quarantined: list[RecordError] = []
        for element in elements:
            try:
                build = read_build(element)
            except RecordError as error:
                digest = hashlib.sha256(element).digest()
                if digest not in self.unusable:
                    self.unusable.add(digest)
                    quarantined.append(error)
            else:
                listed.append(build)
                if build.id not in self.seen:
                    self.seen[build.id] = build.created_ns
                    new.append(build)
        kept = [
            one for one in new if one.pipeline in self.pipelines and one.branch in self.branches
        ]
        return Page(kept, quarantined), listed

    def forget_from(self, moment: datetime) -> None:
        """Forget builds created at `moment` or later: they will not be listed again."""
        before = to_ns(moment)
        self.seen = {key: created for key, created in self.seen.items() if created < before}


@dataclass
class ListingProgress:
    """How far one listing has been read, and the pipelines of its builds."""

    pages: int = 0
    oldest_ns: int | None = None
    in_order: bool = True
    pipelines: Counter[str] = field(default_factory=Counter)

    def add(self, listed: list[BuildRecord]) -> None:
        """Record a page of builds."""
        self.pages += 1
        for build in listed:
            self.pipelines[build.pipeline] += 1
            if self.oldest_ns is not None and build.created_ns > self.oldest_ns:
                self.in_order = False
            else:
                self.oldest_ns = build.created_ns

    def rest(self, window: Window) -> Window | None:
        """The part of `window` still to be listed; None if time cannot narrow it.

        It includes the second of the oldest build, because others of that second may be missing.
        """
        if self.oldest_ns is None or not self.in_order:
            return None
        end = from_ns(self.oldest_ns).replace(microsecond=0) + timedelta(seconds=1)
        return Window(window.start, end) if window.start < end < window.end else None

    def halves(self, window: Window) -> tuple[Window, Window]:
        """Both halves of `window`, earlier first, for a listing that cannot continue.

        Raises:
            ListingTooDeep: The window cannot be halved; the message names the pipelines with
                the most builds in it.
        """
        try:
            return halve(window)
        except ListingTooDeep as exc:
            if not self.pipelines:
                raise
            most = self.pipelines.most_common(PIPELINES_SHOWN)
            shown = ", ".join(f"{slug} ({count:,})" for slug, count in most)
            raise ListingTooDeep(f"{exc} Most of them are of: {shown}.") from None


def iter_pages(
    read: Callable[[Window], Iterator[RawPage]], window: Window, page_filter: PageFilter
) -> Iterator[Page]:
    """The pages of `window`, without those that hold nothing new.

    Args:
        read: Returns the raw pages of a window's listing, newest first, requested lazily. After
            it raised AnswerTooLarge, its next call uses smaller pages.
        window: Of `created_at`, half-open.
        page_filter: Selects the builds; keeps the ids seen so far.

    Raises:
        ListingTooDeep: One second holds more builds than Buildkite lists.
        RequestRefused: Any other 400.
    """
    waiting = [window]
    while waiting:
        part = waiting.pop()
        page_filter.forget_from(part.end)
        progress = ListingProgress()
        with telemetry.leaf_span("list window", _window_attributes(part)) as span:
            try:
                for raw_page in read(part):
                    page, listed = page_filter.sort(raw_page.elements)
                    progress.add(listed)
                    if page.builds or page.quarantined:
                        yield page
                    rest = progress.rest(part) if raw_page.more else None
                    if rest is not None:
                        waiting.append(rest)
                        break
            except AnswerTooLarge:
                waiting.append(part)
            except RequestRefused as refused:
                if not too_deep(refused, pages=progress.pages):
                    raise
                waiting += progress.halves(part)
            span.set_attributes({"bk_pipeline.pages": progress.pages})


def _window_attributes(window: Window) -> dict[str, telemetry.Value]:
    edges = {"created_from": window.start, "created_to": window.end}
    return {f"bk_pipeline.{name}": wire_time(edge) for name, edge in edges.items()}


def too_deep(refused: RequestRefused, *, pages: int) -> bool:
    """Whether a listing was refused for its depth, after `pages` pages were read.

    The same query was accepted for earlier pages, so a later 400 can only be about the page.
    On the first page the message must say so.

    Source: the API's message "Listing builds this deep is not supported. ..."; the limit is
    not documented.
    """
    return refused.status == BAD_REQUEST and (pages > 0 or bool(OF_DEPTH.search(refused.detail)))


def finished_params(window: Window, finished_from: datetime) -> dict[str, str]:
    """Query parameters for builds created in `window` that finished at `finished_from` or later.

    Widened to whole seconds. `created_to` keeps builds created meanwhile from shifting pages.
    """
    before = window.end.replace(microsecond=0)
    if before < window.end:
        before += timedelta(seconds=1)
    return {
        "finished_from": wire_time(finished_from.replace(microsecond=0)),
        "created_from": wire_time(window.start.replace(microsecond=0)),
        "created_to": wire_time(before),
    }


def collect_finished(
    raw_pages: Iterator[RawPage], page_filter: PageFilter, *, max_pages: int
) -> FinishedListing:
    """The matching builds of the first `max_pages` (at least 1) pages; no more are requested.

    Builds that are no longer finished are left out. A listing refused for its depth counts as
    cut off.
    """
    builds: list[FinishedBuild] = []
    quarantined: list[str] = []
    created: list[int] = []
    read = 0
    cut_off = False
    try:
        for raw_page in islice(raw_pages, max_pages):
            read += 1
            # Before the last page, requesting the next one shows whether it exists.
            cut_off = raw_page.more and read == max_pages
            page, listed = page_filter.sort(raw_page.elements)
            created += [build.created_ns for build in listed]
            quarantined += map(str, page.quarantined)
            builds += [small for build in page.builds if (small := _finished(build)) is not None]
    except RequestRefused as refused:
        if not too_deep(refused, pages=read):
            raise
        cut_off = True
    return FinishedListing(builds, quarantined, cut_off, oldest_ns=min(created, default=None))


def _finished(build: BuildRecord) -> FinishedBuild | None:
    if build.finished_ns is None:
        return None
    return FinishedBuild(
        build.id, build.number, build.pipeline, build.state, build.created_ns, build.finished_ns
    )


WILDCARDS = frozenset("*?[")
# Up to this number of named pipelines is listed separately, without checking the cost first.
MAX_NAMED_PIPELINES = 10
# More would make the URL too long.
MAX_BRANCH_FILTERS = 20


class PipelineFilter(Globs):
    """Globs that select pipelines by slug."""

    @property
    def plain(self) -> tuple[str, ...]:
        """The slugs, if all globs are plain names; otherwise empty."""
        named = not self._excluded and not any(WILDCARDS & set(name) for name in self._included)
        return self._included if named else ()

    @property
    def names(self) -> tuple[str, ...]:
        """`plain`, if it has at most `MAX_NAMED_PIPELINES` slugs; otherwise empty."""
        return self.plain if len(self.plain) <= MAX_NAMED_PIPELINES else ()


class BranchFilter(Globs):
    """Globs that select builds by branch."""

    @property
    def params(self) -> Mapping[str, Sequence[str]]:
        """Query parameters that make Buildkite filter by branch, if it supports the globs.

        Source: Buildkite REST API, "List all builds": `branch[]`, whose values may contain `*`.
        """
        supported = len(self._included) <= MAX_BRANCH_FILTERS and all(
            not (WILDCARDS - {"*"}) & set(glob) for glob in self._included
        )
        return {"branch[]": self._included} if self._included and supported else {}
