"""Our errors as Dagster's: the one place where the two meet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from bk_pipeline.errors import PipelineError, RetryableError
from bk_pipeline.http.retry import LONGEST_WAIT_S

RETRY_PAUSE_S = 30.0
# Metadata of a failure: the name of our error's class.
ERROR = "error"


class TickFailed(dg.DagsterError):
    """A sensor or schedule could not do its work. Dagster shows its own kind unwrapped."""


@contextmanager
def as_dagster_failures(
    *, retries: int, on_retry: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Inside, our errors become a failure of the step that shows their sentence first.

    Only what may pass by itself is tried again, up to `retries` times; a refused token
    fails at once. `on_retry` is called with a sentence before Dagster waits for that.
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
    return dg.Failure(str(error), metadata={ERROR: type(error).__name__}, allow_retries=False)


@contextmanager
def as_tick_failures() -> Iterator[None]:
    """Inside, our errors become a failed tick that shows their sentence first."""
    try:
        yield
    except PipelineError as exc:
        raise TickFailed(str(exc)) from exc
