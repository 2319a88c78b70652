"""Injected faults: which are pending for each service, and which one applies to a request.

The faults of a service apply one after another, in the order of injection: a
fault starts when the earlier ones are used up. `fault_injection` carries out
faults of whole requests; the services carry out faults of single events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any

# Each kind of fault, and its details with their defaults.
KINDS: Mapping[str, Mapping[str, Any]] = {
    # Responds at once, without processing the request.
    "status": {"status": 503, "body": None, "headers": {}},
    # Resets the connection without a response; the request is not processed.
    "reset": {},
    # Processes the request, then resets the connection without a response.
    "reset_after": {},
    # Never responds.
    "hang": {"processed": False},
    # Processes the request, then closes the connection in the middle of the body.
    "cut_body": {},
    # Processes the request, then sends half of the JSON as if it were the whole body.
    "cut_json": {},
    # Sends an HTML page with status 200, like some proxies; the request is not processed.
    "html": {},
    # Processes the request as usual after a delay.
    "slow": {"seconds": 1.0},
    # Processes the request, then sends the body in pieces with a pause before each.
    "slow_body": {"seconds": 0.1, "pieces": 10},
    # Honeycomb batches: all events are stored, but the response lacks its last elements.
    "short_answer": {"missing": 1},
    # Honeycomb batches: events at `indexes`, or with the name `where`, are rejected one by one.
    "event_status": {"status": 429, "error": "Request dropped due to rate limiting.", "indexes": (), "where": None},
    # OTLP: the last spans or points are rejected, the others stored; with 0 the message is a warning.
    "partial": {"rejected_spans": 1, "message": "Injected fault: rejected"},
}  # fmt: skip
EVENT_KINDS = frozenset({"short_answer", "event_status", "partial"})
SERVICES = ("buildkite", "artifacts", "honeycomb", "otlp")


@dataclass
class Fault:
    """A pending fault: lets `after` requests pass, then applies to the next `count`."""

    kind: str
    count: int
    after: int
    path: str | None
    details: dict[str, Any]

    def matches_path(self, path: str) -> bool:
        """Whether the fault applies to requests for `path`."""
        return self.path is None or fnmatchcase(path, self.path)

    def event_errors(self, names: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """The error elements for the events that this fault rejects, by index in the batch.

        Args:
            names: The span name of each event of the batch.
        """
        if self.kind != "event_status":
            return {}
        error = {"status": self.details["status"], "error": self.details["error"]}
        where, indexes = self.details["where"], self.details["indexes"]
        return {
            index: error
            for index, name in enumerate(names)
            if index in indexes or (where is not None and name == where)
        }

    @property
    def missing_count(self) -> int:
        """How many elements the response to a batch lacks."""
        return int(self.details["missing"]) if self.kind == "short_answer" else 0


@dataclass
class Faults:
    """The pending faults of each service. Safe to use from several threads."""

    _pending: dict[str, list[Fault]] = field(
        default_factory=lambda: {name: [] for name in SERVICES}
    )
    _lock: Lock = field(default_factory=Lock)

    def inject(
        self,
        service: str,
        kind: str,
        *,
        count: int = 1,
        after: int = 0,
        path: str | None = None,
        **details: Any,
    ) -> None:
        """Inject a fault into coming requests.

        Args:
            service: "buildkite", "artifacts" (their store), "honeycomb" or "otlp".
            kind: One of `KINDS`.
            count: How many requests it applies to.
            after: How many requests pass before it applies.
            path: Only requests for paths that match this pattern; `*` matches any characters.
            details: The details of the kind, see `KINDS`.

        Raises:
            ValueError: There is no such service, kind or detail.
        """
        if service not in SERVICES:
            raise ValueError(f"There is no service {service!r}; use one of {', '.join(SERVICES)}.")
        if kind not in KINDS:
            raise ValueError(f"There is no fault {kind!r}; use one of {', '.join(KINDS)}.")
        unknown = details.keys() - KINDS[kind].keys()
        if unknown:
            known = ", ".join(KINDS[kind]) or "none"
            raise ValueError(
                f"Fault {kind!r} has no details {', '.join(sorted(unknown))}; it has {known}."
            )
        with self._lock:
            fault = Fault(kind, count, after, path, {**KINDS[kind], **details})
            self._pending[service].append(fault)

    def clear(self) -> None:
        """Remove all pending faults."""
        with self._lock:
            for faults in self._pending.values():
                faults.clear()

    def take(self, service: str, path: str) -> Fault | None:
        """The fault that applies to this request as a whole, or None. Uses the fault up by one."""
        with self._lock:
            fault = self._next(service, path)
            if fault is None or fault.kind in EVENT_KINDS:
                return None
            return self._use(service, fault)

    def take_for_events(self, service: str, path: str, names: Sequence[Any]) -> Fault | None:
        """The fault that applies to events of this batch, or None. Uses the fault up by one.

        A fault that hits none of the batch's events is not used up.

        Args:
            service: The service that received the batch.
            path: The path of the request.
            names: The span name of each event.
        """
        with self._lock:
            fault = self._next(service, path)
            if fault is None or fault.kind not in EVENT_KINDS:
                return None
            if fault.kind == "event_status" and not fault.event_errors(names):
                return None
            return self._use(service, fault)

    def _next(self, service: str, path: str) -> Fault | None:
        return next((fault for fault in self._pending[service] if fault.matches_path(path)), None)

    def _use(self, service: str, fault: Fault) -> Fault | None:
        if fault.after > 0:
            fault.after -= 1
            return None
        fault.count -= 1
        if fault.count <= 0:
            self._pending[service].remove(fault)
        return fault
