"""The query parameters of the listing endpoints.

What the real service answers to malformed values is not documented; here it
is a 422 that names the parameter. Unknown parameters are ignored.
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

from starlette.datastructures import URL, QueryParams

from bk_pipeline.sandbox.listing import FINISHED, STATES, Listing, View
from bk_pipeline.sandbox.moments import parse
from bk_pipeline.sandbox.replies import Refusal

_DEFAULT_PER_PAGE = 30
_MAX_PER_PAGE = 100
_META_DATA = re.compile(r"meta_data\[(.+)\]")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def listing_of(params: QueryParams, slug: str | None) -> Listing:
    """The filters in `params`, for one pipeline or (`slug` None) for all.

    Raises:
        Refusal: A value cannot be understood.
    """
    return Listing(
        slug=slug,
        created_from=_time(params, "created_from"),
        created_to=_time(params, "created_to"),
        finished_from=_time(params, "finished_from"),
        states=_states(params),
        branches=tuple(_pattern(branch) for branch in _several(params, "branch")),
        commits=frozenset(_several(params, "commit")),
        creator=params.get("creator"),
        meta_data=tuple(
            (match[1], value)
            for key, value in params.multi_items()
            if (match := _META_DATA.fullmatch(key))
        ),
    )


def view_of(params: QueryParams) -> View:
    return View(
        retried_jobs=_flag(params, "include_retried_jobs"),
        jobs=not _flag(params, "exclude_jobs"),
        pipeline=not _flag(params, "exclude_pipeline"),
    )


def page_of(params: QueryParams) -> tuple[int, int]:
    """Page number from 1, and builds a page. More than 100 a page is taken as 100 (a guess)."""
    page = _positive(params, "page", 1)
    return page, min(_positive(params, "per_page", _DEFAULT_PER_PAGE), _MAX_PER_PAGE)


def link_header(url: URL, params: QueryParams, page: int, last: int | None, *, more: bool) -> str:
    """The `Link` header's value (RFC 8288); every URL carries all the request's parameters.

    Args:
        url: The request's own.
        params: The request's own.
        page: The page being answered.
        last: The last page's number, or None if the listing is deeper than anyone counted.
        more: Whether a next page has anything on it.
    """
    pages = {}
    if more:
        pages["next"] = page + 1
        if last is not None:
            pages["last"] = last
    if page > 1:
        pages |= {"prev": page - 1, "first": 1}
    others = [(key, value) for key, value in params.multi_items() if key != "page"]
    return ", ".join(
        f'<{url.replace(query=urlencode([*others, ("page", number)]))}>; rel="{relation}"'
        for relation, number in pages.items()
    )


def _several(params: QueryParams, name: str) -> list[str]:
    return [*params.getlist(name), *params.getlist(f"{name}[]")]


def _states(params: QueryParams) -> frozenset[str]:
    states: set[str] = set()
    for state in _several(params, "state"):
        if state == "finished":
            states |= FINISHED
        elif state in STATES:
            states.add(state)
        else:
            raise Refusal(422, f"state: {state!r} is not a build state")
    return frozenset(states)


def _pattern(branch: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in branch.split("*")), re.DOTALL)


def _time(params: QueryParams, name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as exc:
        raise Refusal(422, f"{name}: {text!r} is not an ISO 8601 time") from exc


def _flag(params: QueryParams, name: str) -> bool:
    text = params.get(name)
    if text is None:
        return False
    if text not in _FLAGS:
        raise Refusal(422, f"{name}: {text!r} is not true or false")
    return _FLAGS[text]


def _positive(params: QueryParams, name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise Refusal(422, f"{name}: {text!r} is not a positive number")
    return int(text)
