"""The ledger's tables, the same on SQLite and PostgreSQL, and how they are opened and upgraded.

Trace ids are 16 bytes, item ids 8; `item_ids` columns are packed (`packed.py`). Times are Unix
seconds. No table holds a key, a token or the content of a span, except for the beginning of the
message with which a destination rejected it. Names begin with `bk_pipeline_`, so that the ledger
can share a database with Dagster's tables.

To change a table, raise `SCHEMA_VERSION` and add an upgrade to `UPGRADES`. Upgrades are plain
functions instead of a migration tool's scripts: each is a few lines of SQL, and runs in the
transaction that also raises the version, so it is applied completely or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
    update,
)

from bk_pipeline.errors import NoLedger, StorageError
from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.sqlite import open_sqlite

SCHEMA_VERSION = 4


class Outcome(IntEnum):
    """The outcome of settled items. The numbers are stored and must never change."""

    ACCEPTED = 1
    REJECTED = 2
    PRESUMED = 3  # in doubt, and presumed sent because the guarantee is "at most once"


metadata = MetaData()

schema_version = Table(
    "bk_pipeline_ledger_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)

# One row. `id` is random and created with the ledger; copies and backups have the same one.
# `predates_records`: it was in use before span stores kept delivery records.
identity = Table(
    "bk_pipeline_ledger_identity",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("predates_records", Boolean, nullable=False),
)

destinations = Table(
    "bk_pipeline_destinations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
)

# Settled items: one row for each build and outcome.
outcomes = Table(
    "bk_pipeline_outcomes",
    metadata,
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), primary_key=True),
    Column("trace_id", LargeBinary(16), primary_key=True),
    Column("outcome", SmallInteger, primary_key=True, autoincrement=False),
    Column("day", String(10), nullable=False),
    Column("item_ids", LargeBinary, nullable=False),
    Index("bk_pipeline_outcomes_of_day", "destination_id", "day"),
)

# How far each ledger has delivered a day, as far as this one knows. In its own row, `count` is
# incremented before the first batch of a delivery and after each part, and `settled_bytes` is the
# length of all `item_ids` of the day at that time. Rows of other ledgers come from `adopt` and
# `--resend`.
deliveries = Table(
    "bk_pipeline_deliveries",
    metadata,
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("ledger", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("settled_bytes", BigInteger, nullable=False),
)

# Details of items with `Outcome.REJECTED`, one row for each.
rejections = Table(
    "bk_pipeline_rejections",
    metadata,
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), primary_key=True),
    Column("trace_id", LargeBinary(16), primary_key=True),
    Column("item_id", LargeBinary(8), primary_key=True),
    Column("day", String(10), nullable=False),
    Column("span_name", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rejected_at", BigInteger, nullable=False),
)

# Batches that were sent, or are about to be, and are not settled.
batches = Table(
    "bk_pipeline_batches",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), nullable=False),
    Column("day", String(10), nullable=False),
    Column("sent_at", BigInteger, nullable=False),
    Index("bk_pipeline_batches_of_day", "destination_id", "day"),
)

in_doubt = Table(
    "bk_pipeline_in_doubt",
    metadata,
    Column("batch_id", ForeignKey("bk_pipeline_batches.id"), primary_key=True),
    Column("trace_id", LargeBinary(16), primary_key=True),
    Column("item_ids", LargeBinary, nullable=False),
)

# Span parts whose spans are all settled.
delivered_parts = Table(
    "bk_pipeline_delivered_parts",
    metadata,
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("part", Text, primary_key=True),
)

# The sampling thresholds of builds that were sent as one of several; the others have no row.
sampled = Table(
    "bk_pipeline_sampled",
    metadata,
    Column("destination_id", ForeignKey("bk_pipeline_destinations.id"), primary_key=True),
    Column("trace_id", LargeBinary(16), primary_key=True),
    Column("threshold", BigInteger, nullable=False),
)

# Markers that this program placed, by what they mark. `place` is host, team and environment;
# `digest` is that of the content last sent.
markers = Table(
    "bk_pipeline_markers",
    metadata,
    Column("place", Text, primary_key=True),
    Column("dataset", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("trace_id", LargeBinary(16), primary_key=True),
    Column("span_id", LargeBinary(8), primary_key=True),
    Column("day", String(10), nullable=False),
    Column("marker_id", Text, nullable=False),
    Column("digest", LargeBinary(8), nullable=False),
    Index("bk_pipeline_markers_of_day", "place", "day"),
)

# Span parts for which all markers of these rules are placed.
marked_parts = Table(
    "bk_pipeline_marked_parts",
    metadata,
    Column("place", Text, primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("part", Text, primary_key=True),
    Column("rules", Text, nullable=False),
)


def _add_markers(connection: Connection) -> None:
    metadata.create_all(connection, tables=[markers, marked_parts])


def _add_deliveries(connection: Connection) -> None:
    metadata.create_all(connection, tables=[identity, deliveries])
    for index in outcomes.indexes:
        index.create(connection, checkfirst=True)
    used = any(
        connection.execute(select(table.c.day).limit(1)).first()
        for table in (outcomes, batches, delivered_parts)
    )
    _create_identity(connection, predates_records=used)
    _normalize_otlp_names(connection)


def _add_sampled(connection: Connection) -> None:
    metadata.create_all(connection, tables=[sampled])


def _normalize_otlp_names(connection: Connection) -> None:
    """Remove repeated slashes from OTLP destination names, or all would be sent again."""
    names = {row.name: row.id for row in connection.execute(select(destinations))}
    for name, number in names.items():
        endpoint, separator, account = name.partition("#")
        host, *path = endpoint.split("/")
        normalized = f"{host}/{'/'.join(filter(None, path))}{separator}{account}"
        if name.startswith("otlp") and normalized not in names:
            of_number = destinations.c.id == number
            connection.execute(update(destinations).where(of_number).values(name=normalized))


def _create_identity(connection: Connection, *, predates_records: bool) -> None:
    """Give the ledger its identity, if it has none."""
    if connection.execute(select(identity)).first() is None:
        values = {"id": uuid4().hex, "predates_records": predates_records}
        connection.execute(insert(identity), values)


# `UPGRADES[n]` upgrades the tables from version n to n + 1.
UPGRADES: Mapping[int, Callable[[Connection], None]] = {
    1: _add_markers,
    2: _add_deliveries,
    3: _add_sampled,
}


def upgrade_schema(
    database: Database,
    *,
    create: bool = True,
    upgrades: Mapping[int, Callable[[Connection], None]] = UPGRADES,
    version: int = SCHEMA_VERSION,
) -> None:
    """Create the tables or upgrade them to `version`.

    Safe to run in several processes at once.

    Args:
        database: The ledger's database.
        create: Whether to create missing tables.
        upgrades: The upgrade steps by the version they start from.
        version: The version to upgrade to.

    Raises:
        NoLedger: There are no tables, and `create` is not set.
        StorageError: The tables are of a newer version.
    """
    with database.read() as connection:
        found = _version(connection)
    if found == version:
        return
    if found is None and not create:
        raise no_ledger_error(database.where)
    with database.dialect.schema_lock(database), database.write() as connection:
        found = _version(connection)
        if found is None:
            metadata.create_all(connection)
            _create_identity(connection, predates_records=False)
            database.dialect.tune_tables(connection)
        elif found > version:
            raise StorageError(
                f"The ledger {database.where} has schema version {found}, and this version of "
                f"bk_pipeline supports at most {version}. Install the version that wrote it, or a newer one."
            )
        else:
            for step in range(found, version):
                upgrades[step](connection)
        connection.execute(delete(schema_version))
        connection.execute(insert(schema_version).values(version=version))


def no_ledger_error(where: str) -> NoLedger:
    """Return the error for a command that reads a ledger that does not exist."""
    return NoLedger(
        f"There is no ledger at {where} yet: nothing has been delivered from here. If it "
        "should be elsewhere, set BK_PIPELINE_LEDGER_URL, BK_PIPELINE_DATA_DIR or DAGSTER_HOME."
    )


def _version(connection: Connection) -> int | None:
    """Return the version of the tables; None if there are none."""
    if not inspect(connection).has_table(schema_version.name):
        return None
    return connection.execute(select(schema_version.c.version)).scalar()


SQLITE = "sqlite:///"


def open_database(where: Path | str, *, busy_timeout_s: float, create: bool) -> Database:
    """Open the database at a path or URL, and create or upgrade its tables.

    Args:
        where: A path or `sqlite:///path` for a file, any other URL for PostgreSQL.
        busy_timeout_s: How long to wait for other writers, in seconds.
        create: Whether to create a missing ledger.

    Raises:
        ConfigError: The URL is malformed.
        NoLedger: There is no ledger yet, and `create` is not set.
        RetryableError: The database cannot be reached, or is busy.
        StorageError: The database cannot be used.
    """
    text = str(where)
    if "://" in text and not text.startswith(SQLITE):
        # Here, because most ledgers are files, and psycopg takes a while to import.
        from bk_pipeline.ledger.postgres import open_postgres  # noqa: PLC0415

        database = open_postgres(text, busy_timeout_s=busy_timeout_s)
    else:
        path = Path(text.removeprefix(SQLITE)).expanduser().absolute()
        if not create and not path.exists():
            raise no_ledger_error(str(path))
        database = open_sqlite(path, busy_timeout_s=busy_timeout_s)
    upgrade_schema(database, create=create)
    return database
