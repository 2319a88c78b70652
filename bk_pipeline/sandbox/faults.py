"""Trouble on request: which faults are ordered, and whose turn it is.

Orders of one service are carried out in the order in which they were given:
an order starts when those before it are used up. `trouble` carries out what
concerns a whole request; the services themselves, what concerns single events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any

# Each kind, and the details that it understands with their defaults.
KINDS: Mapping[str, Mapping[str, Any]] = {
    # Answers at once, without looking at the request.
    "status": {"status": 503, "body": None, "headers": {}},
    # Closes the connection without an answer, nothing processed.
    "reset": {},
    # The same, but the request has been processed.
    "reset_after": {},
    # Answers never.
    "hang": {"processed": False},
    # Processes, then closes the connection amid the body.
    "cut_body": {},
    # Processes, then answers with half of the JSON, as if that were all.
    "cut_json": {},
    # An HTML page with status 200, as some proxies send; nothing processed.
    "html": {},
    # Processes as usual, only later.
    "slow": {"seconds": 1.0},
    # Honeycomb batches: all stored, the answer lacks its last elements.
    "short_answer": {"missing": 1},
    # Honeycomb batches: events at `indexes`, or those named `where`, are refused singly.
    "event_status": {"status": 429, "error": "Request dropped due to rate limiting.", "indexes": (), "where": None},
    # OTLP: the last spans, or points, are rejected, the others stored; with 0 the message is a warning.
    "partial": {"rejected_spans": 1, "message": "Ordered fault: rejected"},
}  # fmt: skip
EVENT_KINDS = frozenset({"short_answer", "event_status", "partial"})
SERVICES = ("buildkite", "honeycomb", "otlp")


@dataclass
class Order:
    """One ordered fault: skips `after` requests, then befalls `count` of them."""

    kind: str
    count: int
    after: int
    path: str | None
    details: dict[str, Any]

    def concerns(self, path: str) -> bool:
        return self.path is None or fnmatchcase(path, self.path)

    def refused_events(self, names: Sequence[Any]) -> dict[int, dict[str, Any]]:
        """The answers to the events of a batch that this fault hits, by their index."""
        if self.kind != "event_status":
            return {}
        answer = {"status": self.details["status"], "error": self.details["error"]}
        where, indexes = self.details["where"], self.details["indexes"]
        return {
            index: answer
            for index, name in enumerate(names)
            if index in indexes or (where is not None and name == where)
        }

    @property
    def left_out(self) -> int:
        """How many elements the answer to a batch lacks."""
        return int(self.details["missing"]) if self.kind == "short_answer" else 0


@dataclass
class Faults:
    """The orders of each service. May be given and taken in different threads."""

    _orders: dict[str, list[Order]] = field(default_factory=lambda: {name: [] for name in SERVICES})
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
        """Orders a fault for requests to come.

        Args:
            service: "buildkite", "honeycomb" or "otlp".
            kind: One of `KINDS`.
            count: How many requests it befalls.
            after: How many requests it lets pass first.
            path: Only requests whose path is like this; `*` stands for anything.
            details: What the kind understands, see `KINDS`.

        Raises:
            ValueError: There is no such service, kind or detail.
        """
        if service not in SERVICES:
            raise ValueError(f"There is no service {service!r}; take one of {', '.join(SERVICES)}.")
        if kind not in KINDS:
            raise ValueError(f"There is no fault {kind!r}; take one of {', '.join(KINDS)}.")
        unknown = details.keys() - KINDS[kind].keys()
        if unknown:
            known = ", ".join(KINDS[kind]) or "none"
            raise ValueError(f"{kind} knows nothing of {', '.join(sorted(unknown))}; only {known}.")
        with self._lock:
            order = Order(kind, count, after, path, {**KINDS[kind], **details})
            self._orders[service].append(order)

    def clear(self) -> None:
        """Takes back whatever has not happened yet."""
        with self._lock:
            for orders in self._orders.values():
                orders.clear()

    def take(self, service: str, path: str) -> Order | None:
        """The fault that befalls this request as a whole, used up by one; None if none does."""
        with self._lock:
            order = self._next(service, path)
            if order is None or order.kind in EVENT_KINDS:
                return None
            return self._use(service, order)

    def take_for_events(self, service: str, path: str, names: Sequence[Any]) -> Order | None:
        """The same for a batch, by the names of its spans.

        A fault that hits none of the batch's events lets it pass and is not used up.
        """
        with self._lock:
            order = self._next(service, path)
            if order is None or order.kind not in EVENT_KINDS:
                return None
            if order.kind == "event_status" and not order.refused_events(names):
                return None
            return self._use(service, order)

    def _next(self, service: str, path: str) -> Order | None:
        return next((order for order in self._orders[service] if order.concerns(path)), None)

    def _use(self, service: str, order: Order) -> Order | None:
        if order.after > 0:
            order.after -= 1
            return None
        order.count -= 1
        if order.count <= 0:
            self._orders[service].remove(order)
        return order
