"""What becomes of a build, dealt out so that small worlds have all kinds too."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from itertools import accumulate
from random import Random


class Fate(Enum):
    """The one remarkable thing about a build. All else follows from its pipeline."""

    PASSES = auto()
    FAILS = auto()
    FLAKY = auto()  # a job fails, an automatic retry passes
    SOFT_FAILS = auto()
    RETRIED_SOON = auto()  # failed, and somebody retried the job within minutes
    RETRIED_LATE = auto()  # the same, hours later
    CANCELED_EARLY = auto()  # before any job started
    CANCELED_RUNNING = auto()
    TIMES_OUT = auto()
    EXPIRES = auto()  # no agent ever took the job
    AGENT_LOST = auto()
    SKIPPED = auto()  # a newer build made it pointless
    REBUILT = auto()  # fails, and somebody starts it anew


_SHARES = {
    Fate.PASSES: 0.515,
    Fate.FAILS: 0.09,
    Fate.FLAKY: 0.09,
    Fate.SOFT_FAILS: 0.05,
    Fate.RETRIED_SOON: 0.03,
    Fate.RETRIED_LATE: 0.03,
    Fate.CANCELED_EARLY: 0.025,
    Fate.CANCELED_RUNNING: 0.04,
    Fate.TIMES_OUT: 0.025,
    Fate.EXPIRES: 0.02,
    Fate.AGENT_LOST: 0.03,
    Fate.SKIPPED: 0.03,
    Fate.REBUILT: 0.025,
}
_FATES = tuple(_SHARES)
_BOUNDS = tuple(accumulate(_SHARES.values()))


def deal(rng: Random, count: int) -> Iterator[Fate]:
    """`count` fates in random order, each as often as its share says, to within one.

    Drawn at even distances (systematic sampling) rather than one by one: a
    day of 40 builds would often miss what befalls one in 40.
    """
    offset = rng.random()
    fates = []
    at = 0
    for number in range(count):
        position = (number + offset) / count * _BOUNDS[-1]
        while at < len(_BOUNDS) - 1 and _BOUNDS[at] <= position:
            at += 1
        fates.append(_FATES[at])
    rng.shuffle(fates)
    yield from fates
    # Rebuilds and triggered builds can take a day past `count` by a few.
    while True:
        yield Fate.PASSES
