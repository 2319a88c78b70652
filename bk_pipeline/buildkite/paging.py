"""From page to page of a listing, by the `Link` header alone; pages are never counted.

Source: RFC 8288 for the header; Buildkite REST API, "Pagination".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, urljoin, urlsplit

from requests.utils import parse_header_links

from bk_pipeline.buildkite.answers import Subject, read_elements
from bk_pipeline.buildkite.api import Api
from bk_pipeline.errors import UnexpectedAnswer
from bk_pipeline.http.session import HttpSession, Params, Response


class Sheet(NamedTuple):
    """One page's elements, each as it was sent, and whether a further page follows."""

    elements: list[bytes]
    more: bool


def iter_sheets(
    api: Api,
    path: str,
    *,
    params: Params,
    subject: Subject,
    most_bytes: int | None = None,
) -> Iterator[Sheet]:
    """The pages of one listing. Each is asked for when it is wanted, not before.

    Raises:
        AnswerTooLarge: A page is larger than `most_bytes`.
        RequestRefused: At a later page too: the listing is deeper than the API lists.
        UnexpectedAnswer: A page is no array, or its link leads away or back.
    """
    trail = Trail(api.session)

    def read(response: Response) -> tuple[list[bytes], str | None]:
        return read_elements(response, api.session.quote), trail.onward(response)

    elements, link = api.get(path, read, params=params, subject=subject, most_bytes=most_bytes)
    yield Sheet(elements, more=link is not None)
    while link is not None:
        elements, link = api.get(link, read, subject=subject, most_bytes=most_bytes)
        yield Sheet(elements, more=link is not None)


class Trail:
    """The pages that one listing has come by."""

    def __init__(self, session: HttpSession) -> None:
        self._session = session
        self._been: set[str] = set()

    def onward(self, response: Response) -> str | None:
        """The next page's URL; None after the last page.

        Raises:
            UnexpectedAnswer: It is of another origin, or a page that was there before.
        """
        self._been.add(response.url)
        link = next_link(response)
        if link is None:
            return None
        if not self._session.owns(link):
            raise UnexpectedAnswer(
                f"{response.request}: the link to the next page leads away from "
                f"{self._session.origin}, and the token must not go there. Set "
                f"{self._session.setting} to the address that Buildkite itself uses in its links."
            )
        if link in self._been:
            raise UnexpectedAnswer(
                f"{response.request}: after {len(self._been)} pages the link to the next one "
                "leads back to an earlier one. Nothing is wrong on this side; try again later."
            )
        return link


def next_link(response: Response) -> str | None:
    """The URL with `rel="next"`, made whole; None if there is none."""
    return _link(response, "next")


def page_count(response: Response) -> int | None:
    """How many pages the listing has whose first page this is; None if that is not said."""
    if _link(response, "next") is None:
        return 1
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
