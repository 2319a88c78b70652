"""Reports of span tables that tests write, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

from bk_pipeline.analysis.period import Period, PeriodStats, period_stats
from bk_pipeline.analysis.sql import Database
from bk_pipeline.report.blocks import Heading, Picture
from bk_pipeline.report.compose import blocks_of
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline_tests.builders import make_trace
from bk_pipeline_tests.insides import write_insides

UTC = ZoneInfo("UTC")
SVG = "{http://www.w3.org/2000/svg}"
PART = SpanPart("20260301T000000.000000Z-00000000", "aaaaaaaa")


def spans_of(*builds):
    """The span table of builds."""
    return table_of([make_trace(one) for one in builds])


@contextmanager
def database_of(days, insides=None):
    """The views over span tables: a dict from a day to a table or a list of tables.

    `insides` is a dict from a day to rows of `insides_of`.
    """
    with TemporaryDirectory() as folder:
        store = SpanStore(Folder(str(Path(folder))))
        for day, tables in days.items():
            listed = tables if isinstance(tables, list) else [tables]
            store.write(str(day), PART, listed, PartSummary())
        for day, table in (insides or {}).items():
            write_insides(store, str(day), table)
        datasets = store.datasets()
        with Database(datasets.single, datasets.several, memory_mib=512) as database:
            yield database


def stats_of(days, period: Period, insides=None, **options) -> PeriodStats:
    """The numbers of a period."""
    with database_of(days, insides) as database:
        return period_stats(period, database, **options)


def day_of(key: str, zone=UTC) -> Period:
    return Period.ending("day", date.fromisoformat(key), ZoneInfo(str(zone)))


def report_of(stats: PeriodStats, tables=(), **options):
    """The blocks of a report; `tables` have the spans of its builds."""
    found = {"spans_of": lambda _, trace_id: _trace(tables, trace_id), "link_of": lambda *_: None}
    return blocks_of(stats, **(found | options))


def day_report(key: str, table, *, zone=UTC, **options):
    """The blocks of the report of one day with one span table."""
    return report_of(stats_of({key: table}, day_of(key, zone)), [table], **options)


def _trace(tables, trace_id):
    return [row for table in tables for row in rows(table) if row["trace_id"] == trace_id]


def section(blocks, title: str):
    """The blocks below a heading; those before the first one for an empty title."""
    found, current = {"": []}, ""
    for block in blocks:
        if isinstance(block, Heading):
            current = block.text
            found[current] = []
        else:
            found[current].append(block)
    return found[title]


def only(kind, blocks):
    """The only block of a kind."""
    [found] = [block for block in blocks if isinstance(block, kind)]
    return found


def cells(table) -> list[list[str]]:
    """The texts of a table, its heads first."""
    return [
        [one.head for one in table.columns],
        *([cell.text for cell in row] for row in table.rows),
    ]


def words_in(picture: Picture) -> list[str]:
    """The texts of a picture."""
    root = ET.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg"
    return [one.text for one in root.iter(f"{SVG}text")]


def pictures(blocks: Sequence) -> list[Picture]:
    return [block for block in blocks if isinstance(block, Picture)]


def markdown_links(text: str) -> set[str]:
    return set(re.findall(r"(?<!\\)\]\(([a-z]+:[^,)]*)", text))
