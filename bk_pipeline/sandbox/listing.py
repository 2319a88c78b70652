"""Which builds a listing asks for, and whether a build is among them at a given moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import URL, QueryParams

from bk_pipeline.sandbox.as_of import build_as_of, meta_data_as_of
from bk_pipeline.sandbox.bodies import Refusal
from bk_pipeline.sandbox.timeline import Build
from bk_pipeline.sandbox.times import parse_time

STATES = frozenset(
    [
        "creating",
        "scheduled",
        "running",
        "passed",
        "failing",
        "failed",
        "blocked",
        "canceling",
        "canceled",
        "skipped",
        "not_run",
    ]
)
# What the filter `state=finished` is short for: neither skipped nor not_run.
FINISHED = frozenset({"passed", "failed", "blocked", "canceled"})


@dataclass(frozen=True, slots=True)
class Listing:
    """The filters of one listing. None or empty: no such filter. Times in milliseconds.

    Args:
        created_from: Created then or later.
        created_to: Created before then.
        finished_from: Finished then or later, as the build stands now.
        branches: Each may hold `*` for any run of characters.
    """

    slug: str | None = None
    created_from: int | None = None
    created_to: int | None = None
    finished_from: int | None = None
    states: frozenset[str] = frozenset()
    branches: tuple[re.Pattern[str], ...] = ()
    commits: frozenset[str] = frozenset()
    creator: str | None = None
    meta_data: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """How much of each build a listing shows."""

    retried_jobs: bool = False
    jobs: bool = True
    pipeline: bool = True


class Recorded(msgspec.Struct):
    """A build that was handed in as the API's object. It looks the same at every moment."""

    created: int
    finished: int | None
    slug: str
    number: int
    payload: dict[str, Any]

    @classmethod
    def of(cls, payload: dict[str, Any]) -> Recorded:
        """The record of an API build object.

        Raises:
            ValueError: It has no pipeline, number or readable `created_at`.
        """
        try:
            slug, number = payload["pipeline"]["slug"], int(payload["number"])
            created, finished = parse_time(payload["created_at"]), payload.get("finished_at")
            finished = parse_time(finished) if finished else None
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(
                f"Not a build object: {exc!r}. It needs pipeline.slug, number and created_at."
            ) from exc
        return cls(created, finished, slug, number, payload)


Entry = Build | Recorded


def slug_and_number(entry: Entry) -> tuple[str, int]:
    if isinstance(entry, Build):
        return entry.ref.slug, entry.ref.number
    return entry.slug, entry.number


def is_listed(entry: Entry, listing: Listing, moment: int) -> bool:
    """Whether `entry` passes all filters but those on its creation time."""
    if listing.slug is not None and slug_and_number(entry)[0] != listing.slug:
        return False
    if listing.finished_from is not None and _was_over_before(entry, listing.finished_from):
        return False
    standing = _standing(entry, moment)
    if standing is None:
        return False
    state, blocked, finished = standing
    if listing.states and not (
        state in listing.states or (blocked and "blocked" in listing.states)
    ):
        return False
    if listing.finished_from is not None and (finished is None or finished < listing.finished_from):
        return False
    return _has_origin(entry, listing) and _has_meta_data(entry, listing, moment)


def payload_of(entry: Entry, view: View, moment: int) -> dict[str, Any] | None:
    """The API's object for `entry`; None if it does not exist yet at `moment`."""
    if isinstance(entry, Build):
        return build_as_of(
            entry, moment, retried_jobs=view.retried_jobs, jobs=view.jobs, pipeline=view.pipeline
        )
    payload = dict(entry.payload)
    if not view.pipeline:
        payload.pop("pipeline", None)
    if not view.jobs:
        payload.pop("jobs", None)
    elif not view.retried_jobs:
        payload["jobs"] = [job for job in payload.get("jobs", ()) if not job.get("retried")]
    return payload


def _was_over_before(entry: Entry, moment: int) -> bool:
    """Whether nothing at all happened to the build from `moment` on. Cheap: most are old."""
    return isinstance(entry, Build) and entry.phases[-1].at < moment


def _standing(entry: Entry, moment: int) -> tuple[str, bool, int | None] | None:
    """State, whether it waits at a block step, and when it finished (last); None: not yet there."""
    if isinstance(entry, Build):
        phase = entry.phase_at(moment)
        return None if phase is None else (phase.state, phase.blocked, phase.finished)
    payload = entry.payload
    return str(payload.get("state")), bool(payload.get("blocked")), entry.finished


def _has_origin(entry: Entry, listing: Listing) -> bool:
    if not (listing.branches or listing.commits or listing.creator):
        return True
    branch, commit, creator = _origin(entry)
    if listing.branches and not any(pattern.fullmatch(branch) for pattern in listing.branches):
        return False
    if listing.commits and commit not in listing.commits:
        return False
    return listing.creator is None or creator == listing.creator


def _origin(entry: Entry) -> tuple[str, str | None, str | None]:
    """Branch, commit, and the id of whoever started the build."""
    if isinstance(entry, Build):
        creator = entry.change.creator
        return entry.change.branch, entry.change.commit, creator.id if creator else None
    payload = entry.payload
    return (
        payload.get("branch") or "",
        payload.get("commit"),
        (payload.get("creator") or {}).get("id"),
    )


def _has_meta_data(entry: Entry, listing: Listing, moment: int) -> bool:
    if not listing.meta_data:
        return True
    if isinstance(entry, Build):
        meta_data = meta_data_as_of(entry, moment)
    else:
        meta_data = entry.payload.get("meta_data") or {}
    return all(meta_data.get(key) == value for key, value in listing.meta_data)


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
        return parse_time(text)
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
