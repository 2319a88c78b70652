"""The services of a pipeline as Dagster resources, whose configuration the UI shows.

A resource shows settings, never secrets: those stay in the `App` that it depends on. A value
that a run's configuration changes takes effect, and so does a resource of another `App`:
`app_of` makes the `App` that a step works with from all resources.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from bk_pipeline.app import App
from bk_pipeline.defs.lost_runs import hold
from bk_pipeline.defs.naming import Naming
from bk_pipeline.settings import ALIASES, Settings

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext

# Variable: name of the field of `Settings`.
FIELDS = {str(field.alias): name for name, field in Settings.model_fields.items()}
OTLP_MEANING = "Scheme and host of the endpoint; the rest may hold a key and is not shown."


def _setting(variable: str) -> Any:
    """Declare a field that shows a variable, described as in the documentation."""
    described = ALIASES[variable].description if variable in ALIASES else OTLP_MEANING
    return Field(default=None, description=f"{variable}: {described}", alias=None, title=variable)


class PipelineResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # it makes itself
    """A part of an `App`'s settings. The title of each field is its variable.

    Attributes:
        secrets: Beginnings of the names of variables that belong here and are not shown.
    """

    secrets: ClassVar[tuple[str, ...]] = ()
    app: dg.ResourceDependency[App]

    @classmethod
    def of(cls, app: App) -> Self:
        """Return the resource that shows the settings of `app`."""
        return cls(app=app, **cls._shown(app.settings))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Mark the run as executed by this process, before its first step."""
        if context.instance is not None and context.run is not None:
            hold(context.instance, context.run.run_id)

    def changes(self) -> dict[str, str]:
        """Return the variables that the run's configuration has changed, as text.

        Configuration that a run gives replaces all of the resource's: what it leaves out is
        null here, and stays as the settings have it.
        """
        shown = self._shown(self.app.settings)
        given = {name: getattr(self, name) for name in shown}
        variables = self._variables()
        return {
            variables[name]: _text(one)
            for name, one in given.items()
            if one is not None and one != shown[name]
        }

    def everything(self) -> dict[str, str]:
        """Return all variables that belong here, secrets included; unset ones are empty."""
        given = self.app.settings.environment
        hidden = [name for name in given if self.secrets and name.startswith(self.secrets)]
        names = (*self._variables().values(), *hidden)
        return {name: given.get(name, "") for name in names} | self.changes()

    @classmethod
    def _variables(cls) -> dict[str, str]:
        """Field: its variable."""
        return {name: str(field.title) for name, field in cls.model_fields.items() if name != "app"}

    @classmethod
    def _shown(cls, settings: Settings) -> dict[str, Any]:
        return {name: _public(settings, one) for name, one in cls._variables().items()}


class BuildkiteResource(PipelineResource):
    """What is read from Buildkite. The token is not shown."""

    secrets = ("BUILDKITE_API_TOKEN",)
    organization: str | None = _setting("BUILDKITE_ORGANIZATION_SLUG")
    api_url: str | None = _setting("BUILDKITE_API_URL")
    pipelines: list[str] | None = _setting("BK_PIPELINE_PIPELINES")
    branches: list[str] | None = _setting("BK_PIPELINE_BRANCHES")
    reserve_percent: int | None = _setting("BK_PIPELINE_BUILDKITE_RESERVE_PERCENT")
    http_deadline_s: float | None = _setting("BK_PIPELINE_HTTP_DEADLINE_S")


class HoneycombResource(PipelineResource):
    """Where Honeycomb events and markers go. The keys are not shown."""

    secrets = ("HONEYCOMB_API_KEY", "HONEYCOMB_CONFIGURATION_KEY")
    api_endpoint: str | None = _setting("HONEYCOMB_API_ENDPOINT")
    dataset: str | None = _setting("HONEYCOMB_DATASET")
    max_age_days: int | None = _setting("BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS")
    trace_id_style: str | None = _setting("BK_PIPELINE_TRACE_ID_STYLE")
    markers: str | None = _setting("BK_PIPELINE_MARKERS")


