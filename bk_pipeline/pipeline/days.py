"""What the steps share: a day, a progress callback, and retrying past damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from bk_pipeline.errors import DamagedFile
from bk_pipeline.window import Window

T = TypeVar("T")
# More than a day has parts; bounds the retries.
MAX_DAMAGED_FILES = 10_000
# Called with a sentence.
# A listing begins this long before the watermark, because builds may appear in it late.
OVERLAP = timedelta(minutes=10)
Progress = Callable[[str], None]


def no_progress(_: str) -> None:
    """Ignore progress messages."""


@dataclass(frozen=True, slots=True)
class Day:
    """A partition: its key ("YYYY-MM-DD") and the UTC window in which its builds were created."""

    key: str
    window: Window


def retry_past_damage(work: Callable[[], T], damaged: list[str]) -> T:
    """Call `work` again after each damaged file, which is quarantined by then; return its result.

    Args:
        work: Must be repeatable.
        damaged: Receives a message for each damaged file.
    """
    for _ in range(MAX_DAMAGED_FILES):
        try:
            return work()
        except DamagedFile as exc:
            damaged.append(str(exc))
    return work()
