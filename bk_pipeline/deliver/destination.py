"""What a destination is to the loop, and what passes between the two.

A destination encodes and sends; it never waits, tries again, splits or remembers. All that
is the loop's, once for all destinations. To add one, implement `Destination` and add it to
the contract tests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from bk_pipeline.contracts import ItemIds, Rejection
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.http.retry import RetryPolicy

# Trace id and item id.
Key = tuple[bytes, bytes]


class Item(msgspec.Struct, frozen=True, gc=False):
    """What a destination takes, answers and bills singly: a span, or a link of one.

    Attributes:
        trace_id: 16 bytes: the build's.
        item_id: 8 bytes, unchanging: the span's own id, or one derived for a link.
        time_ns: When it began, since 1970.
        name: The span's name, for people.
        pieces: Encoded, ready to be framed: these end to end. Apart, because what all spans
            of a build have is most of each, and is the same bytes for all until they leave.
        size: How long the pieces are, together.
        trimmed: The pieces hold less than the span, because all of it is too much.
        shared: Encoded, what a request says once for all of its items that have it in common.
    """

    trace_id: bytes
    item_id: bytes
    time_ns: int
    name: str
    pieces: tuple[bytes, ...]
    size: int
    trimmed: bool = False
    shared: bytes = b""

    @property
    def body(self) -> bytes:
        """The pieces as one. A copy: to send, join the pieces of all items at once."""
        return b"".join(self.pieces)

    @property
    def key(self) -> Key:
        return self.trace_id, self.item_id


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold, before compression.

    Attributes:
        batch_bytes: The whole body, with what frames and separates the items.
        batch_items: How many items.
        framing_bytes: What a body has besides its items.
        separator_bytes: What stands between two items.
        shared_framing_bytes: What frames what items have in common, at most, each time.
        requests_at_once: At most, whatever the policy allows; None: as many as it does.
    """

    batch_bytes: int
    batch_items: int
    framing_bytes: int = 0
    separator_bytes: int = 0
    shared_framing_bytes: int = 0
    requests_at_once: int | None = None


class Verdict(Enum):
    """What a destination says to one item."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # for good
    THROTTLED = "throttled"  # not now
    FAILED = "failed"  # not now, by the server's own fault
    UNANSWERED = "unanswered"  # the answer passes over it: nobody knows


class Outcome(NamedTuple):
    """A verdict, and the destination's own words if it gave any."""

    verdict: Verdict
    words: str = ""


# In the message of a success that is none: "Request dropped due to server side sampling".
DROPPED = re.compile(r"\b(event|request|span|batch)\w*\b.*\bdropped\b", re.IGNORECASE)
ACCEPTED = Outcome(Verdict.ACCEPTED)


@dataclass(frozen=True, slots=True)
class Answer:
    """One outcome for each item of a request, in its order, and the bytes that went out.

    Attributes:
        outcomes: Each item's.
        sent_bytes: The body's, compressed.
        rejected_unnamed: Of the accepted ones: so many were rejected, and nobody knows which.
        remark: What the destination has to say besides, as a sentence.
    """

    outcomes: Sequence[Outcome]
    sent_bytes: int
    rejected_unnamed: int = 0
    remark: str = ""


class Destination(Protocol):
    """Somewhere that spans go to. For several threads at once."""

    @property
    def name(self) -> str:
        """What the ledger knows it by: the same as long as it is the same place, and no secret.

        May ask the service who it is, and so raise what `send` raises.
        """
        ...

    @property
    def limits(self) -> Limits: ...

    @property
    def columns(self) -> Sequence[str] | None:
        """Of the span table, what has to be read for `encode` and `selection`; None: all."""
        ...

    @property
    def max_age(self) -> timedelta | None:
        """Spans that began longer ago are not sent; None: no span is too old."""
        ...

    @property
    def max_age_by_end(self) -> bool:
        """Whether `max_age` is counted from a span's end instead of its start."""
        ...

    @property
    def max_age_sentence(self) -> str:
        """Which spans are too old, why, and which setting changes that, for people."""
        ...

    @property
    def future_limit(self) -> timedelta | None:
        """Spans that begin further ahead do not keep their time there; None: all do."""
        ...

    @property
    def retry(self) -> RetryPolicy:
        """How long to try sending one batch, and with what pauses."""
        ...

    def encode(self, rows: SpanRows) -> Sequence[Item]:
        """The items of `rows`.

        In the order in which they are to leave. Where a service asks for no other, that is the
        table's: a build's items then leave one after the other, from its root on, so that a
        sampler on the way sees all of a trace at once, and a delivery that breaks off leaves
        few traces in pieces.

        Pure. None is larger than a request may be.
        """
        ...

    def send(self, items: Sequence[Item]) -> Answer:
        """What the destination says to `items`, sent as one request.

        Raises:
            RequestTooLarge: Fewer items may pass. Nothing was taken.
            DeliveryThrottled: The whole request was refused for now. Nothing was taken.
            ServiceUnavailable: No answer, or a failure; `maybe_processed` says whether
                something may have been taken.
            UnexpectedAnswer: Whether something was taken cannot be told.
            FatalError: Any other: refused, and nothing was taken.
            ConfigError: It cannot be sent at all.
        """
        ...

    def trace_link(self, trace_id: str, *, start_ns: int, end_ns: int) -> str | None:
        """The page where people see a trace; None if nobody knows where that is.

        Args:
            trace_id: 32 hex digits, as in the span table.
            start_ns: The root span's start, since 1970.
            end_ns: Its end.

        Raises:
            PipelineError: The destination had to be asked who we are, as for `name`.
        """
        ...


class Receipts(Protocol):
    """The ledger, as the loop sees it. For several threads at once."""

    def settled(self, destination: str, trace_ids: Collection[bytes]) -> ItemIds:
        """The items of these traces that must not be sent (again)."""
        ...

    def in_doubt(self, destination: str, day: str) -> ItemIds:
        """The items of `day` that left and whose answer is not known."""
        ...

    def begin(self, destination: str, day: str, items: ItemIds) -> int:
        """The number of a new batch, in doubt from now on."""
        ...

    def begin_again(self, destination: str, day: str, batch: int) -> None:
        """Note that a batch in doubt is about to be sent once more."""
        ...

    def accept(self, batch: int) -> None:
        """Write down that all of a batch was accepted."""
        ...

    def settle(
        self,
        batch: int,
        *,
        accepted: ItemIds | None = None,
        rejected: Iterable[Rejection] = (),
        in_doubt: ItemIds | None = None,
    ) -> None:
        """Write down what became of a batch; what is not named is as if never sent."""
        ...

    def presume_sent(self, destination: str, day: str) -> int:
        """Take for sent what is in doubt of `day`; how many items."""
        ...

    def drop_settled_doubts(self, destination: str, day: str) -> None:
        """Forget that items of `day` were in doubt where they have been settled since."""
        ...