class OtlpResource(PipelineResource):
    """Where OTLP spans and metrics go. Headers and paths of endpoints are not shown."""

    secrets = ("OTEL_",)
    destinations: list[str] | None = _setting("BK_PIPELINE_DESTINATIONS")
    endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT")
    traces_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    metrics_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    account: str | None = _setting("BK_PIPELINE_OTLP_ACCOUNT")
    max_age: str | None = _setting("BK_PIPELINE_OTLP_MAX_AGE")
    metrics_max_age: str | None = _setting("BK_PIPELINE_OTLP_METRICS_MAX_AGE")


class StoreResource(PipelineResource):
    """Where builds, spans and statistics are stored. Credentials in a URI are not shown."""

    data_dir: str | None = _setting("BK_PIPELINE_DATA_DIR")
    spans_service_name: str | None = _setting("BK_PIPELINE_SPANS_SERVICE_NAME")
    spans_export: str | None = _setting("BK_PIPELINE_SPANS_EXPORT")
    spans_waits: bool | None = _setting("BK_PIPELINE_SPANS_WAITS")
    spans_links: bool | None = _setting("BK_PIPELINE_SPANS_LINKS")
    spans_conventions: bool | None = _setting("BK_PIPELINE_SPANS_CONVENTIONS")
    spans_critical_path: bool | None = _setting("BK_PIPELINE_SPANS_CRITICAL_PATH")
    costs: str | None = _setting("BK_PIPELINE_COSTS")
    deployments: str | None = _setting("BK_PIPELINE_DEPLOYMENTS")
    spans_drop: list[str] | None = _setting("BK_PIPELINE_SPANS_DROP")
    spans_hash: list[str] | None = _setting("BK_PIPELINE_SPANS_HASH")


class LedgerResource(PipelineResource):
    """Where deliveries are recorded. The user and the password of a database are not shown."""

    url: str | None = _setting("BK_PIPELINE_LEDGER_URL")
    on_this_host: bool | None = _setting("BK_PIPELINE_LEDGER_ON_THIS_HOST")
    guarantee: str | None = _setting("BK_PIPELINE_DELIVER_GUARANTEE")


STORE = "store"
KINDS: Mapping[str, type[PipelineResource]] = {
    "buildkite": BuildkiteResource,
    "honeycomb": HoneycombResource,
    "otlp": OtlpResource,
    STORE: StoreResource,
    "ledger": LedgerResource,
}


def resources_of(app: App, naming: Naming) -> dict[str, PipelineResource]:
    """Return the resources of `app` by their keys."""
    return {naming.named(key): kind.of(app) for key, kind in KINDS.items()}


def resource_keys(naming: Naming) -> set[str]:
    """Return the keys of the resources, which every asset and check requires."""
    return {naming.named(key) for key in KINDS}


def app_of(context: Context, naming: Naming) -> App:
    """Return the `App` that the resources of this step describe.

    Raises:
        ConfigError: The run's configuration of a resource is malformed.
    """
    resources = {key: getattr(context.resources, naming.named(key)) for key in KINDS}
    base: App = resources[STORE].app
    variables: dict[str, str] = {}
    for one in resources.values():
        variables |= one.changes() if one.app is base else one.everything()
    return base.changed(variables) if variables else base


def _public(settings: Settings, variable: str) -> Any:
    """The value of a variable as the UI shows it."""
    if variable in FIELDS:
        value = getattr(settings, FIELDS[variable])
    else:
        value = settings.environment.get(variable)
    if variable == "BK_PIPELINE_LEDGER_URL":
        return _without_secrets(value.get_secret_value()) if value else None
    if variable == "BK_PIPELINE_DATA_DIR":
        return _without_secrets(settings.data_dir or "") or None
    if variable.startswith("OTEL_"):
        return _without_secrets(value, path=False) if value else None
    if isinstance(value, Path | timedelta):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _without_secrets(location: str, *, path: bool = True) -> str:
    """A path as it is; a URL without user, password and query."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path if path else ''}"


def _text(value: Any) -> str:
    """A value of the run's configuration as the text of a variable."""
    return ",".join(value) if isinstance(value, list) else str(value)
