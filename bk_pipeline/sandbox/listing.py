"""Listings of builds: their parameters, which builds match at a given time, and their links.

`parse_filters`, `parse_view` and `parse_page` read a request's parameters;
`matches` and `payload_of` apply them to one build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import URL, QueryParams

from bk_pipeline.sandbox.as_of import build_as_of, meta_data_as_of
from bk_pipeline.sandbox.bodies import ApiError
from bk_pipeline.sandbox.timeline import Build
from bk_pipeline.sandbox.times import parse_time

_DEFAULT_PER_PAGE = 30
_MAX_PER_PAGE = 100
_META_DATA = re.compile(r"meta_data\[(.+)\]")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


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
# The states that the filter `state=finished` stands for: neither skipped nor not_run.
FINISHED = frozenset({"passed", "failed", "blocked", "canceled"})


@dataclass(frozen=True, slots=True)
class ListingFilters:
    """The filters of one listing; None or empty means no filter.

    Args:
        slug: Only builds of this pipeline.
        created_from: Only builds created at this time or later, in milliseconds.
        created_to: Only builds created before this time, in milliseconds.
        finished_from: Only builds that last finished at this time or later, in milliseconds.
        states: Only builds in one of these states.
        branches: Only builds of branches that match one of these patterns.
        commits: Only builds of these commits.
        creator: Only builds that the person with this id started.
        meta_data: Only builds with all these keys and values.
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
    """Which parts of each build a listing shows."""

    retried_jobs: bool = False
    jobs: bool = True
    pipeline: bool = True


class RecordedBuild(msgspec.Struct):
    """A build that was added as an API build object. It looks the same at all times.

    `created_ms` and `finished_ms` are its times in milliseconds.
    """

    created_ms: int
    finished_ms: int | None
    slug: str
    number: int
    payload: dict[str, Any]

    @classmethod
    def of(cls, payload: dict[str, Any]) -> RecordedBuild:
        """The record for an API build object.

        Raises:
            ValueError: It has no pipeline, number or readable `created_at`.
        """
        try:
            slug, number = payload["pipeline"]["slug"], int(payload["number"])
            created_ms, finished_ms = parse_time(payload["created_at"]), payload.get("finished_at")
            finished_ms = parse_time(finished_ms) if finished_ms else None
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(
                f"Not a build object: {exc!r}. It needs pipeline.slug, number and created_at."
            ) from exc
        return cls(created_ms, finished_ms, slug, number, payload)


Entry = Build | RecordedBuild


def parse_filters(params: QueryParams, slug: str | None) -> ListingFilters:
    """The filters in a request's parameters.

    Args:
        params: The query parameters.
        slug: The pipeline in the path; None for all pipelines.

    Raises:
        ApiError: A value is malformed.
    """
    return ListingFilters(
        slug=slug,
        created_from=_time_param(params, "created_from"),
        created_to=_time_param(params, "created_to"),
        finished_from=_time_param(params, "finished_from"),
        states=_states(params),
        branches=tuple(_branch_pattern(branch) for branch in _values(params, "branch")),
        commits=frozenset(_values(params, "commit")),
        creator=params.get("creator"),
        meta_data=tuple(
            (match[1], value)
            for key, value in params.multi_items()
            if (match := _META_DATA.fullmatch(key))
        ),
    )


def parse_view(params: QueryParams) -> View:
    """The parts of builds that a request asks for.

    Raises:
        ApiError: A value is neither true nor false.
    """
    return View(
        retried_jobs=_bool_param(params, "include_retried_jobs"),
        jobs=not _bool_param(params, "exclude_jobs"),
        pipeline=not _bool_param(params, "exclude_pipeline"),
    )


def parse_page(params: QueryParams) -> tuple[int, int]:
    """The page number, starting at 1, and the page size. Sizes above 100 become 100 (a guess).

    Raises:
        ApiError: A value is not a positive number.
    """
    page = _positive_int_param(params, "page", 1)
    return page, min(_positive_int_param(params, "per_page", _DEFAULT_PER_PAGE), _MAX_PER_PAGE)


