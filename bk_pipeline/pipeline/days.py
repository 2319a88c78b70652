"""What every step of the program is given: a day, and somebody to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bk_pipeline.errors import DamagedFile
from bk_pipeline.window import Window

T = TypeVar("T")
# More damaged files than a day has parts.
MOST_DAMAGED = 10_000
Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Day:
    """A partition: its key ("YYYY-MM-DD") and the UTC window in which its builds were created."""

    key: str
    window: Window


def retry_past_damage(work: Callable[[], T], damaged: list[str]) -> T:
    """What `work` returns; done again where it meets a damaged file, which is moved aside by then.

    Args:
        work: Can be done again.
        damaged: Gets what is to be said of each such file.
    """
    for _ in range(MOST_DAMAGED):
        try:
            return work()
        except DamagedFile as exc:
            damaged.append(str(exc))
    return work()
