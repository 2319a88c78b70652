"""Read the pages of one listing, even if its `Link` headers are not reliable.

A gateway may remove the header, leave Buildkite's own address in it, or return fewer builds
than requested. So the header is only a hint. If a link cannot be followed, the page number is
used instead, and a listing ends at a page without new builds.

Buildkite sends no `Link` with a listing of one page, so a short page without links is either the
whole listing or a page that a gateway has capped and stripped of them. Until the service has sent
a link to a next or previous page, `iter_raw_pages` makes one more request to find out. `Paging`
keeps what the responses have shown, and is shared by the clients of a process.

`PageSize` adapts the number of builds per page to their size.

Source: RFC 8288 for the header; Buildkite REST API, "Pagination".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import parse_qs, urljoin, urlsplit

from bk_pipeline.buildkite.answers import Subject, read_elements
from bk_pipeline.buildkite.api import Api
from bk_pipeline.errors import ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.http.session import Params, Response

_FIRST_ID = re.compile(rb'"id"\s*:\s*"([^"]+)"')
MAX_PER_PAGE = 100
# Without jobs and pipelines, responses are small and fast.
LEAN = {"exclude_jobs": "true", "exclude_pipeline": "true"}


class RawPage(NamedTuple):
    """The unparsed elements of one page, and whether another page may follow."""

    elements: list[bytes]
    more: bool


@dataclass(slots=True)
class Paging:
    """What a service's responses have shown about its paging.

    Attributes:
        links: Whether a response had a link to the next or previous page, so that no gateway
            strips them.
        cap: Size of the smallest page that was shorter than requested and not the last.
    """

    links: bool = False
    cap: int = MAX_PER_PAGE

    def more(self, response: Response, count: int, per_page: int) -> bool | None:
        """Whether another page may follow this one.

        Args:
            response: The page.
            count: Number of builds on it.
            per_page: Number of builds requested.

        Returns:
            None if only another request can tell: the page is short and has no link, and no
            response of the service had one yet. True for a full page without a link.
        """
        following, last = next_link(response), _is_last_by_link(response)
        self.links |= following is not None or last
        if following is not None:
            self.learn_cap(count, per_page)
            return True
        if last or not count:
            return False
        if count >= min(per_page, self.cap):
            return True
        return False if self.links else None

    def learn_cap(self, count: int, per_page: int) -> None:
        """Record that a page with `count` of the `per_page` requested builds was not the last."""
        if 0 < count < per_page:
            self.cap = min(self.cap, count)


class _FetchedPage(NamedTuple):
    elements: list[bytes]
    link: str | None
    more: bool | None
    linked: bool


def iter_raw_pages(
    api: Api,
    path: str,
    *,
    params: Params,
    subject: Subject,
    paging: Paging,
    max_bytes: int | None = None,
) -> Iterator[RawPage]:
    """The pages of one listing, requested lazily.

    Args:
        api: Makes the requests.
        path: Path of the listing.
        params: Query parameters, including `per_page`.
        subject: What is listed, for messages.
        paging: What is known about the service; updated with each page.
        max_bytes: Limit of a page's decompressed size.

    Raises:
        AnswerTooLarge: A page exceeds `max_bytes`.
        RequestRefused: Also on a later page: the listing is deeper than the API supports.
        UnexpectedAnswer: A page is not an array, or the next page cannot be reached.
    """
    listing = _Listing(api, path, params, subject=subject, paging=paging, max_bytes=max_bytes)
    page: _FetchedPage | None = listing.first()
    while page is not None:
        more = page.more is not False
        yield RawPage(page.elements, more)
        page = listing.after(page) if more else None


class _Listing:
    """State of one listing: the URLs visited and the builds seen."""

    def __init__(
        self,
        api: Api,
        path: str,
        params: Params,
        *,
        subject: Subject,
        paging: Paging,
        max_bytes: int | None,
    ) -> None:
        self._api, self._path, self._params = api, path, params
        self._subject, self._paging, self._max_bytes = subject, paging, max_bytes
        self._per_page = int(str(params["per_page"]))
        self._number = 1
        self._visited: set[str] = set()
        self._seen: set[bytes] = set()
        self._doubtful: bytes | None = None

    def first(self) -> _FetchedPage:
        page = self._get(self._path, self._params)
        self._brings_new(page)
        return page if page.more is not None else page._replace(more=not self._is_last(page))

    def _is_last(self, page: _FetchedPage) -> bool:
        """Whether the first page, which is short and has no `Link`, is the whole listing.

        Costs one small request, for page 2 with a page size that is one build smaller. That
        page begins with the last build of `page` and holds what follows it. It is not the
        first page, so it has a `Link` header unless a gateway strips it. If it does not begin
        with that build, page numbers are ignored, and the rest has to be found by time. If
        `page` has one or two builds, such a page would have no room for a following build;
        then the request is for that build alone.
        """
        count, last = len(page.elements), _key(page.elements[-1])
        size, number = (count - 1, 2) if count > 2 else (1, count + 1)  # noqa: PLR2004  # see above
        params = {**self._params, **LEAN, "per_page": str(size), "page": str(number)}
        found = set(map(_key, self._get(self._path, params, per_page=size).elements))
        if found <= self._seen and (last in found or not found):
            return True
        self._paging.learn_cap(count, self._per_page)
        return False

    def after(self, page: _FetchedPage) -> _FetchedPage | None:
        """The page after `page`; None if no further page has new builds.

        Found by the page's link if it can be followed and has new builds, else by number.
        """
        self._number += 1
        if page.link is not None:
            found = self._get(page.link, None)
            if self._brings_new(found) or not found.elements:
                return found if found.elements else None
        found = self._get(self._path, {**self._params, "page": str(self._number)})
        if self._brings_new(found):
            return found
        if found.elements and found.more and not found.linked:
            raise UnexpectedAnswer(
                f"{self._path}: page {self._number} has the same builds as the pages before it, "
                "and no Link header. Set BUILDKITE_API_URL to an address that forwards "
                "Buildkite's Link header and page parameter."
            )
        return None

    def _get(
        self, path_or_url: str, params: Params | None, per_page: int | None = None
    ) -> _FetchedPage:
        return self._api.get(
            path_or_url,
            partial(self._read, per_page=per_page or self._per_page),
            params=params,
            subject=self._subject,
            max_bytes=self._max_bytes,
        )

    def _read(self, response: Response, per_page: int) -> _FetchedPage:
        split = read_elements(response, self._api.session.quote)
        if not split.certain:
            self._confirm(response)
        more = self._paging.more(response, len(split.elements), per_page)
        link = next_link(response)
        self._visited.add(response.url)
        usable = (
            link is not None
            and self._api.session.is_same_origin(link)
            and link not in self._visited
            and self._continues(link)
        )
        return _FetchedPage(split.elements, link if usable else None, more, linked=link is not None)

    def _continues(self, link: str) -> bool:
        """Whether `link` has all filters of the listing and the next page's number.

        A link to another path, or without a number, is a cursor, which need not have them.
        """
        parts = urlsplit(link)
        query, number = parse_qs(parts.query), [str(self._number + 1)]
        filters = {name: value for name, value in self._params.items() if name != "per_page"}
        return not parts.path.endswith(self._path) or (
            query.get("page", number) == number
            and all(
                query.get(name) == ([value] if isinstance(value, str) else list(value))
                for name, value in filters.items()
            )
        )

    def _confirm(self, response: Response) -> None:
        """Retry a page whose end may be missing once; accept it if the body is the same again."""
        digest = sha256(response.body).digest()
        if digest != self._doubtful:
            self._doubtful = digest
            raise ServiceUnavailable(
                f"{response.request}: the last build of the answer is broken, perhaps truncated."
            )

    def _brings_new(self, page: _FetchedPage) -> bool:
        found = set(map(_key, page.elements)) - self._seen
        self._seen |= found
        return bool(found)


def _key(element: bytes) -> bytes:
    """An element's key: its first id, which is the build's, else a digest of its bytes."""
    found = _FIRST_ID.search(element, 0, 200)
    return found[1] if found else sha256(element).digest()


def next_link(response: Response) -> str | None:
    """The absolute URL with `rel="next"`; None if there is none."""
    return _link(response, "next")


def _is_last_by_link(response: Response) -> bool:
    """Whether the page has only a link to the previous page, and is not the first one."""
    query = parse_qs(urlsplit(response.url).query)
    is_first = "per_page" in query and "page" not in query
    return not is_first and _link(response, "prev") is not None and next_link(response) is None


def page_count(response: Response) -> int | None:
    """The number of pages of a listing, from its first page's `Link`; None if unknown."""
    try:
        (number,) = parse_qs(urlsplit(_link(response, "last") or "").query).get("page", ["0"])
        return int(number) if int(number) > 1 else None
    except ValueError:
        return None


