"""What differs between OTLP's signals on the way to an endpoint: variables, path, words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of telemetry.

    Attributes:
        name: As it stands in variables, in small letters, and in messages.
        things: What a request holds and an answer counts.
        ledger: What a destination's name in the ledger begins with. An endpoint may take both
            signals at one URL, and what was sent of one was not sent of the other.
    """

    name: str
    things: str
    ledger: str

    @property
    def prefix(self) -> str:
        """What the variables for this signal alone begin with."""
        return f"OTEL_EXPORTER_OTLP_{self.name.upper()}_"

    @property
    def switch(self) -> str:
        """The variable that says which exporters there are for it."""
        return f"OTEL_{self.name.upper()}_EXPORTER"

    @property
    def path(self) -> str:
        """What is added to a general endpoint."""
        return f"v1/{self.name}"


TRACES = Signal("traces", "spans", "otlp")
METRICS = Signal("metrics", "data points", "otlp_metrics")
