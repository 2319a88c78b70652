"""The pipeline as a Dagster component, which a project can embed several times.

Its fields are derived from `Settings`: a field has the name of its variable in small letters,
without `BK_PIPELINE_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, create_model

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.defs.naming import Naming
from bk_pipeline.settings import Settings

# What YAML may hold for a setting. `Settings` checks the value, by one rule for all sources.
Value = str | int | float | bool | list[str] | None


def _text(value: Value) -> str:
    """The value as the text of its variable; empty for null, which unsets the variable."""
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, list) else str(value)


def _field(description: str | None) -> Any:
    return (Value, Field(default=None, description=description, repr=False))


if TYPE_CHECKING:

    class SettingsFields(dg.Model, dg.Resolvable):
        """One optional field for each setting."""
else:
    SettingsFields = create_model(
        "SettingsFields",
        __base__=(dg.Model, dg.Resolvable),
        **{name: _field(one.description) for name, one in Settings.model_fields.items()},
    )


class Scaffolder(dg.Scaffolder[Any]):
    """Writes a `defs.yaml` with what every pipeline needs."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the file."""
        name = request.target_path.name.lower().replace("-", "_")
        dg.scaffold_component(
            request,
            {
                "name": name,
                "buildkite_organization_slug": name.replace("_", "-"),
                "buildkite_api_token": "{{ env.BUILDKITE_API_TOKEN }}",
                "honeycomb_api_key": "{{ env.HONEYCOMB_API_KEY }}",
            },
        )


@dg.scaffold_with(Scaffolder)
class BuildkitePipelineComponent(SettingsFields, dg.Component):
    """Buildkite builds as traces: raw builds, spans, statistics, Honeycomb and OTLP loaders.

    Every setting of docs/settings.md is a field. A field that is left out takes the variable
    from the environment; one that is null is not set, whatever the environment has.
    """

    group_name: str | None = Field(
        default=None, description="Asset group. Default: the pipeline's name, or `buildkite`."
    )
    owners: list[str] | None = Field(
        default=None,
        description="Asset owners, like `team:platform`. Default: `team:ci-observability`.",
    )
    variables: dict[str, str | None] = Field(
        default_factory=dict,
        description="Variables that have no field, like `OTEL_EXPORTER_OTLP_ENDPOINT` or those of "
        "named destinations; null unsets one.",
        repr=False,
    )

    def settings(self) -> Settings:
        """Return the settings: the fields, and the environment for those that are left out.

        Raises:
            ConfigError: A value is malformed.
        """
        given = {name: getattr(self, name) for name in Settings.model_fields}
        variables: Mapping[str, Value] = {
            str(field.alias): given[name]
            for name, field in Settings.model_fields.items()
            if name in self.model_fields_set
        }
        every = {**variables, **self.variables}
        return Settings.load(**{name: _text(value) for name, value in every.items()})

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002  # Dagster's signature
        """Return the definitions. Connects to nothing."""
        settings = self.settings()
        naming = Naming.of(settings, group=self.group_name, owners=self.owners)
        return build_definitions(App(settings), naming)
