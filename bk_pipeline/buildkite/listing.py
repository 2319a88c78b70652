"""All builds of a window, each once, whatever happens to the listing while it is read.

Newest first, as the API lists. From page to page we go by time: the next question is for
what was created before the end of the oldest listed second. Page numbers count from the
listing's head, so a build that leaves it (it went on running, it was deleted) would pull an
unread one onto a page that has been read; and deep pages are refused. Only within one
second, where time leads no further, the `Link` header does. Where that ends in "too deep",
or the order is not as documented, the window is halved, later half first. A build that is
listed twice is dropped by its id.
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
from bk_pipeline.buildkite.paging import Sheet
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

# In the message of a second that holds too many builds.
PIPELINES_SHOWN = 5
OF_DEPTH = re.compile(r"\b(this|too) deep\b|\bdepth\b", re.IGNORECASE)


def wire_time(moment: datetime) -> str:
    """ISO 8601 in UTC, as the API's filters read it; exact, so that windows stay half-open.

    Whole seconds are sent without a fraction, others with all six digits: rounding would
    move a window's edge, and a build at the edge into two windows or none.
    """
    whole = moment.microsecond == 0
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ" if whole else "%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Sieve:
    """Sorts a page's elements: new and wanted, known, unwanted, unusable.

    Attributes:
        wanted: The pipelines to keep, by slug.
        branches: The branches to keep.
        seen: When the builds were created that may be listed again, by id.
        unusable: Digests of what has been set aside.
    """

    wanted: Container[str]
    branches: Container[str | None] = field(default_factory=Globs)
    seen: dict[str, int] = field(default_factory=dict)
    unusable: set[bytes] = field(default_factory=set)

    def sort(self, elements: list[bytes]) -> tuple[Page, list[BuildRecord]]:
        """The page to hand out, and all its readable builds, known and unwanted ones too."""
        listed: list[BuildRecord] = []
        new: list[BuildRecord] = []
        set_aside: list[RecordError] = []
        for element in elements:
            try:
                build = read_build(element)
            except RecordError as error:
                digest = hashlib.sha256(element).digest()
                if digest not in self.unusable:
                    self.unusable.add(digest)
                    set_aside.append(error)
            else:
                listed.append(build)
                if build.id not in self.seen:
                    self.seen[build.id] = build.created_ns
                    new.append(build)
        kept = [one for one in new if one.pipeline in self.wanted and one.branch in self.branches]
        return Page(kept, set_aside), listed

    def forget_from(self, moment: datetime) -> None:
        """Nothing that was created at `moment` or later is listed again."""
        before = to_ns(moment)
        self.seen = {key: created for key, created in self.seen.items() if created < before}


@dataclass
class Reach:
    """How far down one listing has come, and whose builds it consists of."""

    pages: int = 0
    oldest_ns: int | None = None
    in_order: bool = True
    pipelines: Counter[str] = field(default_factory=Counter)

    def add(self, listed: list[BuildRecord]) -> None:
        self.pages += 1
        for build in listed:
            self.pipelines[build.pipeline] += 1
            if self.oldest_ns is not None and build.created_ns > self.oldest_ns:
                self.in_order = False
            else:
                self.oldest_ns = build.created_ns

    def rest(self, window: Window) -> Window | None:
        """The part of `window` that is still to be listed; None if time leads no further.

        It begins with the second of the oldest build: others of it may be missing.
        """
        if self.oldest_ns is None or not self.in_order:
            return None
        end = from_ns(self.oldest_ns).replace(microsecond=0) + timedelta(seconds=1)
        return Window(window.start, end) if window.start < end < window.end else None

    def halves(self, window: Window) -> tuple[Window, Window]:
        """Both halves of `window`, which is listed no further, earlier first.

        Raises:
            ListingTooDeep: It cannot be cut; the message names the pipelines that fill it.
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
    read: Callable[[Window], Iterator[Sheet]], window: Window, sieve: Sieve
) -> Iterator[Page]:
    """The pages of `window`, without those on which nothing is new.

    Args:
        read: The pages of a window's listing, newest first; each is asked for when wanted. If
            it raises AnswerTooLarge, it will ask for smaller pages the next time.
        window: Half-open, by `created_at`.
        sieve: Knows what was seen before and what is wanted.

    Raises:
        ListingTooDeep: One second holds more builds than Buildkite lists.
        RequestRefused: Any other 400.
    """
    waiting = [window]
    while waiting:
        part = waiting.pop()
        sieve.forget_from(part.end)
        reach = Reach()
        with telemetry.leaf_span("list window", _told(part)) as span:
            try:
                for sheet in read(part):
                    page, listed = sieve.sort(sheet.elements)
                    reach.add(listed)
                    if page.builds or page.set_aside:
                        yield page
                    rest = reach.rest(part) if sheet.more else None
                    if rest is not None:
                        waiting.append(rest)
                        break
            except AnswerTooLarge:
                waiting.append(part)
            except RequestRefused as refused:
                if not too_deep(refused, pages=reach.pages):
                    raise
                waiting += reach.halves(part)
            span.set_attributes({"bk_pipeline.pages": reach.pages})


