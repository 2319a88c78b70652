"""Dagster's UI in a real browser, as a new user sees and uses it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from bk_pipeline.cli.demo import environment
from bk_pipeline_tests.browser.chromium import browser_page, path_of_chromium, take_picture
from bk_pipeline_tests.dagster_dev import PATIENCE_S, Dagster, dagster_dev, wait_for
from bk_pipeline_tests.worlds import stage

ASSETS = ("raw_builds", "spans", "build_stats", "changes", "build_report", "honeycomb_events")
LOCATION = "/locations/bk_pipeline.definitions"
LARGEST_PICTURE_BYTES = 200_000
PICTURES_LOADED = """dialog => {
  const images = [...dialog.querySelectorAll('img')];
  return images.length === 4 && images.every(image => image.complete && image.naturalWidth > 0);
}"""

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture
def scene(tmp_path):
    path_of_chromium()
    with stage(tmp_path / "data", days=3, builds_per_day=250, live=True) as made:
        yield made


@pytest.fixture
def dagster(scene, tmp_path):
    settings = environment(scene.sandbox, scene.url) | {
        "BK_PIPELINE_DATA_DIR": str(tmp_path / "data"),
        "BK_PIPELINE_SENSOR_INTERVAL_S": "5",
    }
    with dagster_dev(tmp_path, settings, assets=ASSETS) as running:
        yield running


@pytest.fixture
def page():
    with browser_page() as made:
        yield made


# On a quiet machine it takes 70 s, of which 30 are the backfill daemon's tick.
@pytest.mark.browser
@pytest.mark.timeout(1_500)
def test_new_user_backfills_three_days_reads_reports_and_starts_the_sensor(scene, dagster, page):
    open_assets(page, dagster.address)
    backfill(page, dagster, scene.days)
    open_assets(page, dagster.address)
    picture(page, "assets")
    for asset in ASSETS:
        assert dagster.materialized(asset) == set(scene.days)

    check_report(page, dagster.address, scene.days[-1])
    check_week(page, dagster.address)
    check_columns(page, dagster.address)
    check_asset_checks(page, dagster.address)
    start_sensor(page, dagster.address)
    assert scene.sandbox.honeycomb.duplicate_count == 0


def picture(page: Page, name: str) -> None:
    assert take_picture(page, name).stat().st_size < LARGEST_PICTURE_BYTES


def open_assets(page: Page, address: str) -> None:
    page.goto(f"{address}{LOCATION}/asset-groups/buildkite/lineage")
    for asset in ASSETS:
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    # The details of each asset are loaded after the graph.
    expect(page.get_by_text("Loading", exact=False)).to_have_count(0)
    # The number of partitions grows at midnight.
    expect(page.get_by_text(re.compile(r"^\d+ partitions$"))).to_have_count(len(ASSETS))


def backfill(page: Page, dagster: Dagster, days: list[str]) -> None:
    """Launch a backfill of the days and wait for its success."""
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    chosen = dialog.locator("input[type=text]").first
    chosen.fill(f"[{days[0]}...{days[-1]}]")
    chosen.press("Enter")
    expect(dialog.get_by_text("3 partitions").first).to_be_visible()
    dialog.get_by_role("button", name="Launch backfill").click()
    # The link to the backfill is shown only for some seconds.
    wait_for(lambda: len(dagster.backfills()) == 1)
    [backfill_id] = dagster.backfills()
    page.goto(f"{dagster.address}/runs/b/{backfill_id}")
    expect(page.get_by_text("100% completed")).to_have_count(len(ASSETS))
    wait_for(lambda: dagster.backfill_status(backfill_id).startswith("COMPLETED"))
    assert dagster.backfill_status(backfill_id) == "COMPLETED_SUCCESS"
    # The status of the backfill and a column header.
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(2)
    picture(page, "backfill")


def check_report(page: Page, address: str, day: str) -> None:
    """Check the day's metadata and the report with its images, tables and links."""
    page.goto(f"{address}/assets/build_stats?view=partitions&partition={day}")
    for label in ("failure_rate", "duration_p50_s", "queue_p50_s", "flaky_failures"):
        expect(page.get_by_text(label, exact=True)).to_be_visible()
    page.get_by_text("[Show Markdown]").click()
    dialog = page.get_by_role("dialog")
    for title in ("Slowest builds", "Failed builds", "Pipelines", "Flaky steps", "Agent queues"):
        expect(dialog.get_by_role("heading", name=title)).to_be_attached()
    page.wait_for_function(PICTURES_LOADED, arg=dialog.element_handle())
    build = dialog.get_by_role("link", name=re.compile(r"#\d+")).first
    assert "https://buildkite.com/acme/" in (build.get_attribute("href") or "")
    # The sandbox has no HTTPS, and only HTTPS pages are linked.
    assert dialog.get_by_role("link", name="trace").count() == 0
    assert dialog.get_by_role("table").count() == 6
    picture(page, "report")
    dialog.get_by_role("heading", name="Pipelines").scroll_into_view_if_needed()
    picture(page, "report-pipelines")
    page.keyboard.press("Escape")


def check_week(page: Page, address: str) -> None:
    """Check that the week's report is one click from the asset, also in the dark theme."""
    page.goto(f"{address}/assets/build_report")
    reports = page.get_by_text("[Show Markdown]")
    expect(reports).to_have_count(2)
    picture(page, "build-report")
    page.emulate_media(color_scheme="dark")
    reports.first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="Trends and changes").scroll_into_view_if_needed()
    picture(page, "build-report-dark")
    dialog.get_by_role("heading", name="Agent queues").scroll_into_view_if_needed()
    picture(page, "build-report-dark-queues")
    page.keyboard.press("Escape")
    page.emulate_media(color_scheme="light")


def check_columns(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/spans")
    for column in ("trace_id", "parent_span_id", "buildkite.pipeline.slug"):
        expect(page.get_by_text(column, exact=True).first).to_be_attached()
    picture(page, "spans")


def check_asset_checks(page: Page, address: str) -> None:
    page.goto(f"{address}/assets/spans?view=checks")
    for check in ("no_orphans", "no_negative_durations", "no_quarantined_builds"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    picture(page, "checks")


def start_sensor(page: Page, address: str) -> None:
    page.goto(f"{address}{LOCATION}/sensors/builds_sensor")
    expect(page.get_by_text("Sensor has never run")).to_be_visible()
    # The switch covers the checkbox.
    page.locator("label:has(input[type=checkbox])").first.click()
    expect(page.get_by_role("checkbox").first).to_be_checked()
    expect(page.get_by_text("Sensor has never run")).to_have_count(0)
    picture(page, "sensor")
