"""The interface between the delivery loop and its destinations, and the types they exchange.

A destination encodes and sends. It never waits, retries, splits batches or keeps state of what was
sent: the loop does that, once for all destinations. To add a destination, implement `Destination`
and add it to the contract tests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from bk_pipeline.contracts import ItemIds, Rejection
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.http.retry import RetryPolicy

# A trace id and an item id.
Key = tuple[bytes, bytes]


class Item(msgspec.Struct, frozen=True, gc=False):
    """A span, or a link of a span: the unit a destination accepts, rejects and bills.

    Attributes:
        trace_id: The trace id of the build (16 bytes).
        item_id: A stable id (8 bytes): the span id, or one derived for a link.
        time_ns: The start, in nanoseconds since 1970.
        name: The span name, for messages.
        pieces: The encoded item, ready to be framed, in pieces to be concatenated. Most of a span
            is the same for all spans of its build, so its bytes are shared until the request is
            built.
        size: The total size of the pieces, in bytes.
        trimmed: Whether the pieces hold less than the whole span, because that is too large.
        shared: Encoded data that a request contains once for all items that have it in common.
        also: More keys that the ledger settles together with the item's own. The caller leaves out
            items of which any key is settled.
    """

    trace_id: bytes
    item_id: bytes
    time_ns: int
    name: str
    pieces: tuple[bytes, ...]
    size: int
    trimmed: bool = False
    shared: bytes = b""
    also: tuple[Key, ...] = ()

    @property
    def body(self) -> bytes:
        """Copy the pieces into one; to send, join the pieces of all items at once instead."""
        return b"".join(self.pieces)

    @property
    def key(self) -> Key:
        """The trace id and the item id."""
        return self.trace_id, self.item_id


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request, before compression.

    Attributes:
        batch_bytes: The maximum size of the body, including framing and separators.
        batch_items: The maximum number of items.
        framing_bytes: The size of a body without items.
        separator_bytes: The size of the separator between two items.
        shared_framing_bytes: The maximum framing around each distinct `Item.shared`.
        max_concurrent_requests: The maximum number of concurrent requests, whatever the policy allows;
            None leaves it to the policy.
    """

    batch_bytes: int
    batch_items: int
    framing_bytes: int = 0
    separator_bytes: int = 0
    shared_framing_bytes: int = 0
    max_concurrent_requests: int | None = None


class Verdict(Enum):
    """The destination's decision about one item."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # permanently
    THROTTLED = "throttled"  # for now; retry later
    FAILED = "failed"  # for now, by a server error
    UNANSWERED = "unanswered"  # the response does not mention it: unknown


class Outcome(NamedTuple):
    """A verdict, with the destination's own message if it gave one."""

    verdict: Verdict
    message: str = ""


