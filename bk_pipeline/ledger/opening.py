"""Opening the ledger's database, whichever it is."""

from __future__ import annotations

from pathlib import Path

from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.postgres import open_postgres
from bk_pipeline.ledger.schema import bring_up_to_date, no_ledger
from bk_pipeline.ledger.sqlite import open_sqlite

SQLITE = "sqlite:///"


def open_database(where: Path | str, *, busy_timeout_s: float, create: bool) -> Database:
    """The database at a path or URL, with this version's tables.

    Args:
        where: A path or `sqlite:///path`: that file. Any other URL: PostgreSQL.
        busy_timeout_s: How long to wait while others write.
        create: Whether to make what is missing.

    Raises:
        ConfigError: It is no such URL.
        NoLedger: There is no ledger yet, and none shall be made.
        RetryableError: It cannot be reached, or is busy.
        StorageError: It cannot be used.
    """
    text = str(where)
    if "://" in text and not text.startswith(SQLITE):
        database = open_postgres(text, busy_timeout_s=busy_timeout_s)
    else:
        path = Path(text.removeprefix(SQLITE)).expanduser().absolute()
        if not create and not path.exists():
            raise no_ledger(str(path))
        database = open_sqlite(path, busy_timeout_s=busy_timeout_s)
    bring_up_to_date(database, create=create)
    return database
