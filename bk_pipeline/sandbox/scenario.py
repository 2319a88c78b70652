"""The scenarios of simulated builds, sampled so that small worlds contain all of them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from itertools import accumulate
from random import Random


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
