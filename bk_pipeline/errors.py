"""The error tree. Its branches say what the caller does next.

    PipelineError
    ├─ ConfigError             fix the environment or the arguments   exit 2
    ├─ RetryableError          try later; may know when                exit 75
    │  ├─ QuotaSpent           Buildkite's rate limit was hit
    │  ├─ BudgetSpent          a day's bytes for logs and artifacts are used up
    │  ├─ ServiceUnavailable   5xx, timeouts, broken connections
    │  └─ DeliveryThrottled    a destination asked to slow down
    ├─ FatalError              the same call fails again               exit 1
    │  ├─ TokenRefused         401
    │  ├─ AccessDenied         403
    │  ├─ NotFound             404
    │  │  └─ Gone              a log or artifact that was deleted or is no longer kept
    │  ├─ RequestRefused       any other 4xx
    │  │  └─ RequestTooLarge   a smaller request may pass
    │  ├─ ListingTooDeep       a window cannot be split further
    │  ├─ AnswerTooLarge       a response exceeds what we hold in memory; a smaller request may do
    │  ├─ UnexpectedAnswer     a 2xx that is not what the service documents
    │  ├─ StorageError         the data directory or the ledger cannot be used
    │  │  └─ DamagedFile       a file was quarantined; the same call goes on without it
    │  ├─ NoLedger             nothing has been delivered yet
    │  └─ LedgerBehind         spans were delivered that the ledger does not know
    └─ RecordError             quarantine one record, go on

A message says what failed, on which id, what was seen against what was expected, and what to do,
in one or two sentences. It never contains a token, a payload or an unredacted URL. Values that a
caller acts on are attributes too.
"""

from __future__ import annotations

from bk_pipeline.display import printable
from bk_pipeline.tokens import redact_tokens

# In place of the id of a record that has none, or must not show it.
UNNAMED = "record without an id"


class PipelineError(Exception):
    """Base of all errors that this package raises on purpose.

    Anything in the message that looks like a token is redacted, in case one was put where it does
    not belong.

    Attributes:
        exit_status: The command line's exit status.
    """

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_tokens(printable(message)))


class ConfigError(PipelineError):
    """A setting or argument is missing or malformed; the message names it and what to do."""

    exit_status = 2


class RetryableError(PipelineError):
    """The same call may succeed later.

    Attributes:
        retry_in_s: Seconds after which the service asked to try again; None if it did not say.
    """

    exit_status = 75

    def __init__(self, message: str, *, retry_in_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_in_s = retry_in_s


class QuotaSpent(RetryableError):
    """Buildkite answered 429, or would: send no request before `retry_in_s` has passed."""


class BudgetSpent(RetryableError):
    """The bytes that a day may take for logs and artifacts are used up."""


class ServiceUnavailable(RetryableError):
    """The service did not answer, or answered 5xx.

    Attributes:
        maybe_processed: Whether the request may have taken effect although no answer arrived.
    """

    def __init__(
        self, message: str, *, retry_in_s: float | None = None, maybe_processed: bool = True
    ) -> None:
        super().__init__(message, retry_in_s=retry_in_s)
        self.maybe_processed = maybe_processed


class DeliveryThrottled(RetryableError):
    """A destination answered 429 for a request or for some of its spans."""


class FatalError(PipelineError):
    """The same call fails again until something outside the program changes."""


class TokenRefused(FatalError):
    """401: the service does not know the token or key."""


class AccessDenied(FatalError):
    """403: the token or key is known but may not do this."""


class NotFound(FatalError):
    """404: no such thing, or not visible to this token."""


class Gone(NotFound):
    """A log or an artifact was deleted, or is kept no longer; its job may still be there."""


class RequestRefused(FatalError):
    """Another 4xx: the service refuses this request however often it is sent.

    Attributes:
        status: The HTTP status.
        detail: The service's own message, truncated.
    """

    def __init__(self, message: str, *, status: int, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class RequestTooLarge(RequestRefused):
    """The request is too large for the service; a smaller one may pass."""


class ListingTooDeep(FatalError):
    """More builds in one second than Buildkite lists; only fewer pipelines help."""


class AnswerTooLarge(FatalError):
    """A response is larger than the caller accepts; a smaller request may have a smaller one."""


class UnexpectedAnswer(FatalError):
    """A success status with a body that the service does not document, like a proxy's page."""


class StorageError(FatalError):
    """The data directory or the ledger cannot be read or written."""


class DamagedFile(StorageError):
    """A file of the data directory was damaged and has been quarantined.

    The same call succeeds without the file; its content is fetched or rebuilt.

    Attributes:
        name: The file's path in the data directory.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class NoLedger(FatalError):
    """A command reads a ledger that no delivery has created yet."""


class LedgerBehind(FatalError):
    """Spans were delivered that the ledger does not know; going on would send them twice."""


class RecordError(PipelineError):
    """One record cannot be used; the others can.

    Attributes:
        record_id: The id found in the record; None without one.
        reason: What is wrong, with the path of the wrong value.
    """

    def __init__(self, reason: str, *, record_id: str | None = None) -> None:
        super().__init__(f"{record_id or UNNAMED}: {reason}")
        self.record_id = record_id
        self.reason = reason