def _told(window: Window) -> dict[str, telemetry.Value]:
    edges = {"created_from": window.start, "created_to": window.end}
    return {f"bk_pipeline.{name}": wire_time(edge) for name, edge in edges.items()}


def too_deep(refused: RequestRefused, *, pages: int) -> bool:
    """Whether a listing was refused for its depth, after `pages` of it were answered.

    The same question without a page was good, so a 400 can only be about the page; on the
    first page the words must say so.

    Source: the API's answer "Listing builds this deep is not supported. ..."; how deep that
    is stands nowhere.
    """
    return refused.status == BAD_REQUEST and (pages > 0 or bool(OF_DEPTH.search(refused.detail)))


def finished_params(window: Window, finished_from: datetime) -> dict[str, str]:
    """The query for builds created in `window` that finished at `finished_from` or later.

    Widened to whole seconds. Bounded by `created_to`, so that builds created while one
    reads do not shift the pages.
    """
    before = window.end.replace(microsecond=0)
    if before < window.end:
        before += timedelta(seconds=1)
    return {
        "finished_from": wire_time(finished_from.replace(microsecond=0)),
        "created_from": wire_time(window.start.replace(microsecond=0)),
        "created_to": wire_time(before),
    }


def gather(sheets: Iterator[Sheet], sieve: Sieve, *, max_pages: int) -> FinishedListing:
    """The wanted builds of the first `max_pages` (at least 1) pages; no further one is asked for.

    Builds that are not finished are left out: they went on since they were listed. Cut off
    by depth is cut off, too.
    """
    builds: list[FinishedBuild] = []
    set_aside: list[str] = []
    created: list[int] = []
    read = 0
    cut_off = False
    try:
        for sheet in islice(sheets, max_pages):
            read += 1
            # Whether a page follows that may follow is known once it is asked for.
            cut_off = sheet.more and read == max_pages
            page, listed = sieve.sort(sheet.elements)
            created += [build.created_ns for build in listed]
            set_aside += map(str, page.set_aside)
            builds += [small for build in page.builds if (small := _finished(build)) is not None]
    except RequestRefused as refused:
        if not too_deep(refused, pages=read):
            raise
        cut_off = True
    return FinishedListing(builds, set_aside, cut_off, oldest_ns=min(created, default=None))


def _finished(build: BuildRecord) -> FinishedBuild | None:
    if build.finished_ns is None:
        return None
    return FinishedBuild(
        build.id, build.number, build.pipeline, build.state, build.created_ns, build.finished_ns
    )


WILDCARDS = frozenset("*?[")
# So many pipelines are asked for one by one without asking first whether that is cheaper.
MOST_NAMES = 10
# More would make too long a URL.
MOST_BRANCHES = 20


class PipelineChoice(Globs):
    """Globs over pipelines' slugs."""

    @property
    def plain(self) -> tuple[str, ...]:
        """The pipelines, if `globs` are plain names; otherwise none."""
        named = not self._excluded and not any(WILDCARDS & set(name) for name in self._included)
        return self._included if named else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The same, if they are at most `MOST_NAMES`: few enough to be asked for one by one."""
        return self.plain if len(self.plain) <= MOST_NAMES else ()


class BranchChoice(Globs):
    """Globs over branches."""

    @property
    def params(self) -> Mapping[str, Sequence[str]]:
        """What has Buildkite leave out builds that nobody wants, as far as it can.

        Source: Buildkite REST API, "List all builds": `branch[]`, of which each may hold `*`.
        """
        told = len(self._included) <= MOST_BRANCHES and all(
            not (WILDCARDS - {"*"}) & set(glob) for glob in self._included
        )
        return {"branch[]": self._included} if self._included and told else {}
