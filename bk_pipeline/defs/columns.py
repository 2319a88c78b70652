"""The columns of our tables as Dagster shows them: from where they are declared."""

import dagster as dg

from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.table import IDENTITY_MEANINGS, SCHEMA
from bk_pipeline.stats.columns import StatsTable


def span_columns() -> dg.TableSchema:
    """Those of the span table."""
    identity = [
        dg.TableColumn(name, type=str(SCHEMA.field(name).type), description=meaning)
        for name, meaning in IDENTITY_MEANINGS.items()
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


def stats_columns(table: StatsTable) -> dg.TableSchema:
    """Those of a table of `build_stats`."""
    return dg.TableSchema(
        [
            dg.TableColumn(one.name, type=str(one.type), description=one.meaning)
            for one in table.columns
        ]
    )
