"""A destination that responds as scripted by a test, and possible responses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count

from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.destination import ACCEPTED, Item, Limits, Outcome, SendResult, Verdict
from bk_pipeline.errors import RequestTooLarge, ServiceUnavailable
from bk_pipeline.http.retry import RetryPolicy

RETRY = RetryPolicy(deadline_s=300, jitter=lambda: 1.0)
_names = count()

ONE_BY_ONE = DeliveryPolicy(in_flight=1)
MOST_ONCE = DeliveryPolicy(guarantee=Guarantee.AT_MOST_ONCE, in_flight=1)
THROTTLED = Outcome(Verdict.THROTTLED, "429: slow down")
FAILED = Outcome(Verdict.FAILED, "500: oops")
REJECTED = Outcome(Verdict.REJECTED, "400: too many columns")
UNANSWERED = Outcome(Verdict.UNANSWERED)
LOST = ServiceUnavailable("the connection broke")
DOWN = ServiceUnavailable("no connection", maybe_processed=False)

Reply = Callable[[Sequence[Item]], SendResult]


class ScriptedDestination:
    """Responds with `replies` in order, raising those that are errors, then accepts everything.

    `stored` has the accepted items in order of arrival. A reply may store items before it raises.
    """

    def __init__(self, *replies: Reply | Exception, items: int = 500, size: int = 5_000_000):
        # A unique name, because rate limits are shared by name.
        self.name = f"scripted-{next(_names)}"
        self.limits = Limits(size, items, framing_bytes=2, separator_bytes=1)
        self.max_age = None
        self.max_age_by_end = False
        self.max_age_description = ""
        self.future_limit = None
        self.columns = None
        self.sampled = True
        self.retry = RETRY
        self.replies = list(replies)
        self.requests: list[list[Item]] = []
        self.stored: list[Item] = []
        self._lock = threading.Lock()

    def encode(self, rows):
        return [
            Item(rows.trace_ids[build], span_id, time_ns, name, (b'{"n":1}',), 7)
            for build, span_id, time_ns, name in zip(
                rows.build_of_row.tolist(),
                rows.span_ids,
                rows.start_ns.tolist(),
                rows.names(),
                strict=True,
            )
        ]

    def send(self, items):
        with self._lock:
            self.requests.append(list(items))
            reply = self.replies.pop(0) if self.replies else self.accept
            if isinstance(reply, Exception):
                raise reply
            return reply(items)

    def trace_link(self, trace_id, *, start_ns, end_ns):
        return None

    def page_link(self):
        return None

    def accept(self, items):
        self.stored.extend(items)
        return SendResult([ACCEPTED] * len(items), 1)

    def accept_and_raise(self, error: Exception) -> Reply:
        """Store everything, then raise, as if the response got lost."""

        def reply(items):
            self.stored.extend(items)
            raise error

        return reply

    def outcomes(self, **by_index) -> Reply:
        """Accept all items except those at given indexes: `outcomes(at_0=..., at_3=...)`."""
        special = {int(name.removeprefix("at_")): outcome for name, outcome in by_index.items()}

        def reply(items):
            results = [special.get(at, ACCEPTED) for at in range(len(items))]
            self.stored.extend(
                item for item, outcome in zip(items, results, strict=True) if outcome is ACCEPTED
            )
            return SendResult(results, 1)

        return reply


def too_large():
    return RequestTooLarge("too large", status=413, detail="too large")


def stored_once(destination, count):
    keys = [item.key for item in destination.stored]
    return len(keys) == len(set(keys)) == count
