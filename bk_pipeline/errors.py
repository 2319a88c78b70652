"""Everything that can go wrong, as a tree whose branches say what the caller does next.

    PipelineError
    ├─ ConfigError             fix the environment or the arguments   exit 2
    ├─ RetryableError          try later; may know when                exit 75
    │  ├─ QuotaSpent           a rate limit of Buildkite's bites
    │  ├─ ServiceUnavailable   5xx, timeouts, broken connections
    │  └─ DeliveryThrottled    a destination asks us to slow down
    ├─ FatalError              the same call fails again               exit 1
    │  ├─ TokenRefused         401
    │  ├─ AccessDenied         403
    │  ├─ NotFound             404
    │  ├─ RequestRefused       any other 4xx
    │  │  └─ RequestTooLarge   a smaller request may pass
    │  ├─ ListingTooDeep       a window cannot be cut any finer
    │  ├─ AnswerTooLarge       an answer outgrows what we hold at once; a smaller question may do
    │  ├─ UnexpectedAnswer     a 2xx that is not what the service documents
    │  ├─ StorageError         the data directory or the ledger cannot be used
    │  │  └─ DamagedFile       a file was moved aside; the same call goes on without it
    │  ├─ NoLedger             nothing has been delivered yet
    │  └─ LedgerBehind         spans were delivered that the ledger does not know
    └─ RecordError             set one record aside, go on

A message says what failed, on which id, what was seen against what was expected, and
what happens next, in one or two sentences. It never holds a token, a payload or an
unredacted URL. The values in it are attributes too, where a caller acts on them.
"""

from __future__ import annotations

from bk_pipeline.tokens import without_tokens


class PipelineError(Exception):
    """Anything this package raises on purpose. `exit_status` is the command line's.

    What looks like a token in a message is redacted, wherever it was typed in by mistake.
    """

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_tokens(message))


class ConfigError(PipelineError):
    """A setting or argument is missing or malformed; the message names it and its remedy."""

    exit_status = 2


class RetryableError(PipelineError):
    """The same call may succeed later.

    Attributes:
        retry_in_s: Seconds after which the service said to try again; None if it did not say.
    """

    exit_status = 75

    def __init__(self, message: str, *, retry_in_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_in_s = retry_in_s


class QuotaSpent(RetryableError):
    """Buildkite answered 429, or would: no request may be made before `retry_in_s` has passed."""


class ServiceUnavailable(RetryableError):
    """The service did not answer, or answered 5xx.

    Attributes:
        maybe_processed: The request may have taken effect although no answer arrived.
    """

    def __init__(
        self, message: str, *, retry_in_s: float | None = None, maybe_processed: bool = True
    ) -> None:
        super().__init__(message, retry_in_s=retry_in_s)
        self.maybe_processed = maybe_processed


class DeliveryThrottled(RetryableError):
    """A destination answered 429 for a request or for some of its spans."""


class FatalError(PipelineError):
    """The same call fails again until somebody changes something outside."""


class TokenRefused(FatalError):
    """401: the service does not know the token or key."""


class AccessDenied(FatalError):
    """403: the token or key is known but may not do this."""


class NotFound(FatalError):
    """404: no such thing, or not visible to this token."""


class RequestRefused(FatalError):
    """Another 4xx: the service will not take this request however often it is sent.

    Attributes:
        status: The HTTP status.
        detail: The service's own message, truncated.
    """

    def __init__(self, message: str, *, status: int, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class RequestTooLarge(RequestRefused):
    """The service will not take a request of this size; one with less in it may pass."""


class ListingTooDeep(FatalError):
    """More builds in one second than Buildkite lists; only fewer pipelines help."""


class AnswerTooLarge(FatalError):
    """An answer is larger than the caller takes; the answer to a smaller question may not be."""


class UnexpectedAnswer(FatalError):
    """A successful status whose body is not what the service documents (a proxy's page, say)."""


class StorageError(FatalError):
    """The data directory or the ledger cannot be read or written."""


class DamagedFile(StorageError):
    """A file of the data directory holds no longer what was written, and was moved aside.

    The same call goes on without it: what it held is fetched, or made, again.

    Attributes:
        name: Its path in the data directory.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class NoLedger(FatalError):
    """Somebody wants to look at a ledger that no delivery has made yet."""


class LedgerBehind(FatalError):
    """Spans were delivered that the ledger does not know; to go on would send them twice."""


class RecordError(PipelineError):
    """One record cannot be used; the others can.

    Attributes:
        record_id: The id found in the record, or None.
        reason: What is wrong, with the path of the wrong value.
    """

    def __init__(self, reason: str, *, record_id: str | None = None) -> None:
        super().__init__(f"{record_id or 'record without an id'}: {reason}")
        self.record_id = record_id
        self.reason = reason
