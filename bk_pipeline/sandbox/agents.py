"""Agents: how long jobs wait for one.

Builds are simulated by tasks: generators that yield what they wait for. `finish` answers with random
waits, so that each build is independent of all others and a day of 50,000 builds is cheap.
`AgentQueues` has a limited number of agents: all builds of a day compete for them, and a job waits
until one is free, as at Buildkite by priority and then by the time at which it became runnable.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, TypeVar

from bk_pipeline.sandbox.blueprint import Blueprint
from bk_pipeline.sandbox.organization import Agent
from bk_pipeline.sandbox.times import HOUR, PEAK_HOUR_SHARE, SECOND, agent_wait_factor

# A queue of agents: the name of its cluster, and its own.
QueueKey = tuple[str | None, str]

# Median waits for an agent at night, by queue, if the number of agents does not matter.
_AGENT_WAIT_MS = {"default": 1_200, "arm": 2_500, "macos": 18_000, "deploy": 900, "gpu": 40_000}
# Median time from the assignment of a job to its start.
_START_MS = {"default": 1_200, "arm": 2_000, "macos": 3_500, "deploy": 900, "gpu": 4_000}
# The least agents of a queue. More are there if needed for this load in the busiest hour.
_LEAST_AGENTS = {"default": 5, "arm": 2, "macos": 2, "deploy": 1, "gpu": 1}
_PEAK_LOAD = 0.85


@dataclass(slots=True, eq=False)
class AgentRequest:
    """A job that waits for an agent. The task is sent the agent, or None if it came too late.

    Attributes:
        priority: Higher goes first.
        latest_ms: When the job is canceled: it must have started before.
        started_ms: When the job started, set with the answer.
        ended_ms: Until when it needs the agent; set by the task at once.
    """

    queue: QueueKey
    priority: int
    runnable_ms: int
    latest_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0


@dataclass(frozen=True, slots=True)
class Spawn:
    """A task to run besides the one that yields it."""

    task: Task[Any]


_T = TypeVar("_T")
# A list means all of its tasks at the same time; their results are sent, in order.
Task = Generator[AgentRequest | Spawn | Sequence["Task[Any]"], Any, _T]


def finish(task: Task[_T], rng: Random, pools: dict[str, tuple[Agent, ...]]) -> _T:
    """Run a task to its end, with random waits for agents. Returns its result."""
    answer: Any = None
    while True:
        try:
            wanted = task.send(answer)
        except StopIteration as ended:
            result: _T = ended.value
            return result
        if isinstance(wanted, AgentRequest):
            answer = _random_agent(wanted, rng, pools)
        elif isinstance(wanted, Spawn):
            answer = finish(wanted.task, rng, pools)
        else:
            answer = [finish(one, rng, pools) for one in wanted]


def _random_agent(
    request: AgentRequest, rng: Random, pools: dict[str, tuple[Agent, ...]]
) -> Agent | None:
    _, queue = request.queue
    factor = agent_wait_factor(request.runnable_ms) * math.exp(rng.gauss(0.0, 0.7))
    request.started_ms = request.runnable_ms + int(_AGENT_WAIT_MS[queue] * factor)
    return None if request.started_ms >= request.latest_ms else rng.choice(pools[queue])


@dataclass(slots=True, eq=False)
class _Running:
    """A task, and what it waits for: `missing` of its subtasks' `results`."""

    task: Task[Any]
    parent: _Running | None = None
    position: int = 0
    missing: int = 0
    results: list[Any] | None = None


