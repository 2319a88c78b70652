"""The asset of the week's and the month's report: one click, and numbers that Dagster plots."""

from __future__ import annotations

from datetime import date, timedelta

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.report.markdown import LARGEST_PICTURE_BYTES
from bk_pipeline.settings import Settings
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanStore
from bk_pipeline_tests.report.made import PART
from bk_pipeline_tests.report.test_compose import LAST, days_of

FIRST = LAST - timedelta(days=39)


@pytest.fixture
def app(tmp_path):
    store = SpanStore(Folder(str(tmp_path)))
    for day, table in days_of(40, pipelines=("shop", "web")).items():
        store.write(day, PART, [table], PartSummary())
    settings = {"BK_PIPELINE_DATA_DIR": str(tmp_path), "BK_PIPELINE_START_DATE": str(FIRST)}
    return App(Settings.of(**settings), retries=0)


def materialized(app, day: date, **options):
    job = build_definitions(app).resolve_job_def("find_changes")
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, partition_key=str(day), **options)
        if not done.success:
            return done
        [event] = done.asset_materializations_for_node("build_report")
        return {name: one.value for name, one in event.metadata.items()}


def test_week_and_month_are_reported_with_numbers(app):
    shown = materialized(app, LAST)
    for name in ("week", "month"):
        text = shown[f"report of the {name}"]
        assert "### Trends and changes" in text
        assert "data:image/svg+xml" in text
        assert len(text) < 3 * LARGEST_PICTURE_BYTES
    assert (shown["builds, week"], shown["builds, month"]) == (14, 60)
    assert shown["failure rate, week"] == 0
    assert shown["median duration in seconds, month"] > 60
    assert "cost, week" not in shown


def test_a_period_without_builds_is_reported_too(app, tmp_path):
    empty = App(
        Settings.of(
            BK_PIPELINE_DATA_DIR=str(tmp_path / "empty"), BK_PIPELINE_START_DATE=str(FIRST)
        ),
        retries=0,
    )
    assert materialized(empty, LAST) == {
        "report of the week": "No build that was created in this period has finished.",
        "report of the month": "No build that was created in this period has finished.",
        "builds, week": 0,
        "builds, month": 0,
    }


def test_a_damaged_file_is_named(app, tmp_path):
    [path] = (tmp_path / "spans" / str(LAST)).iterdir()
    path.write_bytes(b"PAR1 broken")
    done = materialized(app, LAST, raise_on_error=False)
    messages = [
        event.event_specific_data.error.message
        for event in done.all_events
        if event.is_step_failure
    ]
    assert any(str(LAST) in one and "damaged" in one for one in messages)
