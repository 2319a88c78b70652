"""Making the tables, and bringing those of an older version up to date.

Plain steps instead of a migration tool: each is a few lines of SQL in the transaction in
which the version is raised too, so that a step is done wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, inspect, select, update

from bk_pipeline.errors import NoLedger, StorageError
from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.postgres import open_postgres
from bk_pipeline.ledger.sqlite import open_sqlite
from bk_pipeline.ledger.tables import (
    SCHEMA_VERSION,
    batches,
    delivered_parts,
    deliveries,
    destinations,
    identity,
    marked_parts,
    markers,
    metadata,
    outcomes,
    schema_version,
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
    _name(connection, predates_records=used)
    _spell_once(connection)


def _spell_once(connection: Connection) -> None:
    """Know OTLP endpoints whatever number of slashes their paths have; else all is sent again."""
    names = {row.name: row.id for row in connection.execute(select(destinations))}
    for name, number in names.items():
        place, mark, account = name.partition("#")
        host, *path = place.split("/")
        spelled = f"{host}/{'/'.join(filter(None, path))}{mark}{account}"
        if name.startswith("otlp") and spelled not in names:
            of_number = destinations.c.id == number
            connection.execute(update(destinations).where(of_number).values(name=spelled))


def _name(connection: Connection, *, predates_records: bool) -> None:
    """Give the ledger its identity, once."""
    if connection.execute(select(identity)).first() is None:
        values = {"id": uuid4().hex, "predates_records": predates_records}
        connection.execute(insert(identity), values)


# `UPGRADES[n]` makes of the tables of version n those of version n + 1.
UPGRADES: Mapping[int, Callable[[Connection], None]] = {1: _add_markers, 2: _add_deliveries}


def bring_up_to_date(
    database: Database,
    *,
    create: bool = True,
    upgrades: Mapping[int, Callable[[Connection], None]] = UPGRADES,
    wanted: int = SCHEMA_VERSION,
) -> None:
    """Leave the tables as this version of the program has them.

    Several processes may do this at once with one fresh database.

    Args:
        database: Where.
        create: Whether to make the tables if there are none.
        upgrades: How to bring up older tables.
        wanted: The version to bring them to.

    Raises:
        NoLedger: There are no tables, and none shall be made.
        StorageError: A newer version of the program has been here.
    """
    with database.read() as connection:
        found = _version(connection)
    if found == wanted:
        return
    if found is None and not create:
        raise no_ledger(database.where)
    with database.dialect.changing_schema(database), database.write() as connection:
        found = _version(connection)
        if found is None:
            metadata.create_all(connection)
            _name(connection, predates_records=False)
            database.dialect.tune(connection)
        elif found > wanted:
            raise StorageError(
                f"The ledger {database.where} has schema {found}, and this version of bk_pipeline knows "
                f"none above {wanted}. Install the version that wrote it, or a newer one."
            )
        else:
            for version in range(found, wanted):
                upgrades[version](connection)
        connection.execute(delete(schema_version))
        connection.execute(insert(schema_version).values(version=wanted))


def no_ledger(where: str) -> NoLedger:
    """The error for who only wants to look at a ledger."""
    return NoLedger(
        f"There is no ledger at {where} yet: nothing has been delivered from here. If it "
        "should be elsewhere, set BK_PIPELINE_LEDGER_URL, BK_PIPELINE_DATA_DIR or DAGSTER_HOME."
    )


def _version(connection: Connection) -> int | None:
    """The version of the tables; None if there are none."""
    if not inspect(connection).has_table(schema_version.name):
        return None
    return connection.execute(select(schema_version.c.version)).scalar()


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
