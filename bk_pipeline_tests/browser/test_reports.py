"""Reports as files in a real browser: sizes, themes, and nothing that is loaded or hidden."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import pytest

from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import Slowdown, World
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.tree import spans_for_build
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanStore
from bk_pipeline_tests.browser.chromium import browser_page, path_of_chromium, take_picture
from bk_pipeline_tests.cli.program import run
from bk_pipeline_tests.report.made import PART

LAST = date(2026, 11, 26)
LATER_MS = 30 * 86_400_000
PRICES = Prices("USD", (Price("macos", 0.08, 0, (("queue", ("macos",)),)), Price("others", 0.01)))
SIZES = (1440, 900)
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
GROUND = "() => getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """A report of a day, a week and a month, by name."""
    path_of_chromium()
    folder = tmp_path_factory.mktemp("reports")
    slowdown = Slowdown("api", "test", factor=1.5, since=LAST - timedelta(days=11))
    days = 37
    world = World(days=days, builds_per_day=60, today=LAST, limited_agents=True, slowdown=slowdown)
    store = SpanStore(Folder(str(folder / "data")))
    for n in range(days):
        day = LAST - timedelta(days=n)
        payloads = (build_as_of(one, one.created_ms + LATER_MS) for one in world.builds(day))
        found = (spans_for_build(decode_build(msgspec.json.encode(one))) for one in payloads if one)
        if traces := [one for one in found if one]:
            table = with_costs(table_of(traces), PRICES)
            store.write(str(day), PART, [table], PartSummary())
    made = {}
    settings = {
        "BK_PIPELINE_DATA_DIR": str(folder / "data"),
        "BUILDKITE_ORGANIZATION_SLUG": world.organization.slug,
    }
    for name in ("day", "week", "month"):
        made[name] = folder / f"{name}.html"
        until = str(LAST - timedelta(days=1))
        options = ("--period", name, "--until", until, "--output", str(made[name]))
        done = run("report", *options, cwd=folder, **settings)
        assert done.returncode == 0, done.stderr
    return made


@pytest.mark.browser
@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_reports_fit_the_page_and_follow_the_theme(reports, width, theme):
    with browser_page(width=width) as page:
        problems, requested = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.emulate_media(color_scheme=theme)
        for name, path in reports.items():
            page.goto(path.as_uri())
            assert page.evaluate(GROUND) == {"light": "rgb(255, 255, 255)"}.get(
                theme, "rgb(20, 23, 27)"
            )
            assert not page.evaluate(TOO_WIDE)
            assert page.locator("figure svg").count() >= 5
            assert page.get_by_role("heading", name="Costs").count() == 1
            assert page.locator("text=stage 1").count() == 1  # the waterfall
            if name == "month":
                assert page.locator("svg text", has_text="test +").count() >= 1
            take_picture(page, f"report-{name}-{width}-{theme}", full_page=True)
            if (name, width, theme) == ("month", 1440, "light"):
                take_picture(page, "report-month")
        assert problems == []
        assert {one.partition(":")[0] for one in requested} == {"file"}
