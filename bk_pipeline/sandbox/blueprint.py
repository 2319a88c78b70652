"""The definition of a simulated pipeline: its steps and how they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline.

    Args:
        kind: The type of its jobs in the API.
        label: The `name` of its jobs, or the `label` of a manual job; None for null.
        duration_s: Median run time of a job.
        retries: How many automatic retries are allowed.
        main_only: On other branches the job is `broken`, because its condition is false.
        target: Slug of the pipeline that a trigger step triggers.
        fields: Meta-data keys and values that the person who unblocks the step enters.
    """

    kind: Literal["script", "waiter", "manual", "trigger"]
    label: str | None = None
    key: str | None = None
    command: str | None = None
    duration_s: int = 60
    group: str | None = None
    queue: str = "default"
    parallel: int = 0
    matrix: tuple[dict[str, str], ...] = ()
    soft_fail: bool = False
    retries: int = 0
    main_only: bool = False
    artifacts: str | None = None
    timeout_minutes: int = 30
    priority: int = 0
    target: str | None = None
    is_async: bool = False
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The definition of one pipeline.

    Args:
        shape: The features of traces that this pipeline covers.
        weight: How often people, webhooks and schedules start it, relative to other pipelines.
        hours: UTC hours at which its schedule starts it; empty if it has no schedule.
        cluster: Name of the cluster it belongs to, or None.
    """

    slug: str
    name: str
    shape: str
    weight: int
    steps: tuple[Step, ...]
    description: str | None = None
    repository: str = "git@github.com:acme/monorepo.git"
    emoji: str | None = None
    color: str | None = None
    hours: tuple[int, ...] = ()
    cluster: str | None = None
    tags: tuple[str, ...] = ()
    default_branch: str = "main"
