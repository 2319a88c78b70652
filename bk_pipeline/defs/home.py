"""DAGSTER_HOME as the command line uses it: Dagster's own records, for the UI to show."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

from bk_pipeline.errors import StorageError

# A home that we make: quiet. One that is there already is left as it is.
HOME_CONFIG = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"


def local_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, or of `.dagster` here, which `make dev` uses too.

    Raises:
        StorageError: It cannot be made or opened.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()
    with explained(str(home)):
        home.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        if not config.exists():
            config.write_text(HOME_CONFIG)
        return dg.DagsterInstance.from_config(str(home))


@contextmanager
def explained(home: str) -> Iterator[None]:
    """Inside, what Dagster's database and its folder complain of comes out in our words."""
    try:
        yield
    except (OSError, DBAPIError) as exc:
        words = exc.orig if isinstance(exc, DBAPIError) else exc.strerror
        raise StorageError(
            f"Dagster cannot keep its records in {home}: {words}. Make room there, or set "
            "DAGSTER_HOME to another folder; what was delivered is not sent again."
        ) from exc
