"""Any OpenTelemetry backend, by OTLP over HTTP with protobuf bodies: `POST .../v1/traces`."""
