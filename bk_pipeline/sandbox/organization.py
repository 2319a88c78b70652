"""The organization apart from its builds: people, agents, clusters and pipeline objects.

Everything is derived from the organization's slug. The API objects are created
once and shared by all responses; only tests replace values in them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import structs

from bk_pipeline.sandbox.blueprint import Blueprint
from bk_pipeline.sandbox.credentials import graphql_id, named_uuid
from bk_pipeline.sandbox.pipelines import BLUEPRINTS

API = "https://api.buildkite.com/v2"
WEB = "https://buildkite.com"

_NAMES = (
    "Ada Okafor", "Björn Lindqvist", "Chiara Rossi", "Dmitri Volkov", "Esra Çelik", "Fatou Diallo",
    "Gráinne Ní Bhriain", "Hiroshi Tanaka", "Ines Carvalho", "Jun Park", "Kofi Mensah", "Lena Vogel",
)  # fmt: skip
_POOLS = {"default": 24, "arm": 8, "macos": 6, "deploy": 3, "gpu": 2}
_FOUNDED = "2021-03-04T05:06:07.089Z"
# The sandbox does not maintain the counts of a pipeline.
_COUNTS = {
    "scheduled_builds_count": 0,
    "running_builds_count": 0,
    "scheduled_jobs_count": 0,
    "running_jobs_count": 0,
    "waiting_jobs_count": 0,
}


class Person(msgspec.Struct, frozen=True):
    """A person. `payload` is the API's user object."""

    id: str
    name: str
    email: str
    payload: dict[str, Any]


class Agent(msgspec.Struct, frozen=True):
    """An agent of a queue. `payload` is the API's agent object."""

    queue: str
    payload: dict[str, Any]


class Cluster(msgspec.Struct, frozen=True):
    """A cluster. `payload` is the API's cluster object."""

    id: str
    url: str
    payload: dict[str, Any]

    def queue_id(self, queue: str) -> str:
        """The UUID of one of the cluster's queues."""
        return named_uuid("queue", self.id, queue)


class Pipeline(msgspec.Struct, frozen=True):
    """A pipeline of the organization. `payload` is the API's pipeline object."""

    blueprint: Blueprint
    slug: str
    url: str
    web_url: str
    cluster: Cluster | None
    payload: dict[str, Any]


class Organization(msgspec.Struct, frozen=True):
    """The organization.

    Attributes:
        payload: The API's organization object.
        clusters: The API's cluster objects.
        pools: The agents of each queue.
        pipelines: The pipelines by slug.
    """

    slug: str
    payload: dict[str, Any]
    clusters: list[dict[str, Any]]
    people: tuple[Person, ...]
    pools: dict[str, tuple[Agent, ...]]
    pipelines: dict[str, Pipeline]

    def with_slower_step(self, slug: str, key: str, factor: float) -> Organization:
        """The same organization, in which the jobs of a step run `factor` times as long."""
        pipeline = self.pipelines[slug]
        steps = tuple(
            replace(step, duration_s=round(step.duration_s * factor)) if step.key == key else step
            for step in pipeline.blueprint.steps
        )
        slower = structs.replace(pipeline, blueprint=replace(pipeline.blueprint, steps=steps))
        return structs.replace(self, pipelines={**self.pipelines, slug: slower})


def make_organization(slug: str) -> Organization:
    """The organization with this slug; the same in every run."""
    people = tuple(_person(slug, name) for name in _NAMES)
    clusters = {
        name: _cluster(slug, name, people[0])
        for name in sorted({b.cluster for b in BLUEPRINTS if b.cluster})
    }
    pipelines = {
        blueprint.slug: _pipeline(
            slug, blueprint, clusters[blueprint.cluster] if blueprint.cluster else None, people[0]
        )
        for blueprint in BLUEPRINTS
    }
    pools = {queue: make_pool(slug, None, queue, size) for queue, size in _POOLS.items()}
    return Organization(
        slug,
        _organization_payload(slug),
        [cluster.payload for cluster in clusters.values()],
        people,
        pools,
        pipelines,
    )


def make_pool(slug: str, cluster: str | None, queue: str, size: int) -> tuple[Agent, ...]:
    """The agents of a queue of a cluster, or of the queue of that name without a cluster."""
    owner = f"{slug}/{cluster}" if cluster else slug
    return tuple(_agent(owner, queue, number) for number in range(size))


def _organization_payload(slug: str) -> dict[str, Any]:
    identifier = named_uuid("organization", slug)
    url = f"{API}/organizations/{slug}"
    return {
        "id": identifier,
        "graphql_id": graphql_id("Organization", identifier),
        "url": url,
        "web_url": f"{WEB}/{slug}",
        "name": f"{slug.title()} (sandbox)",
        "slug": slug,
        "pipelines_url": f"{url}/pipelines",
        "agents_url": f"{url}/agents",
        "emojis_url": f"{url}/emojis",
        "created_at": _FOUNDED,
    }


def _person(slug: str, name: str) -> Person:
    identifier = named_uuid("person", slug, name)
    email = f"{name.split(maxsplit=1)[0].lower()}@{slug}.example".encode("ascii", "ignore").decode()
    digest = hashlib.sha256(email.encode()).hexdigest()[:32]
    payload = {
        "id": identifier,
        "graphql_id": graphql_id("User", identifier),
        "name": name,
        "email": email,
        "avatar_url": f"https://www.gravatar.com/avatar/{digest}",
        "created_at": _FOUNDED,
    }
    return Person(identifier, name, email, payload)


