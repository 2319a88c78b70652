"""What people see of a day: tables that Markdown reads, pictures that are whole and small."""

from __future__ import annotations

import base64
import re
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from bk_pipeline.analysis.frames import COLUMNS
from bk_pipeline.analysis.summary import summarize
from bk_pipeline.defs.metadata import of_stats
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.display import safe_url
from bk_pipeline.report.blocks import Picture, Table
from bk_pipeline.report.markdown import LARGEST_PICTURE_BYTES, markdown
from bk_pipeline.report.tables import first_line, text, time_taken
from bk_pipeline.report.waterfall import waterfall
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.table import rows
from bk_pipeline.window import day_window
from bk_pipeline_tests.builders import (
    make_agent,
    make_block,
    make_build,
    make_job,
    make_pipeline,
    uid,
)
from bk_pipeline_tests.insides import section as section_of
from bk_pipeline_tests.insides import sections, spans_with_insides, suite
from bk_pipeline_tests.report.made import cells as cells_of
from bk_pipeline_tests.report.made import (
    day_of,
    day_report,
    markdown_links,
    only,
    section,
    spans_of,
    words_in,
)
from bk_pipeline_tests.worlds import stage

DAY = "2026-03-02"
PICTURE = re.compile(r"!\[([^\]]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """Those of a day of the sandbox, by label."""
    folder = tmp_path_factory.mktemp("stats")
    with stage(folder, builds_per_day=60) as scene, dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        return metadata_of(instance, run.day)


def metadata_of(instance, day: str) -> dict[str, object]:
    """The metadata of the day's latest `build_stats`, by label."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey("build_stats"), asset_partitions=[day])
    [found] = instance.fetch_materializations(wanted, limit=1).records
    return {name: one.value for name, one in found.asset_materialization.metadata.items()}


def part(metadata, title: str) -> str:
    """What stands in the report below `title`; its beginning, for an empty one."""
    parts = re.split(r"^### (.*)$", metadata["report"], flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))[title]


def words(text: str) -> list[str]:
    """The words of the picture that the Markdown holds."""
    [(_, content)] = PICTURE.findall(text)
    return words_in(Picture("", base64.b64decode(content)))


