"""`bk-pipeline report` writes one file, and says what it is about."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanStore
from bk_pipeline_tests.report.made import PART
from bk_pipeline_tests.report.test_compose import LAST, Page, days_of


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path / "data"))
    store = SpanStore(Folder(str(tmp_path / "data")))
    for day, table in days_of(16).items():
        store.write(day, PART, [table], PartSummary())
    return tmp_path


def test_a_week_is_written_by_default(stored, call):
    done = call("report", BUILDKITE_ORGANIZATION_SLUG="acme")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "report.html: 2026-03-23 to 2026-03-29: 7 builds of 1 pipeline (7 in the 7 days before); "
    )
    page = Page((stored / "report.html").read_text())
    assert "Builds of acme: 2026-03-23 to 2026-03-29" in page.texts
    assert "svg" in page.tags
    assert (stored / "report.html").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("period", "builds"), [("day", 1), ("week", 7), ("month", 14)])
def test_a_period_ends_with_the_day_that_is_asked_for(stored, call, period, builds):
    until = str(LAST - timedelta(days=2))
    done = call("report", "--period", period, "--until", until, "--output", "some.html")
    assert done.returncode == 0, done.stderr
    assert f"{until}: {builds} build" in done.stdout
    assert until in (stored / "some.html").read_text()


def test_hours_and_days_are_those_of_the_time_zone(stored, call):
    done = call("report", "--period", "day", BK_PIPELINE_TIMEZONE="Asia/Tokyo")
    assert done.returncode == 0, done.stderr
    text = (stored / "report.html").read_text()
    assert "in Asia/Tokyo" in text
    assert "created, Asia/Tokyo" in text
    assert "18:00" in text  # 09:00 UTC


def test_days_without_builds_are_reported_as_such(stored, call):
    done = call("report", "--until", "2026-01-05")
    assert done.returncode == 0, done.stderr
    assert "No build that was created in this period has finished." in done.stdout


def test_without_stored_spans_it_says_what_to_do(tmp_path, call, monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path / "empty"))
    done = call("report")
    assert done.returncode == 1
    assert "bk-pipeline backfill" in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_file_that_cannot_be_written_is_named(stored, call):
    done = call("report", "--output", "missing/report.html")
    assert done.returncode == 1
    assert "missing/report.html" in done.stderr
