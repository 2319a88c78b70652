"""Making the tables, and bringing those of an older version up to date.

Plain steps instead of a migration tool: each is a few lines of SQL in the transaction in
which the version is raised too, so that a step is done wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, delete, insert, inspect, select

from bk_pipeline.errors import NoLedger, StorageError
from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.tables import (
    SCHEMA_VERSION,
    marked_parts,
    markers,
    metadata,
    schema_version,
)


def _add_markers(connection: Connection) -> None:
    metadata.create_all(connection, tables=[markers, marked_parts])


# `UPGRADES[n]` makes of the tables of version n those of version n + 1.
UPGRADES: Mapping[int, Callable[[Connection], None]] = {1: _add_markers}


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
