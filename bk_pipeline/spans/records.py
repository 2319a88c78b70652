"""Decodes Buildkite's JSON: builds, their jobs, and the objects that they refer to.

All fields but the ids are optional: waiter jobs have nothing else, and old records lack newer
fields. Unknown fields are ignored, so new ones break nothing. Of a build's `env`, which can hold
secrets, only a valid `TRACEPARENT` is kept. Objects of arbitrary shape are kept as JSON text.

Source: Buildkite REST API, "Builds"; recorded responses from 2015 to 2025.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bk_pipeline.errors import RecordError
from bk_pipeline.text import compact_json, sanitize_json


def cached_decoder(type_: Any, name: str, *, maxsize: int = 1024) -> Callable[[bytes], Any]:
    """Return a decoder that gives the same object for the same JSON text.

    The decoder is meant for `__post_init__`, where msgspec adds the record's path to errors.

    Args:
        type_: The type of the objects, which must not be modified.
        name: The name of the record's field, for error messages.
        maxsize: How many objects are cached; the least recently used one is evicted.
    """
    decode = msgspec.json.Decoder(type_).decode

    @lru_cache(maxsize=maxsize)
    def cached(text: bytes) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc).replace("`$", f"`{name}")) from exc
        except UnicodeDecodeError as exc:
            raise msgspec.DecodeError("not UTF-8") from exc

    return cached


# States of builds that end without having started: they never get a `finished_at`.
NEVER_RUN = frozenset({"skipped", "not_run"})
# The range of an Arrow int64 column.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Record(msgspec.Struct, eq=False, gc=False):
    """Base of all records. No record refers back to itself, so none needs the garbage collector."""


class Person(_Record, omit_defaults=True):
    """The creator or author of a build, or the user who retried or unblocked a job.

    Old payloads have a plain string instead.
    """

    id: str | None = None
    graphql_id: str | None = None
    name: str | None = None
    email: str | None = None


class Priority(_Record):
    """The priority of a job."""

    number: Int64 | None = None


class StepRef(_Record):
    """The step of a job."""

    id: str | None = None
    key: str | None = None
    label: str | None = None


class RetrySource(_Record):
    """The attempt that a job retries, and how: `automatic` or `manual`."""

    job_id: str | None = None
    retry_type: str | None = None


class BuildRef(_Record):
    """Another build: the one that a build was rebuilt from, or that a job triggered."""

    id: str | None = None
    number: Int64 | None = None
    url: str | None = None
    web_url: str | None = None


class TriggeredFrom(_Record):
    """The build that triggered a build."""

    build_id: str | None = None
    build_number: Int64 | None = None
    build_pipeline_slug: str | None = None


class PullRequest(_Record):
    """The pull request that a build belongs to. `id` is its number."""

    id: str | Int64 | None = None
    base: str | None = None
    repository: str | None = None
    title: str | None = None


class Agent(_Record):
    """The agent that ran a job. `meta_data` holds its tags, as `key=value`."""

    id: str | None = None
    graphql_id: str | None = None
    name: str | None = None
    hostname: str | None = None
    ip_address: str | None = None
    version: str | None = None
    web_url: str | None = None
    meta_data: tuple[str, ...] | None = None


class Provider(_Record):
    """The source control provider of a pipeline, like `github`."""

    id: str | None = None


class Pipeline(_Record):
    """The pipeline of a build."""

    id: str | None = None
    graphql_id: str | None = None
    slug: str | None = None
    name: str | None = None
    repository: str | None = None
    web_url: str | None = None
    cluster_id: str | None = None
    provider: Provider | None = None


# Objects that many builds or jobs have in common are decoded once for each distinct text, and
# shared, so they must not be modified. msgspec keeps the text; `__post_init__` decodes it.
if TYPE_CHECKING:
    SharedPipeline = Pipeline | None
    SharedPerson = Person | None
    SharedAgent = Agent | None
    SharedPriority = Priority | None
    SharedRules = tuple[str, ...] | None
    Traceparent = tuple[str, str] | None
    NULL = None
else:
    Traceparent = msgspec.Raw
    SharedPipeline = SharedPerson = msgspec.Raw
    SharedAgent = SharedPriority = SharedRules = msgspec.Raw
    NULL = msgspec.Raw(b"null")


# The payload of a pipeline includes its steps: tens of kilobytes for a large one.
_pipeline = cached_decoder(Pipeline | None, "pipeline", maxsize=256)
_person = cached_decoder(Person | None, "creator")
_agent = cached_decoder(Agent | None, "agent")
_priority = cached_decoder(Priority | None, "priority")
_rules = cached_decoder(tuple[str, ...] | None, "agent_query_rules")


class Job(_Record):
    """One attempt of a step; a retry is another job. Times are unparsed text."""

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
    log_url: str | None = None
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
    concurrency_wait_time_ms: Any = None  # not documented for this endpoint: any value will do
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
            self.matrix = compact_json(self.matrix) if self.matrix else None


class _Env(_Record):
    """The one variable of a build's `env` that is read."""

    traceparent: str | None = msgspec.field(default=None, name="TRACEPARENT")


