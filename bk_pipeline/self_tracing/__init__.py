"""OpenTelemetry traces of the pipeline's own runs, if BK_PIPELINE_SELF_TRACING is on.

They are sent with the SDK to the endpoint of the `OTEL_EXPORTER_OTLP_*` variables, as service
`bk_pipeline`. A failing endpoint costs a logged warning, never the run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings


def self_tracing(settings: Settings, *, run_id: str) -> AbstractContextManager[None]:
    """Trace a block, if the settings ask for it; its spans have been sent when it ends.

    Args:
        settings: Whether to trace, and where to send traces.
        run_id: Dagster's run id, a UUID; it becomes the trace id.

    Raises:
        ConfigError: Self-tracing is on and there is no endpoint, or its variables are malformed.
    """
    if not settings.self_tracing:
        return nullcontext()
    # Every code location loads this module, and few trace themselves.
    from bk_pipeline.deliver.otlp.settings import OtlpSettings  # noqa: PLC0415

    endpoint = OtlpSettings.from_environment(settings.environment)
    if endpoint is None:
        raise ConfigError(
            "BK_PIPELINE_SELF_TRACING is on, but there is no OTLP endpoint to send traces to. Set "
            "OTEL_EXPORTER_OTLP_ENDPOINT, or switch it off."
        )
    from bk_pipeline.self_tracing.sdk import traced  # noqa: PLC0415  # importing the SDK takes 0.1 s

    return traced(endpoint, trace_id=UUID(run_id).int)
