"""The names of one pipeline's definitions, so that several can live in one code location."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import dagster as dg

from bk_pipeline.settings import Settings

GROUP = "buildkite"
OWNERS = ("team:ci-observability",)
# Concurrent steps that read from Buildkite share one token's rate limit: dagster.yaml limits them.
BUILDKITE_POOL = "buildkite_api"


@dataclass(frozen=True, slots=True)
class Naming:
    """Names and labels of the definitions of one pipeline.

    Attributes:
        name: Prefix of jobs, schedules, sensors, checks' ops, pools and resource keys; empty
            for a pipeline that has its code location to itself.
        key_prefix: Prefix of asset keys.
        group: Asset group.
        owners: Asset owners.
    """

    name: str = ""
    key_prefix: tuple[str, ...] = ()
    group: str = GROUP
    owners: tuple[str, ...] = OWNERS

    @classmethod
    def of(
        cls, settings: Settings, *, group: str | None = None, owners: Sequence[str] | None = None
    ) -> Self:
        """Return the naming that `BK_PIPELINE_NAME` and `BK_PIPELINE_KEY_PREFIX` describe.

        Args:
            settings: All settings.
            group: Asset group. Default: the pipeline's name, or `buildkite` if it has none.
            owners: Asset owners. Default: `OWNERS`.
        """
        name = settings.instance
        return cls(
            name=name,
            key_prefix=settings.key_prefix or ((name,) if name else ()),
            group=group or name or GROUP,
            owners=OWNERS if owners is None else tuple(owners),
        )

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of the asset that is called `asset` in the documentation."""
        return dg.AssetKey([*self.key_prefix, asset])

    def op(self, asset: str) -> str:
        """Return the name of the asset's op, which run configuration and step keys use."""
        return self.key(asset).to_python_identifier()

    def named(self, what: str) -> str:
        """Return the name of a job, schedule, sensor, op, pool or resource."""
        return f"{self.name}_{what}" if self.name else what

    @property
    def pool(self) -> str:
        """The pool of the steps that read from Buildkite."""
        return self.named(BUILDKITE_POOL)