def _link(response: Response, relation: str) -> str | None:
    from requests.utils import parse_header_links  # noqa: PLC0415  # requests takes a while

    for link in parse_header_links(response.headers.get("Link", "")):
        names = {name.lower(): value for name, value in link.items()}
        if relation in names.get("rel", "").lower().split() and link["url"]:
            try:
                return urljoin(response.url, link["url"])
            except ValueError:
                return link["url"]  # malformed; never followed
    return None


MIB = 1024 * 1024
# Target size of a page and limit of a response, decompressed.
TARGET_PAGE_BYTES = 12 * MIB
MAX_PAGE_BYTES = 48 * MIB
GROWTH = 2
SHRINKAGE = 4


class PageSize:
    """The page size of one listing: `builds` is the number to request next."""

    def __init__(self) -> None:
        self.builds = MAX_PER_PAGE

    @property
    def max_bytes(self) -> int | None:
        """Limit of the next response; None for the general limit.

        A single build cannot be requested in smaller pages, so it gets the general limit.
        """
        return MAX_PAGE_BYTES if self.builds > 1 else None

    def learn(self, elements: list[bytes]) -> None:
        """Adapt the page size to the builds of a page."""
        if elements:
            mean = sum(map(len, elements)) / len(elements)
            fitting = int(TARGET_PAGE_BYTES / max(mean, 1))
            self.builds = max(1, min(fitting, self.builds * GROWTH, MAX_PER_PAGE))

    def shrink(self) -> None:
        """Reduce the page size after a response exceeded the limit."""
        self.builds = max(1, self.builds // SHRINKAGE)
