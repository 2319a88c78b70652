"""From page to page of one listing, whether or not its `Link` headers can be relied on.

A gateway may remove the header, leave Buildkite's own address in it, or return fewer builds
than were asked for. So the header only helps. A link that cannot be followed is replaced by
the page's number, and a listing ends where a page brings nothing new.

Buildkite sends no `Link` with a listing of one page, so a short page without it is either the
whole listing or a page that a gateway has capped and stripped of the header. Until a header
has come from the service, `iter_sheets` makes one more request to find out. `Paging` remembers
what the answers have shown; the clients of a process share it.

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

from requests.utils import parse_header_links

from bk_pipeline.buildkite.answers import Subject, read_elements
from bk_pipeline.buildkite.api import Api
from bk_pipeline.errors import ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.http.session import Params, Response

_FIRST_ID = re.compile(rb'"id"\s*:\s*"([^"]+)"')
MOST = 100
# Without jobs and pipelines an answer is small and quick.
LEAN = {"exclude_jobs": "true", "exclude_pipeline": "true"}


class Sheet(NamedTuple):
    """One page's elements, each as it was sent, and whether a further page may follow."""

    elements: list[bytes]
    more: bool


@dataclass(slots=True)
class Paging:
    """What a service's answers have shown of its paging.

    Attributes:
        links: A `Link` header has come, so it is not stripped on the way.
        cap: The size of the smallest page that was shorter than asked and not the last.
    """

    links: bool = False
    cap: int = MOST

    def more(self, response: Response, count: int, asked: int) -> bool | None:
        """Whether another page follows this one, of `count` builds of the `asked` ones.

        None if only a further request can tell: the page is short, it has no `Link`, and no
        answer of the service had one yet. A full page without `Link` may have a successor.
        """
        header = "Link" in response.headers
        self.links |= header
        if next_link(response) is not None:
            self.learn_cap(count, asked)
            return True
        if header or not count:
            return False
        if count >= min(asked, self.cap):
            return True
        return False if self.links else None

    def learn_cap(self, count: int, asked: int) -> None:
        """Take in that a page of `count` builds, of the `asked` ones, was not the last."""
        if 0 < count < asked:
            self.cap = min(self.cap, count)


class _Got(NamedTuple):
    elements: list[bytes]
    link: str | None
    more: bool | None
    linked: bool


def iter_sheets(
    api: Api,
    path: str,
    *,
    params: Params,
    subject: Subject,
    paging: Paging,
    max_bytes: int | None = None,
) -> Iterator[Sheet]:
    """The pages of one listing. Each is asked for when it is wanted, not before.

    Args:
        api: Asks.
        path: Of the listing.
        params: With `per_page`.
        subject: What is listed, for messages.
        paging: What is known of the service; learns from each page.
        max_bytes: How large a page may be.

    Raises:
        AnswerTooLarge: A page is larger than `max_bytes`.
        RequestRefused: At a later page too: the listing is deeper than the API lists.
        UnexpectedAnswer: A page is no array; or there must be more, and no way leads there.
    """
    listing = _Listing(api, path, params, subject=subject, paging=paging, max_bytes=max_bytes)
    page: _Got | None = listing.first()
    while page is not None:
        more = page.more is not False
        yield Sheet(page.elements, more)
        page = listing.after(page) if more else None


