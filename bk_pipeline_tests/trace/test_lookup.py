from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.errors import ConfigError
from bk_pipeline.spans.table import table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import PARQUET
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanSearch, SpanStore
from bk_pipeline.trace.lookup import Reference, at_buildkite, in_table, read_reference
from bk_pipeline_tests.builders import make_build, make_job, make_pipeline, make_trace

UTC_ZONE = ZoneInfo("UTC")
# Its first 48 bits are the time 2026-03-02 09:00:00 UTC.
TIMED = "019cadc6-9a80-7abc-8def-0123456789ab"
PLAIN = "0b7fa0c9-2d1c-4f2a-9d57-7a1d5e0f4a11"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://buildkite.com/acme/web/builds/4182", Reference(4182, "web", "acme")),
        ("https://buildkite.com/acme/web/builds/4182#0192-a", Reference(4182, "web", "acme")),
        (
            "https://buildkite.com/acme/web/builds/4182/steps/canvas?x=1",
            Reference(4182, "web", "acme"),
        ),
        ("buildkite.com/acme/my%20app/builds/1", Reference(1, "my app", "acme")),
        (
            "https://api.buildkite.com/v2/organizations/acme/pipelines/web/builds/12",
            Reference(12, "web", "acme"),
        ),
        ("web#4182", Reference(4182, "web")),
        ("web/4182", Reference(4182, "web")),
        ("acme/web#4182", Reference(4182, "web", "acme")),
        ("4182", Reference(4182)),
        ("#4182", Reference(4182)),
        (f" {PLAIN.upper()} ", Reference(trace_id=PLAIN.replace("-", ""))),
        (PLAIN.replace("-", ""), Reference(trace_id=PLAIN.replace("-", ""))),
        (
            f"https://ui.honeycomb.io/acme/datasets/ci/trace?trace_id={PLAIN.replace('-', '')}&a=1",
            Reference(trace_id=PLAIN.replace("-", "")),
        ),
    ],
)
def test_reference_is_parsed(text, expected):
    assert read_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        "web#",
        "https://buildkite.com/acme/web",
        "https://[x",
        "1" * 40,
        PLAIN[:-1],
        "a b#3",
    ],
)
def test_invalid_reference_is_an_error_with_examples(text):
    with pytest.raises(ConfigError, match=r"names no build\. Give its URL, like"):
        read_reference(text)


def test_creation_time_is_read_from_a_version_7_uuid():
    assert read_reference(TIMED).created_at == datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert read_reference(PLAIN).created_at is None
    assert read_reference("ffffffff-ffff-7fff-8fff-ffffffffffff").created_at is None
    assert str(read_reference(TIMED.replace("-", ""))) == TIMED


@pytest.fixture
def table(tmp_path):
    """A function that adds builds to a span table, and the search in the table."""
    folder = Folder(str(tmp_path))
    store = SpanStore(folder)

    def add(day, part, *builds):
        table = table_of([make_trace(build) for build in builds])
        store.write(day, SpanPart(part, "fingerprint"), [table], PartSummary())

    return add, SpanSearch(folder)


def build(number, slug="shop", **fields):
    return make_build(
        number=number, pipeline=make_pipeline(slug), **{"id": f"{slug} {number}", **fields}
    )


def test_build_is_found_by_number_and_pipeline_with_all_its_spans(table):
    add, search = table
    add("2026-03-01", "a", build(1), build(2))
    add("2026-03-02", "b", build(3), build(3, "docs"), build(4))
    found = in_table(Reference(3, "docs"), search, UTC_ZONE)
    assert (found.pipeline, found.number, found.state) == ("docs", 3, "passed")
    assert found.file == f"spans/2026-03-02/b-fingerprint{PARQUET}"
    names = search.spans(found)["name"].to_pylist()
    assert names == ["buildkite.build", "buildkite.build.stage", "buildkite.step", "buildkite.job"]
    assert in_table(Reference(5, "docs"), search, UTC_ZONE) is None


def test_ambiguous_number_lists_the_candidates(table):
    add, search = table
    add("2026-03-02", "b", build(3), build(3, "docs"), build(4))
    assert in_table(Reference(4), search, UTC_ZONE).pipeline == "shop"
    with pytest.raises(ConfigError, match="2 builds have the number 3") as caught:
        in_table(Reference(3), search, UTC_ZONE)
    assert "docs#3  passed, created 2026" in str(caught.value)
    assert "shop#3  passed, created 2026" in str(caught.value)


def test_newest_part_of_a_resumed_build_is_used(table):
    add, search = table
    add("2026-03-02", "a", build(3))
    add("2026-03-02", "b", build(3, jobs=[make_job("one"), make_job("two")], state="failed"))
    found = in_table(Reference(3), search, UTC_ZONE)
    assert found.state == "failed"
    assert search.spans(found).num_rows == 6


@pytest.mark.parametrize("uuid", [TIMED, PLAIN])
def test_build_is_found_by_uuid(table, uuid):
    add, search = table
    add("2026-03-01", "a", build(1))
    add("2026-03-02", "b", build(3, id=uuid), build(4))
    assert in_table(read_reference(uuid), search, UTC_ZONE).number == 3


def test_uuid_with_a_time_is_searched_only_on_its_day(table):
    add, search = table
    add("2026-03-01", "a", build(3, id=TIMED))
    assert in_table(read_reference(TIMED), search, UTC_ZONE) is None
    add("2026-03-02", "a", build(3, id=TIMED))
    assert in_table(read_reference(TIMED), search, UTC_ZONE).number == 3


def test_empty_table_has_no_build(table):
    assert in_table(Reference(3), table[1], UTC_ZONE) is None
    assert in_table(read_reference(PLAIN), table[1], UTC_ZONE) is None


ELSEWHERE = ["https://buildkite.com/umbrella/shop/builds/7", "umbrella/shop#7"]


@pytest.mark.parametrize("text", ELSEWHERE)
def test_build_of_another_organization_is_not_confused_with_ours(table, text):
    add, search = table
    add("2026-03-02", "a", make_build([make_job("a")]))
    reference = read_reference(text)
    assert in_table(reference, search, UTC_ZONE, organization="acme") is None
    assert in_table(reference, search, UTC_ZONE) is None  # the table has the organization
    with pytest.raises(ConfigError, match="is one of umbrella, and BUILDKITE_ORGANIZATION_SLUG is"):
        at_buildkite(reference, pytest.fail, where=".", organization="acme")


def test_organization_defaults_to_the_settings(table):
    add, search = table
    add("2026-03-02", "a", make_build([make_job("a")], url=None, web_url=None))
    [other, ours] = map(read_reference, (ELSEWHERE[0], "https://buildkite.com/ACME/shop/builds/7"))
    assert in_table(other, search, UTC_ZONE, organization="acme") is None
    assert in_table(ours, search, UTC_ZONE, organization="acme") is not None