def table_in(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def waterfall_of(jobs, **fields) -> list[str]:
    return words_in(waterfall(list(rows(spans_of(make_build(jobs, **fields))))))


@pytest.mark.parametrize("title", ["", "Critical path", "Slowest builds", "Pipelines"])
def test_pictures_are_whole_and_small(metadata, title):
    assert len(part(metadata, title)) < LARGEST_PICTURE_BYTES
    assert words(part(metadata, title))


def test_report_is_small_enough_for_the_event_log(metadata):
    assert sum(len(str(value)) for value in metadata.values()) < 2 * LARGEST_PICTURE_BYTES


@pytest.mark.parametrize(
    "title",
    ["Slowest builds", "Failed builds", "Pipelines", "Most expensive steps", "Agent queues"],
)
def test_tables_have_as_many_cells_in_each_line(metadata, title):
    head, rule, *lines = table_in(part(metadata, title))
    assert 1 <= len(lines) <= 10
    assert {len(line) for line in lines} == {len(head)} == {len(rule)}


def test_slowest_builds_link_to_the_build_and_its_trace(metadata):
    _, _, first, *_ = table_in(part(metadata, "Slowest builds"))
    assert re.search(
        r"\[[\w-]+\xa0\\#\d+\]\(https://buildkite.com/acme/[\w-]+/builds/\d+\)", first[0]
    )
    # Honeycomb's stand-in has no HTTPS page, so there is no column of traces.
    assert "[trace]" not in metadata["report"]
    assert table_in(part(metadata, "Slowest builds"))[0][-1].strip() == "message"


def test_failed_builds_are_those_that_failed(metadata):
    _, _, *lines = table_in(part(metadata, "Failed builds"))
    assert {line[1].strip() for line in lines} == {"failed"}


def test_report_has_costs_only_if_they_are_known():
    jobs = [make_job("long", run_s=600), make_job("dear", run_s=60, agent=make_agent("mac"))]
    jobs[1]["agent"]["meta_data"] = ["queue=mac"]
    plain = spans_of(make_build(jobs))
    prices = Prices("USD", (Price("mac", 50.0, 0, (("queue", ("mac",)),)), Price("others", 0.0001)))
    found = []
    for table in (plain, with_costs(plain, prices)):
        blocks = day_report(DAY, table)
        shown = of_stats(summarize(DAY, [table.select(list(COLUMNS))]), blocks)
        steps = cells_of(only(Table, section(blocks, "Most expensive steps")))
        found.append((steps[1], shown.get("cost")))
        for title in ("Pipelines", "Agent queues", "Most expensive steps"):
            heads = cells_of(only(Table, section(blocks, title)))[0]
            assert ("cost" in heads) == (table is not plain)
        assert ("### Costs" in markdown(blocks)) == (table is not plain)
    (without, unknown), (with_cost, cost) = found
    assert (without[1], unknown) == ("long", None)
    assert (with_cost[1], with_cost[-1], cost) == ("dear", "50.00", 50.001)


def test_failing_destination_costs_only_the_links(tmp_path):
    with (
        stage(tmp_path, builds_per_day=10, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        list(materialize_days(scene.services, scene.days, instance=instance))
        scene.sandbox.faults.inject("honeycomb", "status", status=503, count=100)
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        report = metadata_of(instance, run.day)["report"]
    assert "[trace]" not in report
    assert "(https://buildkite.com/" in report


def test_report_without_visible_values_says_so(tmp_path):
    with (
        stage(tmp_path, builds_per_day=10, BK_PIPELINE_SPANS_DROP="*") as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        report = metadata_of(instance, run.day)["report"]
    assert run.error is None
    assert "(unknown)" in report
    assert "buildkite.com" not in report


def test_report_without_builds_says_so(tmp_path):
    with (
        stage(tmp_path, BK_PIPELINE_START_DATE="2026-01-01") as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, ["2026-01-05"], instance=instance)
        found = metadata_of(instance, run.day)
    assert run.error is None
    assert found == {"builds": 0, "dagster/partition_row_count": 0}


def test_rates_and_quantiles_are_numbers_that_dagster_plots(metadata):
    assert 0 < metadata["failure_rate"] < 1
    for what in ("duration", "queue"):
        quantiles = [metadata[f"{what}_p{share}_s"] for share in (50, 90, 99)]
        assert quantiles == sorted(quantiles)
        assert all(isinstance(one, float) for one in quantiles)
    assert metadata["builds"] == sum(
        metadata[state] for state in ("passed", "failed", "canceled", "blocked", "other")
    )
    texts = {name for name, value in metadata.items() if isinstance(value, str)}
    assert texts == {"report"}


def test_missing_statistics_are_absent():
    canceled = spans_of(make_build([make_job("a")], state="canceled"))
    found = of_stats(summarize(DAY, [canceled.select(COLUMNS)]), [])
    assert "failure_rate" not in found
    assert (found["builds"], found["canceled"]) == (1, 1)


def test_waterfall_names_jobs_and_their_outcomes():
    jobs = [
        make_job("lint"),
        make_job("test", state="failed", exit_status=3),
        make_job("deploy", run_s=None, state="canceled", finished_at="2026-03-02T09:01:00.000Z"),
        make_block(),
    ]
    said = waterfall_of(jobs, state="failed")
    assert "✗ shop #7 (failed)" in said
    assert "✗ test (exit 3)" in said
    assert "lint" in said
    assert "deploy (canceled, never started)" in said


def test_waterfall_shows_the_inside_of_failed_jobs():
    job = make_job("unit", state="failed")
    parts = [
        *sections(("Install", 5), ("Other", 1)),
        section_of("Tests", 6, 9, index=2, failure=("test", "expected 3", "0" * 16)),
        suite("cart", 6, 8),
    ]
    spans = spans_with_insides(make_build([job], state="failed"), {job["id"]: parts})
    said = words_in(waterfall(spans))
    assert "✗ unit (exit 1)" in said
    assert "✗ Tests (test failure)" in said
    assert "Install" in said
    assert "… 1 more section" in said
    assert said[-1].endswith("thin: 3 of 4 spans inside of jobs are shown")


@pytest.mark.parametrize(
    "label",
    ["$5 and $6", "<b>&amp;", "日本語 🚀", "a" * 500, "\x00\x1b[31m"],
    ids=["dollars", "markup", "other scripts", "long", "control characters"],
)
def test_waterfall_accepts_any_label(label):
    assert waterfall_of([make_job(label, step_key=None, step=None)])


def test_waterfall_of_a_thousand_jobs_is_small():
    jobs = [make_job(f"job {n}", state="failed" if n % 7 else "passed") for n in range(1_000)]
    assert waterfall_of(jobs, state="failed")


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-03-02", "Asia/Kolkata", 24),
    ],
)
def test_days_of_any_length_are_drawn(day, zone, hours):
    window = day_window(day, ZoneInfo(zone))
    assert window.length_s == hours * 3_600
    created = [window.start, window.end.replace(microsecond=0)]
    builds = [
        make_build([], id=uid(f"build {n}"), created_at=at.isoformat(), finished_at=at.isoformat())
        for n, at in enumerate(created)
    ]
    assert len(day_of(day, zone).slots) == hours
    blocks = day_report(day, spans_of(*builds), zone=zone)
    shown = [one for one in words_in(only(Picture, section(blocks, ""))) if one.endswith(":00")]
    assert shown == [f"{hour:02}:00" for hour in range(0, 24, 3)]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (":jest: Unit tests", "Unit tests"),
        ("two\nlines", "two lines"),
        ("a" * 100, "a" * 59 + "…"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_text_from_builds_is_one_short_line(words, shown):
    assert text(words) == shown
    assert first_line("a\nb") == "a"


HOSTILE = "\x1b[2J\x9b\u202e[a](javascript:x) ![p](http://evil.example/p.png) <b> a|b"


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://bk.acme.dev/acme/shop/builds/7", True),
        ("https://buildkite.com/acme/shop/builds/7", False),
        ("http://bk.acme.dev/acme/shop/builds/7", False),
        ("javascript:alert(1)", False),
    ],
)
def test_texts_of_builds_are_shown_as_they_are_and_links_lead_to_known_hosts(url, linked):
    job = make_job(HOSTILE, step_key=HOSTILE, state="failed", agent=make_agent(HOSTILE))
    fields = {"branch": HOSTILE, "message": HOSTILE, "pipeline": make_pipeline(HOSTILE)}
    build = make_build([job], state="failed", web_url=url, **fields)
    table = spans_of(build)
    report = markdown(
        day_report(
            "2026-11-02",
            table,
            link_of=lambda *_: safe_url("https://ui.honeycomb.io/t", {"ui.honeycomb.io"}),
            hosts={"bk.acme.dev"},
        )
    )
    links = markdown_links(report)
    assert links - {"data:image/svg+xml;base64"} == (
        {"https://ui.honeycomb.io/t", url} if linked else {"https://ui.honeycomb.io/t"}
    )
    assert not [c for c in "\x1b\x9b\u202e" if c in report]
    assert not re.search(r"(?<!\\)<", report)


def test_links_to_traces_are_pages_of_the_configured_honeycomb(tmp_path):
    with stage(tmp_path) as scene:
        with scene.services.trace_links(on_trouble=pytest.fail) as link_of:
            assert link_of("a" * 32, 1, 2) is None
        changed = scene.services.changed({"HONEYCOMB_API_ENDPOINT": "https://api.eu1.honeycomb.io"})
    assert changed.settings.trace_hosts == {"ui.eu1.honeycomb.io"}


def test_unknown_time_is_omitted():
    assert time_taken(None) == ""
    assert time_taken(83.4) == "1\xa0m\xa023\xa0s"
