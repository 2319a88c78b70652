"""What a report of a week or a month says, for usual and for odd builds, as Markdown and as HTML."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.analysis.change import Change
from bk_pipeline.analysis.period import Period
from bk_pipeline.display import safe_url
from bk_pipeline.report.blocks import Heading, Paragraph, Picture, Table
from bk_pipeline.report.compose import NO_BUILDS, summary
from bk_pipeline.report.html import html
from bk_pipeline.report.markdown import LARGEST_PICTURE_BYTES, markdown
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.trace.labels import of_all_jobs, with_matrix_values
from bk_pipeline_tests.builders import make_build, make_job, make_pipeline, uid
from bk_pipeline_tests.insides import insides_of
from bk_pipeline_tests.insides import section as inside_section
from bk_pipeline_tests.insides import sections as inside_sections
from bk_pipeline_tests.report.made import (
    UTC as UTC_ZONE,
)
from bk_pipeline_tests.report.made import (
    cells,
    day_report,
    only,
    pictures,
    report_of,
    section,
    spans_of,
    stats_of,
    words_in,
)

LAST = date(2026, 3, 29)
HOSTILE = "</td><script>alert(1)</script>_<img src=x onerror=alert(1)>\x1b[2J\u202e|`*[a](http://e.example)"


class Page(HTMLParser):
    """Reads a page: its tags, links, texts, and whether every tag is closed."""

    EMPTY = frozenset({"meta"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts, self.open, self.attributes = [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in {"href", "src"}]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def build(name, day, *, pipeline="shop", jobs=None, minute=0, **fields):
    created = datetime(day.year, day.month, day.day, 9, minute, tzinfo=UTC)
    at = created.isoformat().replace("+00:00", "Z")
    offset = (created - datetime(2026, 3, 2, 9, tzinfo=UTC)).total_seconds()
    jobs = [
        make_job(one, id=uid(f"job {name} {one}"), created_s=offset, runnable_s=offset + 1, run_s=s)
        for one, s in (jobs or {"test": 60}).items()
    ]
    return make_build(
        jobs, id=uid(f"build {name}"), created_at=at, pipeline=make_pipeline(pipeline), **fields
    )


def days_of(count, *, pipelines=("shop",), **fields):
    days = {}
    for n in range(count):
        day = LAST - timedelta(days=n)
        days[str(day)] = spans_of(
            *(build(f"{day} {one}", day, pipeline=one, **fields) for one in pipelines)
        )
    return days


def period(name, zone=UTC_ZONE):
    return Period.ending(name, LAST, zone)


def change(step=None, measure="duration_s", *, day=20, after=90.0, **fields):
    began = datetime(2026, 3, day, 14, 2, tzinfo=UTC)
    values = {
        "pipeline": "shop",
        "step": step,
        "measure": measure,
        "before": 60.0,
        "after": after,
        "change": after / 60 - 1,
        "confidence": 0.999,
        "began_at": began,
        "number": 4182,
        "commit": "abc1234def",
        "branch": "main",
        "build_id": None,
        "recovered_at": None,
        "url": "https://buildkite.com/acme/shop/builds/4182",
        "builds_before": 30,
        "builds_after": 30,
        "decided_by": "ranks",
    }
    return Change(**(values | fields))


@pytest.fixture(scope="module")
def month():
    """The blocks of a month of two pipelines, in which one became slower."""
    days = days_of(40, pipelines=("shop", "web"))
    found = stats_of(days, period("month"), changes=[change("test")], first_stored=date(2026, 1, 1))
    return report_of(found, list(days.values()))


def test_a_month_has_its_sections_in_order(month):
    assert [one.text for one in month if isinstance(one, Heading)] == [
        *("Trends and changes", "Critical path", "Agent queues", "Pipelines"),
        *("Most expensive steps", "Flaky steps", "Slowest builds", "Failed builds"),
    ]


def failing_days(count, failures):
    """Days with a build of a failed job, and what is inside of the jobs of the days in `failures`."""
    days = days_of(count, state="failed")
    insides = {}
    for day, (kind, message, signature) in failures.items():
        ids = [one for one in days[day]["buildkite.job.id"].to_pylist() if one]
        parts = [*inside_sections((":npm: Install", 20), ("Lint", 10))]
        parts.append(inside_section("Tests", 30, 60, index=2, failure=(kind, message, signature)))
        insides[day] = insides_of(days[day], {ids[0]: parts})
    return days, insides


def test_why_jobs_failed_and_slow_sections_are_those_of_read_jobs():
    first, last = str(LAST - timedelta(days=20)), str(LAST)
    known, new = ("test", "expected 3", "1" * 16), ("infrastructure", HOSTILE, "2" * 16)
    days, insides = failing_days(
        21, {first: known, str(LAST - timedelta(days=1)): known, last: new}
    )
    blocks = report_of(stats_of(days, period("week"), insides))
    failed = section(blocks, "Why jobs failed")
    assert failed[0].text == (
        "2 failures of jobs whose details were read: 1 infrastructure, 1 test. 2 messages, of which "
        "1 was not seen in the 30 days before."
    )
    head, *rows = cells(only(Table, failed))
    assert head == ["", "message", "kind", "failures", "pipelines", "steps"]
    assert [(row[0], *row[2:]) for row in rows] == [
        ("new", "infrastructure", "1", "shop", "test"),
        ("", "test", "1", "shop", "test"),
    ]
    assert (
        only(Table, failed).rows[1][1].page.startswith("https://buildkite.com/acme/shop/builds/7#")
    )
    slow = section(blocks, "Slowest sections")
    assert cells(only(Table, slow))[1:] == [
        ["shop", "test", "Tests", "command", "1", "2", "30.0\xa0s", "30.0\xa0s"],
        ["shop", "test", "Install", "command", "1", "2", "20.0\xa0s", "20.0\xa0s"],
        ["shop", "test", "Lint", "command", "0", "2", "10.0\xa0s", "10.0\xa0s"],
    ]
    page = html("title", "dates", blocks)
    assert "<script" not in page
    assert "\x1b" not in page + markdown(blocks)


def test_a_day_by_itself_calls_no_failure_new():
    days, insides = failing_days(1, {str(LAST): ("test", None, None)})
    failed = section(report_of(stats_of(days, period("day"), insides)), "Why jobs failed")
    assert failed[0].text == "1 failure of jobs whose details were read: 1 test. 1 message."
    assert cells(only(Table, failed)) == [
        ["message", "kind", "failures", "pipelines", "steps"],
        ["(no message)", "test", "1", "shop", "test"],
    ]


def test_a_report_begins_with_its_main_numbers_and_those_of_the_period_before(month):
    first = month[0].text
    assert first.startswith("60 builds of 2 pipelines (20 in the 30 days before); 0.0% failed")
    assert "half of them took less than" in first


def test_trends_have_marks_where_changes_began(month):
    blocks = section(month, "Trends and changes")
    words = words_in(only(Picture, blocks))
    assert {"shop", "web", "test +50%"} <= set(words)
    head, row = cells(only(Table, blocks))
    assert head == ["what changed", "before → after", "since"]
    assert row == [
        "shop / test takes 50 % longer",
        "1 m 00 s → 1 m 30 s",
        "build #4182 (abc1234, Fri 20 Mar 14:02 UTC)",
    ]
    assert only(Table, blocks).rows[0][2].page == "https://buildkite.com/acme/shop/builds/4182"


def test_a_month_without_changes_says_so():
    found = stats_of(days_of(5), period("week"))
    [text] = [
        one.text
        for one in section(report_of(found), "Trends and changes")
        if isinstance(one, Paragraph)
    ]
    assert text == "No lasting change began in this period."


def test_a_week_has_a_heat_map_of_all_weekdays(month):
    words = words_in(only(Picture, section(month, "Agent queues")))
    assert [one for one in words if one in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")] == [
        *("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    ]


def test_the_critical_path_is_composed_of_running_and_waiting(month):
    words = words_in(only(Picture, section(month, "Critical path")))
    assert {"running", "waiting for agents", "waiting for people"} <= set(words)
    [text] = [one.text for one in section(month, "Critical path") if isinstance(one, Paragraph)]
    assert "95% of it was running" in text


def test_costs_are_by_day_and_pipeline():
    prices = Prices("EUR", (Price("all", 2.0),))
    days = {day: with_costs(table, prices) for day, table in days_of(7).items()}
    blocks = report_of(stats_of(days, period("week")))
    words = words_in(only(Picture, section(blocks, "Costs")))
    assert {"Cost by day, EUR", "shop"} <= set(words)
    assert "they cost 14.00 EUR" in blocks[0].text
    assert cells(only(Table, section(blocks, "Pipelines")))[1][-1] == "14.00"


@pytest.mark.parametrize("name", ["day", "week", "month"])
def test_one_build_makes_a_whole_report(name):
    blocks = report_of(stats_of(days_of(1), period(name)), [spans_of(build("a", LAST))])
    assert Page(html("t", "s", blocks)).tags.count("svg") == len(pictures(blocks)) >= 3
    assert len(markdown(blocks)) < 3 * LARGEST_PICTURE_BYTES


@pytest.mark.parametrize("name", ["day", "week", "month"])
@pytest.mark.parametrize("stored", [0, 1], ids=["nothing stored", "only other days"])
def test_a_period_without_finished_builds_says_so(name, stored):
    days = {"2026-01-01": spans_of(build("old", date(2026, 1, 1)))} if stored else {}
    found = stats_of(days, period(name))
    assert report_of(found) == [Paragraph(NO_BUILDS)]
    assert summary(found) == NO_BUILDS
    assert NO_BUILDS in html("t", "s", report_of(found))


def test_texts_of_builds_are_shown_as_they_are():
    job = make_job(HOSTILE, step_key=HOSTILE, state="failed")
    fields = {"branch": HOSTILE, "message": HOSTILE, "pipeline": make_pipeline(HOSTILE)}
    odd = make_build([job], state="failed", web_url="javascript:alert(1)", **fields)
    blocks = day_report(
        "2026-03-02",
        spans_of(odd),
        link_of=lambda *_: safe_url("https://a.example/t", {"a.example"}),
    )
    text = html(HOSTILE, HOSTILE, blocks)
    page = Page(text)
    assert {"script", "img"} & set(page.tags) == set()
    assert not [one for one in page.attributes if one.startswith("on")]
    assert {one for one in page.links if not one.startswith("#")} == {"https://a.example/t"}
    assert not [one for one in "\x1b\u202e" if one in text]
    assert any("</td><script>alert(1)</script>" in one for one in page.texts)


def test_a_page_loads_nothing_and_its_ids_are_its_own(month):
    text = html("Builds", "March", month)
    page = Page(text)
    assert "default-src 'none'" in text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    ids = [part.partition('"')[0] for part in text.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert {one[1:] for one in page.links if one.startswith("#")} <= set(ids)


def test_colors_of_pictures_follow_the_theme_of_the_page(month):
    from bk_pipeline.report.style import INK, QUIET  # noqa: PLC0415

    text = html("Builds", "March", month)
    assert INK.encode() in b"".join(one.svg for one in pictures(month))
    assert INK not in text
    assert QUIET not in text
    assert "var(--ink)" in text


def luminance(color: str) -> float:
    """The relative luminance of a color, by WCAG 2."""
    parts = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#ffffff", "#0f1115"], ids=["light", "dark"])
def test_texts_of_pictures_are_legible_on_light_and_dark_grounds(ground):
    from bk_pipeline.report.style import INK, QUIET, STATES  # noqa: PLC0415

    for color, least in [(INK, 4), (QUIET, 3.7), *((one, 2.5) for one in STATES.values())]:
        pair = sorted((luminance(color) + 0.05, luminance(ground) + 0.05))
        assert pair[1] / pair[0] > least, color


def test_hundreds_of_pipelines_make_a_report_of_bounded_size():
    names = [f"_pipeline-{n:03}" for n in range(300)]
    prices = Prices("USD", (Price("all", 1.0),))
    days = {str(LAST): with_costs(spans_of(*(build(n, LAST, pipeline=n) for n in names)), prices)}
    found = stats_of(days, period("week"))
    assert len(found.pipelines) == 300
    blocks = report_of(found)
    assert len(markdown(blocks)) < 3 * LARGEST_PICTURE_BYTES
    assert only(Table, section(blocks, "Pipelines")).left_out == 290
    # matplotlib leaves out labels that begin with an underscore.
    assert any("_pipeline" in one for one in words_in(only(Picture, section(blocks, "Costs"))))


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_weeks_of_other_zones_are_drawn(zone):
    found = stats_of(days_of(7), period("week", ZoneInfo(zone)))
    blocks = report_of(found)
    words = words_in(only(Picture, section(blocks, "")))
    assert [one for one in words if one.endswith(" Mar")] == [
        f"{LAST - timedelta(days=n):%a %d %b}" for n in reversed(range(7))
    ]


@pytest.mark.parametrize(
    ("label", "matrices", "shown"),
    [
        ("Test {{matrix}}", ['{"os":"linux"}', '{"os":"mac"}', None], "Test linux/mac"),
        ("Test {{ matrix }}", ['"linux"'], "Test linux"),
        (
            "{{matrix.go}} on {{matrix.arch}}",
            ['{"go":"1.23","arch":"amd64"}', '{"go":"1.24","arch":"amd64"}'],
            "1.23/1.24 on amd64",
        ),
        ("Test {{matrix.n}}", [f'{{"n":{n}}}' for n in range(9)], "Test 0/1/2/3/…"),
        ("Test {{matrix}}", [], "Test"),
        ("Test {{matrix.os}}", ["not JSON"], "Test"),
        ("Suite %n/%t", [], "Suite"),
        ("Suite (%n of %t)", [], "Suite"),
        ("100%natural", [], "100%natural"),
    ],
)
def test_labels_of_steps_have_the_values_of_the_matrix(label, matrices, shown):
    assert with_matrix_values(label, matrices) == shown
    assert "{{" not in of_all_jobs("a {{matrix}}")


def test_steps_of_a_matrix_show_its_values():
    jobs = [
        make_job(
            f"test {os}",
            step_key=None,
            step={"id": uid("step"), "label": ":go: Test {{matrix}}"},
            matrix={"os": os},
        )
        for os in ("linux", "mac")
    ]
    blocks = day_report("2026-03-02", spans_of(make_build(jobs)))
    rows = cells(only(Table, section(blocks, "Most expensive steps")))
    assert rows[1][1] == "Test linux/mac"
