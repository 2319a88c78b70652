"""The ledger's tables, the same on SQLite and PostgreSQL.

Trace ids are 16 bytes, item ids 8; `item_ids` columns are packed (`packed.py`). Times are Unix
seconds. No table holds a key, a token or the content of a span, except for the beginning of the
message with which a destination rejected it. Names begin with `bk_pipeline_`, so that the ledger
can share a database with Dagster's tables.

To change a table, raise `SCHEMA_VERSION` and add an upgrade step to `schema.py`.
"""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 3


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