def _cluster(slug: str, name: str, creator: Person) -> Cluster:
    identifier = named_uuid("cluster", slug, name)
    url = f"{API}/organizations/{slug}/clusters/{identifier}"
    queue = named_uuid("queue", identifier, "default")
    payload = {
        "id": identifier,
        "graphql_id": graphql_id("Cluster", identifier),
        "default_queue_id": queue,
        "name": name.title(),
        "description": None,
        "emoji": None,
        "color": None,
        "url": url,
        "web_url": f"{WEB}/organizations/{slug}/clusters/{identifier}",
        "queues_url": f"{url}/queues",
        "default_queue_url": f"{url}/queues/{queue}",
        "created_at": _FOUNDED,
        "created_by": creator.payload,
    }
    return Cluster(identifier, url, payload)


def _agent(owner: str, queue: str, number: int) -> Agent:
    """An agent of `owner`: the organization's slug, and after a slash the name of a cluster."""
    slug = owner.partition("/")[0]
    identifier = named_uuid("agent", owner, queue, str(number))
    system = "darwin; arm64" if queue == "macos" else "linux; amd64"
    payload = {
        "id": identifier,
        "graphql_id": graphql_id("Agent", identifier),
        "url": f"{API}/organizations/{slug}/agents/{identifier}",
        "web_url": f"{WEB}/organizations/{slug}/agents/{identifier}",
        "name": f"{queue}-{identifier[:8]}",
        "connection_state": "disconnected" if number % 3 == 0 else "connected",
        "ip_address": f"192.0.2.{number % 240 + 10}",
        "hostname": f"host-{identifier[-6:]}",
        "user_agent": f"buildkite-agent/3.98.2.10571 ({system})",
        "version": "3.98.2",
        "creator": None,
        "created_at": _FOUNDED,
        "job": None,
        "last_job_finished_at": None,
        "priority": 0,
        "meta_data": _agent_meta_data(queue, number),
        "cluster_url": None,
        "cluster_queue_url": None,
    }
    return Agent(queue, payload)


def _agent_meta_data(queue: str, number: int) -> list[str]:
    if queue == "macos":
        return ["queue=macos", "xcode=16.4", f"rack={number % 2}"]
    kinds = {"arm": "c8g.2xlarge", "gpu": "g6.4xlarge"}
    return [
        f"queue={queue}",
        "aws:region=eu-west-1",
        f"aws:availability-zone=eu-west-1{'abc'[number % 3]}",
        f"aws:instance-type={kinds.get(queue, 'c7i.4xlarge')}",
        f"aws:instance-life-cycle={'spot' if number % 4 else 'on-demand'}",
        "docker=true",
    ]


def _pipeline(
    slug: str, blueprint: Blueprint, cluster: Cluster | None, creator: Person
) -> Pipeline:
    payload = _pipeline_payload(slug, blueprint, cluster, creator)
    return Pipeline(blueprint, blueprint.slug, payload["url"], payload["web_url"], cluster, payload)


def _pipeline_payload(
    slug: str, blueprint: Blueprint, cluster: Cluster | None, creator: Person
) -> dict[str, Any]:
    """The API's pipeline object."""
    url = f"{API}/organizations/{slug}/pipelines/{blueprint.slug}"
    identifier = named_uuid("pipeline", slug, blueprint.slug)
    return {
        "id": identifier,
        "graphql_id": graphql_id("Pipeline", identifier),
        "url": url,
        "web_url": f"{WEB}/{slug}/{blueprint.slug}",
        "name": blueprint.name,
        "description": blueprint.description,
        "slug": blueprint.slug,
        "repository": blueprint.repository,
        "cluster_id": cluster.id if cluster else None,
        "cluster_url": cluster.url if cluster else None,
        "pipeline_template_uuid": None,
        "branch_configuration": None,
        "default_branch": blueprint.default_branch,
        "skip_queued_branch_builds": True,
        "skip_queued_branch_builds_filter": "!main",
        "cancel_running_branch_builds": False,
        "cancel_running_branch_builds_filter": None,
        "allow_rebuilds": True,
        "provider": _provider(blueprint),
        "builds_url": f"{url}/builds",
        "badge_url": f"https://badge.buildkite.com/{identifier}.svg",
        "created_by": creator.payload,
        "created_at": _FOUNDED,
        "archived_at": None,
        "env": {},
        **_COUNTS,
        "visibility": "private",
        "tags": list(blueprint.tags) or None,
        "emoji": blueprint.emoji,
        "color": blueprint.color,
        "steps": [_upload_step()],
    }


def _provider(blueprint: Blueprint) -> dict[str, Any]:
    return {
        "id": "github",
        "settings": {
            "trigger_mode": "code",
            "build_branches": True,
            "build_pull_requests": True,
            "build_tags": True,
            "publish_commit_status": True,
            "filter_enabled": False,
            "repository": blueprint.repository,
        },
        "webhook_url": "https://webhook.buildkite.com/deliver/sandbox",
    }


def _upload_step() -> dict[str, Any]:
    return {
        "type": "script",
        "name": ":pipeline:",
        "command": "buildkite-agent pipeline upload",
        "artifact_paths": None,
        "branch_configuration": None,
        "env": {},
        "timeout_in_minutes": None,
        "agent_query_rules": [],
        "concurrency": None,
        "parallelism": None,
    }