class _Listing:
    """The pages that one listing has come by, and the builds that were on them."""

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
        self._subject, self._paging, self._most_bytes = subject, paging, max_bytes
        self._asked = int(str(params["per_page"]))
        self._number = 1
        self._been: set[str] = set()
        self._seen: set[bytes] = set()
        self._doubtful: bytes | None = None

    def first(self) -> _Got:
        page = self._get(self._path, self._params)
        self._brings_new(page)
        return page if page.more is not None else page._replace(more=not self._is_last(page))

    def _is_last(self, page: _Got) -> bool:
        """Whether nothing follows the first page, which is short and has no `Link`.

        Costs one small request: for page 2 in pages that are one build shorter. It begins with
        the last build of `page` and holds what follows it; and since there is a page before
        it, it has a `Link` header unless that is stripped. If it does not begin with that
        build, page numbers are ignored, and the rest has to be looked for by time.
        """
        count, last = len(page.elements), _key(page.elements[-1])
        size = max(count - 1, 1)
        params = {**self._params, **LEAN, "per_page": str(size), "page": "2"}
        found = set(map(_key, self._get(self._path, params, asked=size).elements))
        if found <= self._seen and (last in found or not found):
            return True
        self._paging.learn_cap(count, self._asked)
        return False

    def after(self, page: _Got) -> _Got | None:
        """The page after `page`; None if there is none that brings anything new.

        By its link, where that can be followed and leads on, else by its number.
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
                f"{self._path}: page {self._number} holds the same builds as those before it, and "
                "no Link header leads on. Set BUILDKITE_API_URL to an address that passes "
                "Buildkite's Link header and page parameter on."
            )
        return None

    def _get(self, path_or_url: str, params: Params | None, asked: int | None = None) -> _Got:
        return self._api.get(
            path_or_url,
            partial(self._read, asked=asked or self._asked),
            params=params,
            subject=self._subject,
            max_bytes=self._most_bytes,
        )

    def _read(self, response: Response, asked: int) -> _Got:
        split = read_elements(response, self._api.session.quote)
        if not split.sure:
            self._confirm(response)
        more = self._paging.more(response, len(split.elements), asked)
        link = next_link(response)
        self._been.add(response.url)
        usable = (
            link is not None and self._api.session.is_same_origin(link) and link not in self._been
        )
        return _Got(split.elements, link if usable else None, more, linked=link is not None)

    def _confirm(self, response: Response) -> None:
        """Have a page asked for again whose end may be missing; what comes twice was meant so."""
        digest = sha256(response.body).digest()
        if digest != self._doubtful:
            self._doubtful = digest
            raise ServiceUnavailable(
                f"{response.request}: the last build of the answer is broken, perhaps on its way."
            )

    def _brings_new(self, page: _Got) -> bool:
        found = set(map(_key, page.elements)) - self._seen
        self._seen |= found
        return bool(found)


def _key(element: bytes) -> bytes:
    """What an element is known by: its first id, which is the build's; else all of it."""
    found = _FIRST_ID.search(element, 0, 200)
    return found[1] if found else sha256(element).digest()


def next_link(response: Response) -> str | None:
    """The URL with `rel="next"`, made whole; None if there is none."""
    return _link(response, "next")


def page_count(response: Response) -> int | None:
    """How many pages the listing has whose first page this is; None if that is not said."""
    try:
        (number,) = parse_qs(urlsplit(_link(response, "last") or "").query).get("page", ["0"])
        return int(number) if int(number) > 1 else None
    except ValueError:
        return None


def _link(response: Response, relation: str) -> str | None:
    for link in parse_header_links(response.headers.get("Link", "")):
        if relation in link.get("rel", "").lower().split() and link["url"]:
            try:
                return urljoin(response.url, link["url"])
            except ValueError:
                return link["url"]  # malformed, and so refused by whoever would follow it
    return None


MIB = 1024 * 1024
MOST_BUILDS = 100
# What a page should come to, and where it is broken off, decompressed.
WANTED_BYTES = 12 * MIB
MOST_BYTES = 48 * MIB
GROWTH = 2
SHRINKAGE = 4


class PageSize:
    """The size of one listing's pages; each question asks for `builds` of them."""

    def __init__(self) -> None:
        self.builds = MOST_BUILDS

    @property
    def max_bytes(self) -> int | None:
        """Where to break off an answer to the next question.

        None: only where every answer is. A single build cannot be asked for in smaller pages.
        """
        return MOST_BYTES if self.builds > 1 else None

    def learn(self, elements: list[bytes]) -> None:
        """Take in a page that came."""
        if elements:
            mean = sum(map(len, elements)) / len(elements)
            fitting = int(WANTED_BYTES / max(mean, 1))
            self.builds = max(1, min(fitting, self.builds * GROWTH, MOST_BUILDS))

    def shrink(self) -> None:
        """An answer was broken off: ask for fewer from now on."""
        self.builds = max(1, self.builds // SHRINKAGE)
