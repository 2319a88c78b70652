"""Errors of ours as Dagster's failures: the one place where the two meet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from bk_pipeline.defs.metadata import cleaned
from bk_pipeline.errors import PipelineError, RetryableError
from bk_pipeline.http.retry import LONGEST_WAIT_S

RETRY_PAUSE_S = 30.0
# Metadata of a failure: the class of the error.
ERROR = "error"


class TickFailed(dg.DagsterError):
    """A sensor or schedule could not do its work. Dagster shows its own kind unwrapped."""


@contextmanager
def as_dagster_failures(
    *, retries: int, on_retry: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Turn errors of ours into a failure of the step that shows their message first.

    Only a `RetryableError` is retried.

    Args:
        retries: How often.
        on_retry: Called with a message before Dagster waits for a retry.
    """
    try:
        yield
    except RetryableError as exc:
        # Dagster waits inside of the run, which holds its slot in the pool meanwhile.
        pause_s = min(max(exc.retry_in_s or 0.0, RETRY_PAUSE_S), LONGEST_WAIT_S)
        if retries:
            if on_retry is not None:
                on_retry(f"{exc} Unless this was the last retry, one follows in {pause_s:.0f} s.")
            raise dg.RetryRequested(max_retries=retries, seconds_to_wait=pause_s) from exc
        raise _failure(exc) from exc
    except PipelineError as exc:
        raise _failure(exc) from exc


def _failure(error: PipelineError) -> dg.Failure:
    return dg.Failure(
        str(error), metadata=cleaned({ERROR: type(error).__name__}), allow_retries=False
    )


@contextmanager
def as_tick_failures() -> Iterator[None]:
    """Turn errors of ours into a failed tick that shows their message first."""
    try:
        yield
    except PipelineError as exc:
        raise TickFailed(str(exc)) from exc
