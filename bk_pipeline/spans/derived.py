"""Values of fields that no single place of the payload holds; `fields.py` says which is whose.

A function takes the trace where the value is the build's, the span where it is the span's.
Lists and objects are given as compact JSON text, as they stand in the span table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from bk_pipeline.spans.model import Span, Trace
from bk_pipeline.spans.records import Agent, Person
from bk_pipeline.spans.text import compact, cut

DEFAULT_QUEUE = "default"
QUEUE = "queue="

_API_URL = re.compile(r"https?://[^/]+/v2/organizations/([^/?#]+)/")
_WEB_URL = re.compile(r"https?://[^/]+/([^/?#]+)/")


def organization_slug(trace: Trace) -> str | None:
    """From the build's URLs: the payload has it nowhere else."""
    for pattern, url in ((_API_URL, trace.build.url), (_WEB_URL, trace.build.web_url)):
        found = pattern.match(url or "")
        if found:
            return found[1]
    return None


def cluster_id(trace: Trace) -> str | None:
    """The build's, else its pipeline's; older payloads have it on the jobs alone."""
    build = trace.build
    own = build.cluster_id or (build.pipeline.cluster_id if build.pipeline else None)
    return own or next((job.cluster_id for job in build.jobs or () if job.cluster_id), None)


def job_counts(trace: Trace) -> str:
    """How many of the build's jobs are in which state; waiters have none and do not count."""
    return compact(Counter(job.state for job in trace.build.jobs or () if job.state))


def build_meta_data(trace: Trace) -> str | None:
    return _map(trace.build.meta_data)


def merge_queue(trace: Trace) -> str | None:
    return _map(trace.build.merge_queue)


def _map(values: Mapping[str, str] | None) -> str | None:
    return compact({key: cut(one) for key, one in values.items()}) if values else None


def pull_request_id(trace: Trace) -> str | None:
    request = trace.build.pull_request
    return str(request.id) if request and request.id is not None else None


def passed(span: Span) -> bool:
    """Whether the job's command succeeded; a soft failure is none of that."""
    assert span.job is not None
    if span.job.state == "finished":
        return span.job.exit_status == 0
    return span.job.state in {"passed", "unblocked"}


def job_label(span: Span) -> str | None:
    assert span.job is not None
    return span.job.label or span.job.name


def signal(span: Span) -> str | None:
    assert span.job is not None
    return None if span.job.signal is None else str(span.job.signal)


def agent_query_rules(span: Span) -> str | None:
    assert span.job is not None
    return compact(span.job.agent_query_rules) if span.job.agent_query_rules else None


class _Tags(NamedTuple):
    """An agent's tags: as a list, by key (JSON texts both), and the queues among them."""

    listed: str
    by_key: str
    queues: tuple[str, ...]


@lru_cache(maxsize=4096)
def _tags(meta_data: tuple[str, ...]) -> _Tags:
    """Made once for each agent; the values of a key that stands more than once get commas."""
    by_key: dict[str, str] = {}
    for tag in meta_data:
        key, _, value = tag.partition("=")
        by_key[key] = f"{by_key[key]},{value}" if key in by_key else value
    queues = tuple(tag.removeprefix(QUEUE) for tag in meta_data if tag.startswith(QUEUE))
    return _Tags(compact(meta_data), compact(by_key), queues)


def agent_queue(span: Span) -> str | None:
    """The queue that the agent was listening to: the one the job asked for, if it may choose."""
    agent = _agent(span)
    if agent is None:
        return None
    assert span.job is not None
    rules = span.job.agent_query_rules or ()
    asked = [rule.removeprefix(QUEUE) for rule in rules if rule.startswith(QUEUE)]
    if agent.meta_data is None:
        return asked[0] if asked else None
    queues = _tags(tuple(agent.meta_data)).queues
    for queue in asked:
        if queue in queues:
            return queue
    return queues[0] if queues else DEFAULT_QUEUE


def agent_tags(span: Span) -> str | None:
    agent = _agent(span)
    return _tags(tuple(agent.meta_data)).listed if agent and agent.meta_data else None


def agent_tag_values(span: Span) -> str | None:
    agent = _agent(span)
    return _tags(tuple(agent.meta_data)).by_key if agent and agent.meta_data else None


def _agent(span: Span) -> Agent | None:
    assert span.job is not None
    agent = span.job.agent
    return agent if agent and (agent.id or agent.name) else None


def unblocked_by(span: Span) -> str | None:
    assert span.job is not None
    return _person(span.job.unblocked_by)


def retried_by(span: Span) -> str | None:
    assert span.job is not None
    return _person(span.job.retried_by)


def _person(person: Person | str | None) -> str | None:
    """Id, name and address, without pictures and dates."""
    return compact(person) if person else None


def step_key(span: Span) -> str | None:
    """The step's own key; a group step's is the group's."""
    return span.step.key if span.step else group_key(span)


def step_type(span: Span) -> str | None:
    return span.step.type if span.step else "group"


def group_key(span: Span) -> str | None:
    return span.group.key if span.group else None


def adjusted(span: Span) -> bool | None:
    return span.adjusted or None
