"""Any OpenTelemetry backend, by OTLP over HTTP with protobuf bodies: `POST .../v1/traces`."""

from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings

__all__ = ["Otlp", "OtlpSettings"]
