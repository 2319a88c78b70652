"""What every step of the program is given: a day, and somebody to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bk_pipeline.window import Window

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Day:
    """A partition: its key ("YYYY-MM-DD") and the UTC window in which its builds were created."""

    key: str
    window: Window