_env = msgspec.json.Decoder(_Env)
# W3C Trace Context: version, trace id, span id, flags; later versions may append more.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def trace_context(env: bytes) -> tuple[str, str] | None:
    """Return the trace id and span id of the `TRACEPARENT` in a build's `env`; None if invalid."""
    if b"TRACEPARENT" not in env:
        return None
    try:
        text = _env.decode(env).traceparent or ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (found[3] and text.startswith("00")):
        return None
    trace, span = found[1], found[2]
    return (trace, span) if trace.strip("0") and span.strip("0") else None


class Build(_Record):
    """One build with its jobs. Times are unparsed text.

    `traceparent` holds the trace id and span id of the `TRACEPARENT` in its `env`.
    """

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
    meta_data: dict[str, Any] | None = None  # values are strings once decoded
    pull_request: PullRequest | None = None
    merge_queue: dict[str, Any] | None = None  # values are strings once decoded
    rebuilt_from: BuildRef | None = None
    triggered_from: TriggeredFrom | None = None
    cluster_id: str | None = None
    pipeline: SharedPipeline = NULL
    traceparent: Traceparent = msgspec.field(default=NULL, name="env")

    def __post_init__(self) -> None:
        self.pipeline = _pipeline(bytes(self.pipeline))  # type: ignore[call-overload]
        self.creator = _person(bytes(self.creator))  # type: ignore[call-overload]
        self.traceparent = trace_context(bytes(self.traceparent))  # type: ignore[arg-type]
        self.jobs = self.jobs or []
        if isinstance(self.author, str):
            # Old payloads: a name, or an email address if the build was created by the API.
            text = self.author
            self.author = Person(email=text) if "@" in text else Person(name=text)
        self.meta_data = _string_values(self.meta_data)
        self.merge_queue = _string_values(self.merge_queue)


def _string_values(values: dict[str, Any] | None) -> dict[str, Any]:
    """Replace values that are not strings by their JSON text. The API sends only strings."""
    if not values:
        return {}
    return {
        key: value if isinstance(value, str) else compact_json(value)
        for key, value in values.items()
    }


class _State(_Record):
    state: str | None = None


class _Id(_Record):
    id: str | None = None


_build_decoder = msgspec.json.Decoder(Build)
_state_decoder = msgspec.json.Decoder(_State)
_id_decoder = msgspec.json.Decoder(_Id)


def decode_build(payload: bytes | memoryview | msgspec.Raw) -> Build:
    """Decode one build, a JSON object as the API sends it.

    Characters that a string cannot hold (an unpaired surrogate, invalid UTF-8) are replaced
    by U+FFFD.

    Raises:
        RecordError: The payload is not a build. The message holds the path of the invalid
            value, like `Expected str, got int - at $.jobs[3].id`, and never the value itself.
    """
    try:
        return _build_decoder.decode(payload)
    except msgspec.ValidationError as exc:
        raise _record_error(exc, payload) from exc
    except (msgspec.DecodeError, UnicodeDecodeError):
        payload = sanitize_json(bytes(payload))
    except RecursionError as exc:
        raise _record_error(exc, payload) from exc
    try:
        return _build_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _record_error(exc, payload) from exc


def never_runs(payload: bytes) -> bool:
    """Return whether the unfinished build in `payload` was skipped and will never finish."""
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
