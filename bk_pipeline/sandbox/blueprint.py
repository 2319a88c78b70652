"""The definition of a simulated pipeline: its steps, how they run, and the scenarios of builds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import accumulate
from random import Random
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


class Scenario(Enum):
    """What is special about a build. Everything else follows from its pipeline."""

    PASSES = auto()
    FAILS = auto()
    FLAKY = auto()  # a job fails, an automatic retry passes
    SOFT_FAILS = auto()
    RETRIED_SOON = auto()  # a job fails and is retried by hand within minutes
    RETRIED_LATE = auto()  # a job fails and is retried by hand hours later
    CANCELED_EARLY = auto()  # before any job has started
    CANCELED_RUNNING = auto()
    TIMES_OUT = auto()
    EXPIRES = auto()  # no agent ever accepts a job
    AGENT_LOST = auto()
    SKIPPED = auto()  # superseded by a newer build
    REBUILT = auto()  # fails and is rebuilt by hand


_SHARES = {
    Scenario.PASSES: 0.515,
    Scenario.FAILS: 0.09,
    Scenario.FLAKY: 0.09,
    Scenario.SOFT_FAILS: 0.05,
    Scenario.RETRIED_SOON: 0.03,
    Scenario.RETRIED_LATE: 0.03,
    Scenario.CANCELED_EARLY: 0.025,
    Scenario.CANCELED_RUNNING: 0.04,
    Scenario.TIMES_OUT: 0.025,
    Scenario.EXPIRES: 0.02,
    Scenario.AGENT_LOST: 0.03,
    Scenario.SKIPPED: 0.03,
    Scenario.REBUILT: 0.025,
}
_SCENARIOS = tuple(_SHARES)
_BOUNDS = tuple(accumulate(_SHARES.values()))


def sample_scenarios(rng: Random, count: int) -> Iterator[Scenario]:
    """`count` scenarios in random order, then `PASSES` without end.

    The number of each scenario matches its share to within one. Systematic
    sampling is used because independent draws for a day of 40 builds would
    often miss a scenario with a share of one in 40.
    """
    offset = rng.random()
    scenarios = []
    index = 0
    for number in range(count):
        position = (number + offset) / count * _BOUNDS[-1]
        while index < len(_BOUNDS) - 1 and _BOUNDS[index] <= position:
            index += 1
        scenarios.append(_SCENARIOS[index])
    rng.shuffle(scenarios)
    yield from scenarios
    # Rebuilds and triggered builds can exceed `count` by a few.
    while True:
        yield Scenario.PASSES
