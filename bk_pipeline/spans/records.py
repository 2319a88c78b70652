"""Typed views of Buildkite's JSON: what we read of a build, its jobs and their neighbours.

Every field is optional but the ids: waiter jobs have nothing else, and old records lack
what newer ones have. Unknown fields are passed over, so new ones break nothing. `env` is
not declared, and so is never read: it can hold secrets. Objects of any shape become their
JSON text.

Source: Buildkite REST API, "Builds"; recorded answers from 2015 to 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.text import compact, mended


def shared(type_: Any, name: str, *, keep: int = 1024) -> Callable[[bytes], Any]:
    """What makes the object of a text, or finds the one that it made of the same text before.

    To be called in `__post_init__`: msgspec adds the path of the record to errors.

    Args:
        type_: The object's. Nobody may change it.
        name: Of the record's field, for errors.
        keep: How many texts are remembered: those used last.
    """
    decode = msgspec.json.Decoder(type_).decode

    @lru_cache(maxsize=keep)
    def found(text: bytes) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc).replace("`$", f"`{name}")) from exc
        except UnicodeDecodeError as exc:
            raise msgspec.DecodeError("not UTF-8") from exc

    return found


# States of builds that end without having begun: they get no `finished_at`.
NEVER_RUN = frozenset({"skipped", "not_run"})
# What a column of integers holds.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Record(msgspec.Struct, eq=False, gc=False):
    """Plain and mutable: decoded once, read many times. No record leads back to itself."""


class Person(_Record, omit_defaults=True):
    """Whoever made, wrote, retried or unblocked something; in old payloads a plain text."""

    id: str | None = None
    graphql_id: str | None = None
    name: str | None = None
    email: str | None = None


class Priority(_Record):
    number: Int64 | None = None


class StepRef(_Record):
    id: str | None = None
    key: str | None = None
    label: str | None = None


class RetrySource(_Record):
    job_id: str | None = None
    retry_type: str | None = None


class BuildRef(_Record):
    """Another build: the one this was rebuilt from, or the one that a job triggered."""

    id: str | None = None
    number: Int64 | None = None
    url: str | None = None
    web_url: str | None = None


class TriggeredFrom(_Record):
    build_id: str | None = None
    build_number: Int64 | None = None
    build_pipeline_slug: str | None = None


class PullRequest(_Record):
    id: str | Int64 | None = None
    base: str | None = None
    repository: str | None = None


class Agent(_Record):
    id: str | None = None
    graphql_id: str | None = None
    name: str | None = None
    hostname: str | None = None
    version: str | None = None
    web_url: str | None = None
    meta_data: tuple[str, ...] | None = None


class Provider(_Record):
    id: str | None = None


class Pipeline(_Record):
    id: str | None = None
    graphql_id: str | None = None
    slug: str | None = None
    name: str | None = None
    repository: str | None = None
    web_url: str | None = None
    cluster_id: str | None = None
    provider: Provider | None = None


# What many builds or jobs have alike is one object for all that have the same text, never to
# be changed. msgspec gives the text; `__post_init__` makes the object or finds it.
if TYPE_CHECKING:
    SharedPipeline = Pipeline | None
    SharedPerson = Person | None
    SharedAgent = Agent | None
    SharedPriority = Priority | None
    SharedRules = tuple[str, ...] | None
    NULL = None
else:
    SharedPipeline = SharedPerson = msgspec.Raw
    SharedAgent = SharedPriority = SharedRules = msgspec.Raw
    NULL = msgspec.Raw(b"null")


# A pipeline comes with its steps: tens of kilobytes, in large ones.
_pipeline = shared(Pipeline | None, "pipeline", keep=256)
_person = shared(Person | None, "creator")
_agent = shared(Agent | None, "agent")
_priority = shared(Priority | None, "priority")
_rules = shared(tuple[str, ...] | None, "agent_query_rules")


class Job(_Record):
    """One run of a step; a retry is another job. Times are text, as sent."""

    id: str
    type: str = "script"
    graphql_id: str | None = None
    name: str | None = None
    label: str | None = None
    step_key: str | None = None
    group_key: str | None = None
    step: StepRef | None = None
    priority: SharedPriority = NULL
    agent_query_rules: SharedRules = NULL
    state: str | None = None
    web_url: str | None = None
    command: str | None = None
    soft_failed: bool | None = None
    exit_status: Int64 | None = None
    signal: str | Int64 | None = None
    signal_reason: str | None = None
    broken_reason: str | None = None
    cancel_reason: str | None = None
    agent: SharedAgent = NULL
    created_at: str | None = None
    runnable_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    expired_at: str | None = None
    retried: bool | None = None
    retried_in_job_id: str | None = None
    retries_count: Int64 | None = None
    retry_source: RetrySource | None = None
    retry_type: str | None = None
    retried_by: Person | str | None = None
    parallel_group_index: Int64 | None = None
    parallel_group_total: Int64 | None = None
    matrix: Any = None  # JSON text once decoded
    cluster_id: str | None = None
    cluster_queue_id: str | None = None
    unblocked_by: Person | str | None = None
    unblocked_at: str | None = None
    async_: bool | None = msgspec.field(default=None, name="async")
    triggered_build: BuildRef | None = None

    def __post_init__(self) -> None:
        self.agent = _agent(bytes(self.agent))  # type: ignore[call-overload]  # still text
        self.agent_query_rules = _rules(bytes(self.agent_query_rules))  # type: ignore[arg-type]
        self.priority = _priority(bytes(self.priority))  # type: ignore[call-overload]
        if self.matrix is not None:
            self.matrix = compact(self.matrix) if self.matrix else None


class Build(_Record):
    """One build with its jobs. Times are text, as sent."""

    id: str
    number: Int64
    created_at: str
    graphql_id: str | None = None
    url: str | None = None
    web_url: str | None = None
    state: str | None = None
    blocked: bool | None = None
    blocked_state: str | None = None
    cancel_reason: str | None = None
    message: str | None = None
    commit: str | None = None
    branch: str | None = None
    tag: str | None = None
    source: str | None = None
    creator: SharedPerson = NULL
    author: Person | str | None = None
    jobs: list[Job] | None = None
    scheduled_at: str | None = None
    started_at: str | None = None
    failing_at: str | None = None
    finished_at: str | None = None
    meta_data: dict[str, Any] | None = None  # values are texts once decoded
    pull_request: PullRequest | None = None
    merge_queue: dict[str, Any] | None = None  # values are texts once decoded
    rebuilt_from: BuildRef | None = None
    triggered_from: TriggeredFrom | None = None
    cluster_id: str | None = None
    pipeline: SharedPipeline = NULL

    def __post_init__(self) -> None:
        self.pipeline = _pipeline(bytes(self.pipeline))  # type: ignore[call-overload]
        self.creator = _person(bytes(self.creator))  # type: ignore[call-overload]
        self.jobs = self.jobs or []
        if isinstance(self.author, str):
            # Old payloads; an address where the commit was made through the API.
            text = self.author
            self.author = Person(email=text) if "@" in text else Person(name=text)
        self.meta_data = _texts(self.meta_data)
        self.merge_queue = _texts(self.merge_queue)


def _texts(values: dict[str, Any] | None) -> dict[str, Any]:
    """The API gives strings; anything else that somebody put there becomes its JSON text."""
    if not values:
        return {}
    return {key: one if isinstance(one, str) else compact(one) for key, one in values.items()}


class _Stated(_Record):
    state: str | None = None


class _Identified(_Record):
    id: str | None = None


_build_decoder = msgspec.json.Decoder(Build)
_state_decoder = msgspec.json.Decoder(_Stated)
_id_decoder = msgspec.json.Decoder(_Identified)


def decode_build(payload: bytes | memoryview | msgspec.Raw) -> Build:
    """The build in one JSON object, as the API sends it.

    Characters that no string can hold (half a surrogate pair, bytes that are no UTF-8) are
    replaced by U+FFFD.

    Raises:
        RecordError: It is no build. The reason holds the path of the wrong value, like
            `Expected str, got int - at $.jobs[3].id`, and never the value.
    """
    try:
        return _build_decoder.decode(payload)
    except msgspec.ValidationError as exc:
        raise _record_error(exc, payload) from exc
    except (msgspec.DecodeError, UnicodeDecodeError):
        payload = mended(bytes(payload))
    except RecursionError as exc:
        raise _record_error(exc, payload) from exc
    try:
        return _build_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _record_error(exc, payload) from exc


def never_runs(payload: bytes) -> bool:
    """Whether the unfinished build in `payload` stays so: a newer one, or a rule, spared it."""
    try:
        state = _state_decoder.decode(payload).state
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        state = decode_build(payload).state
    return state in NEVER_RUN


def _record_error(exc: Exception, payload: bytes | memoryview | msgspec.Raw) -> RecordError:
    try:
        found = _id_decoder.decode(payload).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    return RecordError(str(exc), record_id=found)