def link_header(url: URL, params: QueryParams, page: int, last: int | None, *, more: bool) -> str:
    """The value of the `Link` header (RFC 8288). Every URL has all parameters of the request.

    Args:
        url: The URL of the request.
        params: The query parameters of the request.
        page: The number of the current page.
        last: The number of the last page, or None if the listing exceeds the depth limit.
        more: Whether the next page has any builds.
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


def slug_and_number(entry: Entry) -> tuple[str, int]:
    """The pipeline slug and the number of a build."""
    if isinstance(entry, Build):
        return entry.ref.slug, entry.ref.number
    return entry.slug, entry.number


def matches(entry: Entry, filters: ListingFilters, at_ms: int) -> bool:
    """Whether a build passes the filters at a given time, apart from those on its creation time."""
    if filters.slug is not None and slug_and_number(entry)[0] != filters.slug:
        return False
    if filters.finished_from is not None and _ended_before(entry, filters.finished_from):
        return False
    current = _state_at(entry, at_ms)
    if current is None:
        return False
    state, blocked, finished_ms = current
    if filters.states and not (
        state in filters.states or (blocked and "blocked" in filters.states)
    ):
        return False
    if filters.finished_from is not None and (
        finished_ms is None or finished_ms < filters.finished_from
    ):
        return False
    return _matches_origin(entry, filters) and _matches_meta_data(entry, filters, at_ms)


def payload_of(entry: Entry, view: View, at_ms: int) -> dict[str, Any] | None:
    """The API's object for a build at a given time, or None if it does not exist yet."""
    if isinstance(entry, Build):
        return build_as_of(
            entry, at_ms, retried_jobs=view.retried_jobs, jobs=view.jobs, pipeline=view.pipeline
        )
    payload = dict(entry.payload)
    if not view.pipeline:
        payload.pop("pipeline", None)
    if not view.jobs:
        payload.pop("jobs", None)
    elif not view.retried_jobs:
        payload["jobs"] = [job for job in payload.get("jobs", ()) if not job.get("retried")]
    return payload


def _ended_before(entry: Entry, at_ms: int) -> bool:
    """Whether the build did not change at `at_ms` or later.

    This cheap check comes first because most builds are old.
    """
    return isinstance(entry, Build) and entry.phases[-1].at_ms < at_ms


def _state_at(entry: Entry, at_ms: int) -> tuple[str, bool, int | None] | None:
    """State, whether the build is blocked, and when it finished; None if it does not exist yet."""
    if isinstance(entry, Build):
        phase = entry.phase_at(at_ms)
        return None if phase is None else (phase.state, phase.blocked, phase.finished_ms)
    payload = entry.payload
    return str(payload.get("state")), bool(payload.get("blocked")), entry.finished_ms


def _matches_origin(entry: Entry, filters: ListingFilters) -> bool:
    if not (filters.branches or filters.commits or filters.creator):
        return True
    branch, commit, creator = _origin(entry)
    if filters.branches and not any(pattern.fullmatch(branch) for pattern in filters.branches):
        return False
    if filters.commits and commit not in filters.commits:
        return False
    return filters.creator is None or creator == filters.creator


def _origin(entry: Entry) -> tuple[str, str | None, str | None]:
    """Branch, commit, and the id of the person who started the build."""
    if isinstance(entry, Build):
        creator = entry.change.creator
        return entry.change.branch, entry.change.commit, creator.id if creator else None
    payload = entry.payload
    return (
        payload.get("branch") or "",
        payload.get("commit"),
        (payload.get("creator") or {}).get("id"),
    )


def _matches_meta_data(entry: Entry, filters: ListingFilters, at_ms: int) -> bool:
    if not filters.meta_data:
        return True
    if isinstance(entry, Build):
        meta_data = meta_data_as_of(entry, at_ms)
    else:
        meta_data = entry.payload.get("meta_data") or {}
    return all(meta_data.get(key) == value for key, value in filters.meta_data)


def _values(params: QueryParams, name: str) -> list[str]:
    return [*params.getlist(name), *params.getlist(f"{name}[]")]


def _states(params: QueryParams) -> frozenset[str]:
    states: set[str] = set()
    for state in _values(params, "state"):
        if state == "finished":
            states |= FINISHED
        elif state in STATES:
            states.add(state)
        else:
            raise ApiError(422, f"state: {state!r} is not a build state")
    return frozenset(states)


def _branch_pattern(branch: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in branch.split("*")), re.DOTALL)


def _time_param(params: QueryParams, name: str) -> int | None:
    text = params.get(name)
    if text is None:
        return None
    try:
        return parse_time(text)
    except ValueError as exc:
        raise ApiError(422, f"{name}: {text!r} is not an ISO 8601 time") from exc


def _bool_param(params: QueryParams, name: str) -> bool:
    text = params.get(name)
    if text is None:
        return False
    if text not in _FLAGS:
        raise ApiError(422, f"{name}: {text!r} is not true or false")
    return _FLAGS[text]


def _positive_int_param(params: QueryParams, name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise ApiError(422, f"{name}: {text!r} is not a positive number")
    return int(text)
