"""The columns of our tables as Dagster shows them: from where they are declared."""

import dagster as dg
import pyarrow as pa

from bk_pipeline.analysis.columns import StatsTable
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.table import IDENTITY_COLUMN_MEANINGS, SCHEMA


def span_columns() -> dg.TableSchema:
    """Those of the span table."""
    identity = [
        dg.TableColumn(name, type=_type(SCHEMA.field(name).type), description=meaning)
        for name, meaning in IDENTITY_COLUMN_MEANINGS.items()
    ]
    attributes = [
        dg.TableColumn(
            field.name,
            type=str(field.type),
            description=f"{field.meaning} From {field.source}.",
            tags={"unit": field.unit} if field.unit else None,
        )
        for field in FIELDS
    ]
    return dg.TableSchema(identity + attributes)


def _type(arrow: pa.DataType) -> str:
    """What people call it: that words are kept in a dictionary is no concern of theirs."""
    if pa.types.is_list(arrow):
        return "list"
    return str(arrow.value_type if pa.types.is_dictionary(arrow) else arrow)


def stats_columns(table: StatsTable) -> dg.TableSchema:
    """Those of a table of `build_stats`."""
    return dg.TableSchema(
        [
            dg.TableColumn(one.name, type=str(one.type), description=one.meaning)
            for one in table.columns
        ]
    )