# In messages of success statuses: "Request dropped due to server side sampling".
_SENT = r"(?:events?|requests?|spans?|batch(?:es)?|traces?|payloads?|data ?points?)"
DROPPED = re.compile(
    rf"\b{_SENT}\b.*\b(?:dropped|discarded)\b|\b(?:dropp|discard)(?:ed|ing)\b.*\b{_SENT}\b"
    r"|^\W*(?:dropped|discarded)\b",
    re.IGNORECASE | re.DOTALL,
)
ACCEPTED = Outcome(Verdict.ACCEPTED)


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of one request.

    Attributes:
        outcomes: An outcome for each item, in the order of the request.
        sent_bytes: The size of the body as sent, compressed.
        rejected_unnamed: The number of accepted items that were rejected without being named.
        warning: A sentence with the destination's warning, or empty.
    """

    outcomes: Sequence[Outcome]
    sent_bytes: int
    rejected_unnamed: int = 0
    warning: str = ""


class Probe(NamedTuple):
    """What a destination's answer to a request without spans shows, for `bk-pipeline doctor`.

    Attributes:
        message: A sentence or two, without secrets.
        is_warning: Whether the user should know or do something.
    """

    message: str
    is_warning: bool = False


class Destination(Protocol):
    """A service that spans are sent to. Thread-safe."""

    @property
    def name(self) -> str:
        """The destination's id in the ledger: stable for the same place, and not secret.

        May ask the service for the account of the key, and so may raise what `send` raises.
        """
        ...

    @property
    def limits(self) -> Limits:
        """The limits of one request."""
        ...

    @property
    def columns(self) -> Sequence[str] | None:
        """The span table columns that `encode` and selection need; None for all."""
        ...

    @property
    def sampled(self) -> bool:
        """Whether sampling applies; not to metrics, which count everything."""
        ...

    @property
    def max_age(self) -> timedelta | None:
        """Spans that started longer ago are not sent; None sends spans of any age."""
        ...

    @property
    def max_age_by_end(self) -> bool:
        """Whether `max_age` is measured from a span's end instead of its start."""
        ...

    @property
    def max_age_description(self) -> str:
        """A sentence: which spans are too old, why, and which setting changes that."""
        ...

    @property
    def future_limit(self) -> timedelta | None:
        """Spans that start further in the future lose their time; None if none do."""
        ...

    @property
    def retry(self) -> RetryPolicy:
        """How long to retry one batch, and with what pauses."""
        ...

    def encode(self, rows: SpanRows) -> Sequence[Item]:
        """Return the items of `rows`, in the order in which they are to be sent. Pure.

        Unless the service needs another order, that is the order of the table: the items of a build
        follow each other, root first. So a sampler on the way sees a trace at once, and an
        interrupted delivery leaves few incomplete traces. No item is larger than a request may be.
        """
        ...

    def send(self, items: Sequence[Item]) -> SendResult:
        """Send `items` as one request and return their outcomes.

        Raises:
            RequestTooLarge: Nothing was accepted; fewer items may be.
            DeliveryThrottled: Nothing was accepted; the whole request was refused for now.
            ServiceUnavailable: No response, or a server error; `maybe_processed` says whether
                something may have been accepted.
            UnexpectedAnswer: It is unknown whether something was accepted.
            FatalError: Any other refusal; nothing was accepted.
            ConfigError: The request cannot be sent at all.
        """
        ...

    def probe(self) -> Probe:
        """Ask the service, without sending spans, whether it would accept them.

        Raises:
            PipelineError: It would not, or cannot be reached.
        """
        ...

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> str | None:
        """Return the URL of the page that shows a trace, or None if it is unknown.

        Args:
            trace_id: 32 hex digits, as in the span table.
            start_ns: The start of the root span, in nanoseconds since 1970.
            end_ns: The end of the root span, in nanoseconds since 1970.

        Raises:
            PipelineError: The service could not be asked for the account of the key, see `name`.
        """
        ...

    def page_link(self) -> str | None:
        """Return the URL of the page that shows what was sent, or None if it is unknown.

        Raises:
            PipelineError: The service could not be asked for the account of the key, see `name`.
        """
        ...

    def close(self) -> None:
        """Close the idle connections."""
        ...


class DeliveryLedger(Protocol):
    """The part of the ledger that the delivery loop needs. Thread-safe."""

    def settled(self, destination: str, trace_ids: Collection[bytes]) -> ItemIds:
        """Return the items of these traces that must not be sent (again)."""
        ...

    def in_doubt(self, destination: str, day: str) -> ItemIds:
        """Return the items of `day` that were sent and whose outcome is unknown."""
        ...

    def thresholds(self, destination: str, trace_ids: Collection[bytes]) -> Mapping[bytes, int]:
        """Return the sampling thresholds with which builds were sent."""
        ...

    def record_thresholds(
        self, destination: str, day: str, thresholds: Mapping[bytes, int]
    ) -> None:
        """Record the sampling thresholds with which builds are about to be sent."""
        ...

    def begin(self, destination: str, day: str, items: ItemIds) -> int:
        """Record a new batch as in doubt and return its number."""
        ...

    def begin_again(self, destination: str, day: str, batch: int) -> None:
        """Record that a batch in doubt is about to be sent again."""
        ...

    def accept(self, batch: int) -> None:
        """Record that a whole batch was accepted."""
        ...

    def settle(
        self,
        batch: int,
        *,
        accepted: ItemIds | None = None,
        rejected: Iterable[Rejection] = (),
        in_doubt: ItemIds | None = None,
    ) -> None:
        """Record the outcomes of a batch; items not named count as never sent."""
        ...

    def presume_sent(self, destination: str, day: str) -> int:
        """Record items of `day` in doubt as sent and return their number."""
        ...

    def drop_settled_doubts(self, destination: str, day: str) -> None:
        """Delete doubts about items of `day` that have been settled since."""
        ...
