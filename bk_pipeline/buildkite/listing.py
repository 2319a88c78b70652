"""All builds of a window, each once, however deep Buildkite is willing to list.

Newest first, as the API lists. Where it says "too deep", what has been read reaches from
the window's end down to the oldest build seen; so the same question is asked again for
what lies below, and only if nothing was gained is the window halved, later half first.
Pages that have been handed out are not handed out again; a build that turns up twice,
since builds shift between pages while one reads, is dropped by its id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bk_pipeline.buildkite.paging import Sheet
from bk_pipeline.buildkite.records import BuildRecord, Page, read_build
from bk_pipeline.errors import RecordError, RequestRefused
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.window import Window, halve

BAD_REQUEST = 400
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
        seen: Ids of builds, and digests of what has none, over the whole listing.
    """

    wanted: Container[str]
    seen: set[str | bytes] = field(default_factory=set)

    def sort(self, elements: list[bytes]) -> tuple[Page, list[BuildRecord]]:
        """The page to hand out, and all its readable builds, known and unwanted ones too."""
        listed: list[BuildRecord] = []
        new: list[BuildRecord] = []
        set_aside: list[str] = []
        for element in elements:
            try:
                build = read_build(element)
            except RecordError as error:
                if self._is_new(hashlib.sha256(element).digest()):
                    set_aside.append(str(error))
            else:
                listed.append(build)
                if self._is_new(build.id):
                    new.append(build)
        return Page([build for build in new if build.pipeline in self.wanted], set_aside), listed

    def _is_new(self, key: str | bytes) -> bool:
        known = key in self.seen
        self.seen.add(key)
        return not known


@dataclass
class Reach:
    """How far down one listing has come."""

    pages: int = 0
    oldest_ns: int | None = None
    in_order: bool = True

    def add(self, listed: list[BuildRecord]) -> None:
        self.pages += 1
        for build in listed:
            if self.oldest_ns is not None and build.created_ns > self.oldest_ns:
                self.in_order = False
            else:
                self.oldest_ns = build.created_ns

    def below(self, window: Window) -> list[Window]:
        """The windows still to be listed, the one to begin with last.

        Raises:
            ListingTooDeep: Nothing was gained, and `window` cannot be cut.
        """
        if self.oldest_ns is not None and self.in_order:
            # The second of the oldest build is read again: others of it may be missing.
            end = from_ns(self.oldest_ns).replace(microsecond=0) + timedelta(seconds=1)
            if window.start < end < window.end:
                return [Window(window.start, end)]
        return list(halve(window))


def iter_pages(
    read: Callable[[Window], Iterator[Sheet]], window: Window, sieve: Sieve
) -> Iterator[Page]:
    """The pages of `window`, without those on which nothing is new.

    Args:
        read: The pages of a window's listing, newest first.
        window: Half-open, by `created_at`.
        sieve: Knows what was seen before and what is wanted.

    Raises:
        ListingTooDeep: One second holds more builds than Buildkite lists.
        RequestRefused: Any other 400.
    """
    waiting = [window]
    while waiting:
        part = waiting.pop()
        reach = Reach()
        try:
            for sheet in read(part):
                page, listed = sieve.sort(sheet.elements)
                reach.add(listed)
                if page.builds or page.set_aside:
                    yield page
        except RequestRefused as refused:
            if not too_deep(refused, pages=reach.pages):
                raise
            waiting += reach.below(part)


def too_deep(refused: RequestRefused, *, pages: int) -> bool:
    """Whether a listing was refused for its depth, after `pages` of it were answered.

    The same question without a page was good, so a 400 can only be about the page; on the
    first page the words must say so.

    Source: the API's answer "Listing builds this deep is not supported. ..."; how deep that
    is stands nowhere.
    """
    return refused.status == BAD_REQUEST and (pages > 0 or bool(OF_DEPTH.search(refused.said)))
