"""The pipeline's own runs as OpenTelemetry traces, if BK_PIPELINE_SELF_TRACING says so.

They go by the SDK to the OTLP endpoint that `OTEL_EXPORTER_OTLP_*` name, under the service
`bk_pipeline`. Whatever becomes of them, the run goes on: an endpoint that is away costs a
warning.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings


def self_tracing(settings: Settings, *, run_id: str) -> AbstractContextManager[None]:
    """A block that is traced if the settings say so; what it told has left when it ends.

    Args:
        settings: Whether, and where to.
        run_id: Dagster's, a UUID: the trace's id.

    Raises:
        ConfigError: It is switched on and no endpoint is set, or the variables are malformed.
    """
    if not settings.self_tracing:
        return nullcontext()
    endpoint = OtlpSettings.from_environment(settings.environment)
    if endpoint is None:
        raise ConfigError(
            "BK_PIPELINE_SELF_TRACING is on, and there is no OTLP endpoint to send traces to. Set "
            "OTEL_EXPORTER_OTLP_ENDPOINT, or switch it off."
        )
    from bk_pipeline.self_tracing.sdk import traced  # noqa: PLC0415  # the SDK takes 0.1 s

    return traced(endpoint, trace_id=UUID(run_id).int)
