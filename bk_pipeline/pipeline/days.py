"""What the steps share: a day, a progress callback, results, and retrying past damaged files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bk_pipeline.errors import DamagedFile
from bk_pipeline.window import Window

if TYPE_CHECKING:
    from bk_pipeline.deliver.delivery import Delivery
    from bk_pipeline.honeycomb.placing import Placement
    from bk_pipeline.pipeline.extract import Extraction
    from bk_pipeline.pipeline.job_sources import JobDetails
    from bk_pipeline.pipeline.transform import Transformation

    Result: TypeAlias = Extraction | Transformation | JobDetails | Delivery | Placement

T = TypeVar("T")
ResultT = TypeVar("ResultT", "Extraction", "Transformation", "JobDetails", "Delivery", "Placement")
# More than a day has parts; bounds the retries.
MAX_DAMAGED_FILES = 10_000
# A listing begins this long before the watermark, because builds may appear in it late.
OVERLAP = timedelta(minutes=10)
# Called with a sentence.
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


class Results:
    """Typed results, registered before the work begins.

    Each step updates its result as it proceeds, so they are right even if a run fails or is
    interrupted.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Result] = {}

    def begin(self, asset: str, day: str, result: ResultT) -> ResultT:
        """Register `result`, which the caller is about to fill in, and return it."""
        self._found[asset, day] = result
        return result

    def of_day(self, day: str) -> dict[str, Result]:
        """Return the results of `day` by asset."""
        return {name: result for (name, at), result in self._found.items() if at == day}

    def of(self, asset: str, kind: type[ResultT]) -> dict[str, ResultT]:
        """Return the results of `asset` by day, in the order in which the days began."""
        return {
            day: result
            for (name, day), result in self._found.items()
            if name == asset and isinstance(result, kind)
        }