class AgentQueues:
    """Runs tasks at the same time, which wait for a limited number of agents.

    Args:
        rng: The source of all randomness.
        pools: The agents of each queue.
    """

    def __init__(self, rng: Random, pools: Mapping[QueueKey, Sequence[Agent]]) -> None:
        self._rng = rng
        self._numbers = count()
        # The agent that has been idle longest is next.
        self._idle: dict[QueueKey, list[tuple[int, int, Agent]]] = {
            key: [(0, number, agent) for number, agent in enumerate(agents)]
            for key, agents in pools.items()
        }
        self._waiting: dict[QueueKey, list[tuple[int, int, int, _Running, AgentRequest]]] = {
            key: [] for key in pools
        }
        # A job becomes runnable, or an agent is free again: (time, number, queue, what).
        self._events: list[tuple[int, int, QueueKey, Any]] = []

    def start(self, task: Task[Any]) -> None:
        """Start a task. It goes on until it waits for an agent."""
        self._resume(_Running(task), None)

    def run(self) -> None:
        """Run all tasks to their ends."""
        while self._events:
            now_ms, number, queue, what = heappop(self._events)
            if isinstance(what, Agent):
                heappush(self._idle[queue], (now_ms, number, what))
            else:
                running, request = what
                entry = (-request.priority, request.runnable_ms, number, running, request)
                heappush(self._waiting[queue], entry)
            # What else happens at the same time comes first.
            if not self._events or self._events[0][0] > now_ms:
                for each in self._waiting:
                    self._assign(each, now_ms)

    def _assign(self, queue: QueueKey, now_ms: int) -> None:
        waiting, idle = self._waiting[queue], self._idle[queue]
        while waiting and idle:
            *_, running, request = heappop(waiting)
            latency_ms = _START_MS[queue[1]] * math.exp(self._rng.gauss(0.0, 0.4))
            request.started_ms = now_ms + int(latency_ms)
            if request.started_ms >= request.latest_ms:
                self._resume(running, None)
                continue
            _, _, agent = heappop(idle)
            self._resume(running, agent)
            heappush(self._events, (request.ended_ms, next(self._numbers), queue, agent))

    def _resume(self, running: _Running, answer: Any) -> None:
        """Let a task go on with `answer` until it waits for an agent or for other tasks."""
        while True:
            try:
                wanted = running.task.send(answer)
            except StopIteration as ended:
                self._report(running, ended.value)
                return
            if isinstance(wanted, AgentRequest):
                event = (wanted.runnable_ms, next(self._numbers), wanted.queue, (running, wanted))
                heappush(self._events, event)
                return
            if isinstance(wanted, Spawn):
                self.start(wanted.task)
                answer = None
                continue
            tasks = list(wanted)
            if not tasks:
                answer = []
                continue
            running.results, running.missing = [None] * len(tasks), len(tasks)
            for position, task in enumerate(tasks):
                self._resume(_Running(task, running, position), None)
            return

    def _report(self, ended: _Running, result: Any) -> None:
        parent = ended.parent
        if parent is None:
            return
        assert parent.results is not None
        parent.results[ended.position] = result
        parent.missing -= 1
        if not parent.missing:
            self._resume(parent, parent.results)


def agents_needed(
    blueprints: Sequence[Blueprint], builds_per_day: int, upload_s: int
) -> dict[QueueKey, int]:
    """How many agents each queue has, for a number of builds on a working day.

    Args:
        blueprints: The definitions of the pipelines.
        builds_per_day: Builds on a working day.
        upload_s: How long the first job of each build runs.
    """
    weights = sum(blueprint.weight for blueprint in blueprints)
    busy_s: dict[QueueKey, float] = {}
    for blueprint in blueprints:
        builds = builds_per_day * blueprint.weight / weights
        uploading = (blueprint.cluster, "default")
        busy_s[uploading] = busy_s.get(uploading, 0) + builds * upload_s
        for step in blueprint.steps:
            if step.kind == "script":
                key = (blueprint.cluster, step.queue)
                jobs = step.parallel or len(step.matrix) or 1
                busy_s[key] = busy_s.get(key, 0) + builds * jobs * step.duration_s
    return {
        key: max(
            _LEAST_AGENTS[key[1]],
            math.ceil(total_s * SECOND * PEAK_HOUR_SHARE / HOUR / _PEAK_LOAD),
        )
        for key, total_s in busy_s.items()
    }
