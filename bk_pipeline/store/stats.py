"""The statistics' store: of each table a file a day, replaced whole."""

from __future__ import annotations

import pyarrow as pa

from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import PARQUET

STATS = "stats"
MADE_OF = b"bk_pipeline.made_of"


class StatsStore:
    """The tables of all days in a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def write(self, table: str, day: str, rows: pa.Table, *, made_of: str) -> None:
        """Put `rows`, and a word on what they were made of, in place of what the day had."""
        schema = rows.schema.remove_metadata()
        with self._folder.parquet_writer(self._name(table, day), schema) as writer:
            writer.write_table(rows.cast(schema))
            writer.add_key_value_metadata({MADE_OF: made_of})

    def made_of(self, table: str, day: str) -> str | None:
        """What the day's rows were made of; None if there are none."""
        if day not in self.days(table):
            return None
        with self._folder.parquet_file(self._name(table, day)) as file:
            content: bytes = (file.metadata.metadata or {})[MADE_OF]
            return content.decode()

    def read(self, table: str, day: str) -> pa.Table:
        with self._folder.parquet_file(self._name(table, day)) as file:
            return file.read()

    def days(self, table: str) -> list[str]:
        """The days that `table` has, in order."""
        names = self._folder.names(f"{STATS}/{table}", suffix=PARQUET)
        return [name.removesuffix(PARQUET) for name in names]

    def _name(self, table: str, day: str) -> str:
        return f"{STATS}/{table}/{day}{PARQUET}"
