"""Would more agents help? Compares replays of the recorded jobs with other numbers of agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bk_pipeline.analysis.queue_record import Queue, Record, trace_of
from bk_pipeline.analysis.replay import NONE, Agents, Replayed, replay
from bk_pipeline.units import NS_PER_S

Change = Callable[[int], int]  # from a recorded number of agents to the one to replay


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits for agents, in seconds."""

    p50_s: float
    p95_s: float
    mean_s: float


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """A queue in the record, in its replay, and in the replay with other agents.

    Attributes:
        jobs: Jobs whose wait is known.
        agents: The most agents in the record.
        agents_changed: The most agents in the changed replay.
        for_agents: The share of the recorded waits that was for agents to become free.
        error: By how much waits in the replay of the record differ from the record: the sum of
            the absolute differences by the sum of waits; None if there were no waits.
    """

    cluster_id: str
    cluster: str | None
    queue: str
    jobs: int
    agents: int
    agents_changed: int
    recurring: bool
    for_agents: float | None
    recorded: Waits
    replayed: Waits
    changed: Waits
    error: float | None


@dataclass(frozen=True, slots=True)
class BuildsAnswer:
    """How long builds take, in seconds, and how long their critical paths wait for agents."""

    builds: int
    replayed: Waits
    changed: Waits
    path_wait_s: float
    path_wait_changed_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of `compare`."""

    queues: list[QueueAnswer]
    builds: BuildsAnswer | None
    error: float | None


def compare(
    record: Record,
    change: Change,
    chosen: Callable[[Queue], bool],
    durations_s: dict[str, float],
) -> Answer:
    """Replay a record as it is and with other numbers of agents.

    Args:
        record: The record.
        change: The number of agents to replay, for a recorded one.
        chosen: Whether the change applies to a queue; the answer has only these.
        durations_s: How long each build took, by UUID, without the pauses at block steps.
    """
    trace = trace_of(record)
    earliest = min(record.ready, default=0)
    changed = [
        changed_agents(queue.agents, change, earliest) if chosen(queue) else queue.agents
        for queue in record.queues
    ]
    before = replay(trace, [queue.agents for queue in record.queues])
    after = replay(trace, changed)
    starts = (record, before, after)
    waits = [(np.array(one.start) - np.array(one.ready)) / NS_PER_S for one in starts]
    latency, known = np.array(record.latency) / NS_PER_S, np.array(record.wait_known, dtype=bool)
    answers, compared = [], []
    for queue, levels in zip(record.queues, changed, strict=True):
        jobs = np.array(queue.jobs)[known[queue.jobs]]
        if not chosen(queue) or not len(jobs):
            continue
        actual, replayed, other = (column[jobs] for column in waits)
        compared.append((actual, replayed))
        answers.append(
            QueueAnswer(
                cluster_id=queue.cluster_id,
                cluster=queue.cluster,
                queue=queue.name,
                jobs=len(jobs),
                agents=_most(queue.agents),
                agents_changed=_most(levels),
                recurring=queue.recurring,
                for_agents=_share(actual.sum() - latency[jobs].sum(), actual.sum()),
                recorded=_waits(actual),
                replayed=_waits(replayed),
                changed=_waits(other),
                error=_error([(actual, replayed)]),
            )
        )
    answers.sort(key=lambda one: -one.jobs * one.recorded.mean_s)
    builds = _builds(record, before, after, chosen, durations_s)
    return Answer(answers, builds, _error(compared))


def changed_agents(agents: Agents, change: Change, earliest: int) -> list[tuple[int, int]]:
    """Return the numbers of agents after a change, from `earliest` on.

    One agent remains wherever there was one, else jobs would wait forever.
    """
    before = [] if agents and agents[0][0] <= earliest else [(earliest, 0)]
    return [(at, max(change(level), min(level, 1))) for at, level in [*before, *agents]]


def _most(agents: Agents) -> int:
    return max((level for _, level in agents), default=0)


def _waits(values: Any) -> Waits:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return Waits(float(p50), float(p95), float(values.mean()))


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _error(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    differences = sum(np.abs(replayed - actual).sum() for actual, replayed in pairs)
    return _share(differences, sum(actual.sum() for actual, _ in pairs))


def _builds(
    record: Record,
    before: Replayed,
    after: Replayed,
    chosen: Callable[[Queue], bool],
    durations_s: dict[str, float],
) -> BuildsAnswer | None:
    """Compare the builds that have jobs in the chosen queues."""
    affected = [chosen(queue) for queue in record.queues]
    found = []
    for build, (begin, until) in zip(record.builds, pairwise(record.bounds), strict=True):
        length = durations_s.get(build)
        if length is None or not any(
            number != NONE and affected[number] for number in record.queue[begin:until]
        ):
            continue
        row = []
        end = max(record.end[begin:until])
        for replayed in (before, after):
            last = max(range(begin, until), key=replayed.end.__getitem__)
            # A triggered build begins later if the job that triggers it does.
            later = replayed.end[last] - end - (replayed.ready[begin] - record.ready[begin])
            row.append(max(length + later / NS_PER_S, 0.0))
            row.append(_path_wait(record, replayed, last) / NS_PER_S)
        found.append(row)
    if not found:
        return None
    columns = np.array(found)
    return BuildsAnswer(
        builds=len(found),
        replayed=_waits(columns[:, 0]),
        changed=_waits(columns[:, 2]),
        path_wait_s=float(columns[:, 1].mean()),
        path_wait_changed_s=float(columns[:, 3].mean()),
    )


def _path_wait(record: Record, replayed: Replayed, job: int) -> int:
    """Return how long the path that ends with `job` waited for agents."""
    waited = 0
    until = replayed.end[job]
    while job != NONE:
        if record.queue[job] != NONE:
            waited += max(min(replayed.start[job], until) - replayed.ready[job], 0)
        until, job = replayed.ready[job], replayed.cause[job]
    return waited
