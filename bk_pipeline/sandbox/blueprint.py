"""The shape of a pipeline: its steps, and what the world needs to know to run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline.

    Args:
        kind: The type that its jobs have in the API.
        label: Shown as a job's `name`, or a manual job's `label`; None for null.
        seconds: Median run time.
        retries: Automatic retries allowed.
        main_only: On other branches the job is `broken`: its condition did not hold.
        target: Slug of the pipeline that a trigger step starts.
        fields: What the person who unblocks it fills in: meta-data keys and values.
    """

    kind: Literal["script", "waiter", "manual", "trigger"]
    label: str | None = None
    key: str | None = None
    command: str | None = None
    seconds: int = 60
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
    """One pipeline.

    Args:
        shape: Why the pipeline is in the world.
        share: Weight among the builds that people and webhooks start; 0 if only triggered.
        hours: UTC hours at which its schedule starts it; empty if it has none.
        cluster: Name of the cluster it belongs to, or None.
    """

    slug: str
    name: str
    shape: str
    share: int
    steps: tuple[Step, ...]
    description: str | None = None
    repository: str = "git@github.com:acme/monorepo.git"
    emoji: str | None = None
    color: str | None = None
    hours: tuple[int, ...] = ()
    cluster: str | None = None
    tags: tuple[str, ...] = ()
    default_branch: str = "main"
