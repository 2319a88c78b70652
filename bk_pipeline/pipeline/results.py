"""Results of the runs of this process, by asset and day."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from bk_pipeline.deliver.delivery import Delivery
    from bk_pipeline.honeycomb.placing import Placement
    from bk_pipeline.pipeline.extract import Extraction
    from bk_pipeline.pipeline.transform import Transformation

    Result = Extraction | Transformation | Delivery | Placement
T = TypeVar("T", "Extraction", "Transformation", "Delivery", "Placement")


class Results:
    """Typed results, registered before the work begins.

    Each step updates its result as it proceeds, so they are right even if a run fails or is
    interrupted.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Result] = {}

    def begin(self, asset: str, day: str, result: T) -> T:
        """Register `result`, which the caller is about to fill in, and return it."""
        self._found[asset, day] = result
        return result

    def of_day(self, day: str) -> dict[str, Result]:
        """Return the results of `day` by asset."""
        return {name: result for (name, at), result in self._found.items() if at == day}

    def of(self, asset: str, kind: type[T]) -> dict[str, T]:
        """Return the results of `asset` by day, in the order in which the days began."""
        return {
            day: result
            for (name, day), result in self._found.items()
            if name == asset and isinstance(result, kind)
        }
