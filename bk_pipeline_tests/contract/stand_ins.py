"""Stand-ins for destinations into which tests inject faults, one for each kind.

To add a destination, add a class here and a line to `STAND_INS`.
"""

from __future__ import annotations

from bk_pipeline.clock import Clock
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.http.network import Timeouts
from bk_pipeline.sandbox.server import Sandbox
from bk_pipeline_tests.grpc_server import grpc_server

PATIENT = Timeouts(connect_s=60, read_s=60, total_s=60)
# For tests of an answer that never comes.
QUICK = Timeouts(connect_s=60, read_s=3, total_s=60)


class HoneycombStandIn:
    """Honeycomb, played by the sandbox."""

    service = "honeycomb"

    def __init__(self, sandbox: Sandbox, url: str, clock: Clock) -> None:
        self.sandbox = sandbox
        self.url = url
        self.clock = clock
        self.secret = sandbox.honeycomb_key

    def destination(
        self, *, key: str | None = None, url: str | None = None, timeouts: Timeouts = PATIENT
    ) -> Destination:
        return Honeycomb(
            url or self.url, key or self.secret, "ci", clock=self.clock, timeouts=timeouts
        )

    def close(self) -> None:
        """Release what the stand-in holds."""

    def inject(self, kind: str, **details) -> None:
        """Inject a fault into the next requests for spans."""
        self.sandbox.faults.inject(self.service, kind, path="/1/batch/*", **details)

    def stored(self) -> list[tuple[str, str]]:
        """Return trace id and span id of each stored span, in order of arrival."""
        return [
            (event.data["trace.trace_id"], event.data["trace.span_id"])
            for event in self.sandbox.honeycomb.events
            if "trace.span_id" in event.data
        ]


class OtlpStandIn:
    """An OTLP endpoint, played by the sandbox."""

    service = "otlp"
    secret = "otlp-key-0123456789"

    def __init__(self, sandbox: Sandbox, url: str, clock: Clock) -> None:
        self.sandbox = sandbox
        self.url = url
        self.clock = clock
        sandbox.otlp.require_header("x-key", self.secret)

    def destination(
        self,
        *,
        key: str | None = None,
        url: str | None = None,
        timeouts: Timeouts = PATIENT,
        **variables: str,
    ) -> Destination:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url or self.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={key or self.secret}",
        } | variables
        settings = OtlpSettings.from_environment(environment)
        assert settings is not None
        return Otlp(settings, clock=self.clock, timeouts=timeouts)

    def close(self) -> None:
        """Release what the stand-in holds."""

    def inject(self, kind: str, **details) -> None:
        """Inject a fault into the next requests for spans."""
        self.sandbox.faults.inject(self.service, kind, path="/v1/traces", **details)

    def stored(self) -> list[tuple[str, str]]:
        """Return trace id and span id of each stored span, in order of arrival."""
        return [(span.trace_id, span.span_id) for span in self.sandbox.otlp.spans]


class GrpcStandIn(OtlpStandIn):
    """An OTLP endpoint that is reached by gRPC: a server that passes requests on to the sandbox."""

    def __init__(self, sandbox: Sandbox, url: str, clock: Clock) -> None:
        super().__init__(sandbox, url, clock)
        self._server, self.url = grpc_server(url)

    def destination(
        self, *, key: str | None = None, url: str | None = None, timeouts: Timeouts = PATIENT
    ) -> Destination:
        return super().destination(
            key=key, url=url, timeouts=timeouts, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
        )

    def close(self) -> None:
        self._server.stop(0).wait()


STAND_INS = {
    "honeycomb": HoneycombStandIn,
    "otlp": OtlpStandIn,
    "otlp by gRPC": GrpcStandIn,
}
