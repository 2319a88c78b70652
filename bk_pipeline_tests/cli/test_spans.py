from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bk_pipeline.cli.spans import builds_in
from bk_pipeline.spans.records import decode_build

BUILD = {
    "id": "018f0000-1111-7222-8333-444455556666",
    "number": 12,
    "state": "failed",
    "created_at": "2026-11-20T10:00:00.000Z",
    "finished_at": "2026-11-20T10:05:00.500Z",
    "web_url": "https://buildkite.com/acme/web/builds/12",
    "pipeline": {"slug": "web"},
    "jobs": [
        {
            "id": "018f0000-1111-7222-8333-0000000000a1",
            "type": "script",
            "name": "[red]unit[/red] :rspec:",
            "state": "failed",
            "exit_status": 1,
            "created_at": "2026-11-20T10:00:00.000Z",
            "runnable_at": "2026-11-20T10:00:00.100Z",
            "started_at": "2026-11-20T10:00:07.250Z",
            "finished_at": "2026-11-20T10:05:00.251Z",
        }
    ],
}


@pytest.fixture
def run(call, monkeypatch):
    """Return a function that runs `bk-pipeline spans` with `stdin` as standard input."""

    def run_spans(*arguments, stdin="", **environment):
        with io.TextIOWrapper(io.BytesIO(stdin.encode())) as given:
            monkeypatch.setattr(sys, "stdin", given)
            return call("spans", *arguments, **environment)

    return run_spans


def write(path: Path, content: object) -> str:
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path.name


def test_ndjson_has_one_object_per_span(tmp_path, run):
    done = run(write(tmp_path / "b.json", [BUILD]))
    assert done.returncode == 0, done.stderr
    root, stage, step, job = map(json.loads, done.stdout.splitlines())
    assert set(root) == {
        "trace_id",
        "span_id",
        "name",
        "start_unix_nano",
        "end_unix_nano",
        "status",
        "attributes",
        "resource",
        "links",
    }
    assert set(job) == set(root) | {"parent_span_id"}
    assert [one["name"] for one in (root, stage, step, job)] == [
        "buildkite.build",
        "buildkite.build.stage",
        "buildkite.step",
        "buildkite.job",
    ]
    assert job["end_unix_nano"] - job["start_unix_nano"] == 293_001_000_000
    assert job["status"] == "error"
    assert job["attributes"]["buildkite.job.exit_status"] == 1
    assert root["resource"]["buildkite.pipeline.slug"] == "web"


@pytest.mark.parametrize("shape", ["object", "array"])
def test_object_and_array_are_read_from_standard_input(tmp_path, shape, run):
    content = json.dumps(BUILD if shape == "object" else [BUILD, BUILD | {"id": "another"}])
    done = run("-", stdin=content)
    traces = defaultdict(list)
    for line in done.stdout.splitlines():
        span = json.loads(line)
        traces[span["trace_id"]].append(span)
    assert len(traces) == (1 if shape == "object" else 2)
    for spans in traces.values():
        ids = {span["span_id"] for span in spans}
        assert sum("parent_span_id" not in span for span in spans) == 1
        assert all(span.get("parent_span_id", next(iter(ids))) in ids for span in spans)


ONE, OTHER = json.dumps(BUILD | {"note": "é"}, ensure_ascii=False), json.dumps(BUILD | {"id": "b"})


@pytest.mark.parametrize(
    "content",
    [
        f"\ufeff[{ONE},{OTHER}]".encode(),
        f"{ONE}\n{OTHER}\n".encode(),
        f"{ONE}\r\n\r\n{OTHER}".encode(),
        f"[{ONE}]\n[{OTHER}]".encode(),
        json.dumps([BUILD, BUILD | {"id": "b"}], indent=2)[1:-1]
        .replace("},\n  {", "}\n{")
        .encode(),
        f"[{ONE},{OTHER}]".encode("utf-16"),
        f"[{ONE},{OTHER}]".encode("utf-16-le"),
        f"\ufeff{ONE}\r\n{OTHER}\r\n".encode("utf-16-be"),
        gzip.compress(f"[{ONE},{OTHER}]".encode()),
        f'{{"builds": [{ONE},{OTHER}], "total": 2}}'.encode(),
        f"[{ONE},{OTHER}]".encode("latin-1"),
        f'[{ONE},{OTHER[:-1]}, "message": "\\ud83d"}}]'.encode(),
    ],
    ids=[
        "byte order mark",
        "a build a line",
        "CRLF and an empty line",
        "pages one after the other",
        "indented objects",
        "UTF-16 of PowerShell",
        "UTF-16 without a mark",
        "UTF-16, big-endian lines",
        "gzip",
        "wrapped",
        "bytes that are not UTF-8",
        "half a surrogate pair",
    ],
)
def test_builds_are_read_in_every_encoding_and_framing(content):
    builds = [decode_build(one.content) for one in builds_in(content)]
    assert [one.id for one in builds] == [BUILD["id"], "b"]


def test_build_with_a_message_is_not_mistaken_for_an_error(tmp_path, run):
    done = run("-", stdin=json.dumps(BUILD | {"message": "Fix"}))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)


def test_token_in_an_error_response_is_redacted(tmp_path, run):
    token = "bkua_" + "0123456789abcdef" * 2
    done = run("-", stdin=json.dumps({"message": f"no such token: {token}"}))
    assert done.returncode == 1
    assert "no such token" in done.stderr
    assert token not in done.stderr


def test_costs_are_in_the_spans_and_not_changed_by_privacy(tmp_path, run):
    file = write(tmp_path / "builds.json", BUILD)
    prices = tmp_path / "costs.toml"
    prices.write_text(
        'currency = "USD"\n[[price]]\nid = "a"\npipeline = "web"\nper_minute = 0.12\n'
    )
    for hidden in ("", "buildkite.pipeline.*"):
        done = run(file, BK_PIPELINE_COSTS=str(prices), BK_PIPELINE_SPANS_DROP=hidden)
        spans = [json.loads(line)["attributes"] for line in done.stdout.splitlines()]
        costs = [one["bk_pipeline.cost"] for one in spans if "bk_pipeline.cost" in one]
        assert costs == [0.586002] * 2
        assert spans[0]["bk_pipeline.failures_cost"] == 0.586002
    prices.write_text('currency = "USD"\n[[price]]\nid = "a"\nper_minute = -1\n')
    done = run(file, BK_PIPELINE_COSTS=str(prices))
    assert done.returncode == 2
    assert 'costs.toml line 4: price "a", per_minute: should be greater' in done.stderr


def test_table_shows_labels_without_markup(tmp_path, run):
    done = run(write(tmp_path / "b.json", BUILD), "--format", "table")
    assert "[red]unit[/red]" in done.stdout
    assert "web#12" in done.stdout
    assert "293.001" in done.stdout


def test_parquet_is_written_to_a_file(tmp_path, run):
    name = write(tmp_path / "b.json", BUILD)
    done = run(name, "--format", "parquet", "--output", "spans.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "spans.parquet")
    assert table.num_rows == 4
    assert "buildkite.job.exit_status" in table.column_names


def test_unfinished_build_gives_no_spans_and_is_counted(tmp_path, run):
    running = BUILD | {"finished_at": None, "state": "running"}
    done = run(write(tmp_path / "b.json", [running]))
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 of 1 build: not finished" in done.stderr


NAN = json.dumps(BUILD | {"id": "bad"})[:-1] + ', "x": NaN}'
CUT = json.dumps(BUILD | {"id": "bad"})
BAD = json.dumps(BUILD | {"id": "bad", "number": "x"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(f"[{ONE},{BAD}]", "bad: Expected .* `\\$\\[1\\].number`", id="wrong type"),
        pytest.param(f"[{BAD},{ONE}]", "bad: .* `\\$\\[0\\].number`", id="the first one"),
        pytest.param([BUILD, {"id": "bad"}], "bad: .* `\\$\\[1\\]`", id="missing keys"),
        pytest.param([BUILD, 3], "record without an id: .* `\\$\\[1\\]`", id="no object"),
        pytest.param(
            [BUILD, {**BUILD, "id": "bad", "jobs": [{"id": 3}]}],
            "bad: .* `\\$\\[1\\].jobs\\[0\\].id`",
            id="in a job",
        ),
        pytest.param(
            [BUILD, {**BUILD, "id": "bad", "created_at": "soon"}],
            "`\\$\\[1\\].created_at`",
            id="no time",
        ),
        pytest.param(
            {"builds": [BUILD, {"id": "bad"}]}, "`\\$.builds\\[1\\]`", id="in a wrapped list"
        ),
        pytest.param(f"{ONE}\n{{}}", "`\\$\\[1\\]`", id="second line"),
        pytest.param(f"{BAD}\n{ONE}", "bad: .* `\\$\\[0\\].number`", id="first line"),
        pytest.param(f"[{ONE},{NAN}]", "bad: JSON is malformed", id="NaN"),
        pytest.param(f"[{NAN},{ONE}]", "bad: JSON is malformed", id="NaN first"),
        pytest.param(f"{NAN}\n{ONE}", "bad: JSON is malformed", id="NaN, a build a line"),
        pytest.param(f'{{"builds": [{NAN},{ONE}], "n": 2}}', "bad: JSON is mal", id="NaN, wrapped"),
        pytest.param(f"\ufeff[{ONE},{NAN}]", "bad: JSON is malformed", id="NaN and a mark"),
        pytest.param(f"[{ONE},{CUT[:99]}", "bad: Input data was truncated", id="cut off"),
        pytest.param(f"[{ONE}\n,{CUT[:30]}\n", "bad: Input data was trunc", id="cut off early"),
        pytest.param(f"[{ONE},", "the list ends amid its builds", id="cut off between builds"),
        pytest.param(f"{ONE}\n{CUT[:70]}", "bad: Input data was truncated", id="a line cut off"),
        pytest.param(
            f"[{ONE},{CUT[:70]}]\n[{OTHER}]", "bad: Input data was truncated", id="two pages"
        ),
    ],
)
def test_unreadable_build_is_named_and_the_others_give_spans(tmp_path, content, message, run):
    done = run(write(tmp_path / "b.json", content))
    assert done.returncode == 1
    first, *_, counts = done.stderr.splitlines()
    assert first.startswith("b.json: ")
    assert re.search(message, first), first
    builds = {json.loads(line)["trace_id"] for line in done.stdout.splitlines()}
    assert BUILD["id"].replace("-", "") in builds
    assert len(done.stdout.splitlines()) == 4 * len(builds)
    assert f"1 of {len(builds) + 1} builds: not readable" in counts or "amid" in first


def test_builds_without_spans_are_counted_by_reason(tmp_path, run):
    """There is one of each. Half a surrogate pair is repaired and does not exclude a build."""
    running = BUILD | {"id": "r", "finished_at": None, "state": "running"}
    skipped = BUILD | {"id": "s", "finished_at": None, "state": "skipped"}
    not_run = BUILD | {"id": "n", "finished_at": None, "state": "not_run"}
    content = json.dumps([running, skipped, not_run, BUILD | {"message": "x\ud83d"}])
    name = write(tmp_path / "b.json", f"{content[:-1]},{NAN}]")
    done = run(name, "--output", "spans.ndjson")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [
        "1 of 5 builds: not finished: no spans of them yet.",
        "2 of 5 builds: skipped or not run: they never have spans.",
        "1 of 5 builds: not readable: see above.",
    ]
    assert len((tmp_path / "spans.ndjson").read_text().splitlines()) == 4
    good = run(write(tmp_path / "g.json", content))
    assert good.returncode == 0
    assert "not readable" not in good.stderr


def test_dropped_build_id_is_not_in_the_error(tmp_path, run):
    name = write(tmp_path / "b.json", f"[{ONE},{BAD}]")
    done = run(name, BK_PIPELINE_SPANS_DROP="buildkite.build.id")
    assert done.stderr.startswith("b.json: record without an id: Expected")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"message": "Not Found"}, 'error of Buildkite\'s, "Not Found"', id="an error"),
        pytest.param({"message": "No\nsuch", "errors": []}, '"No such"', id="an error, two lines"),
        pytest.param("HTTP/2 200\r\n\r\n[]", "leave out curl's -i", id="headers too"),
        pytest.param(gzip.compress(b"[]" * 99)[:-9], "damaged", id="half of a gzipped file"),
        pytest.param("<html>", "JSON is malformed", id="not JSON"),
        pytest.param("", "is empty", id="empty"),
        pytest.param(b"\xef\xbb\xbf", "is empty", id="nothing but a byte order mark"),
        pytest.param("3", "Expected `object`", id="a number"),
    ],
)
def test_file_without_builds_is_an_error_and_nothing_is_written(tmp_path, content, message, run):
    good = write(tmp_path / "good.json", BUILD)
    bad = write(tmp_path / "bad.json", content)
    done = run(good, bad, "--output", "out.ndjson")
    assert done.returncode == 1
    assert done.stdout == ""
    assert not (tmp_path / "out.ndjson").exists()
    assert "bad.json is no build answer" in done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_file_is_named(tmp_path, run):
    done = run("nowhere.json")
    assert done.returncode == 1
    assert "Cannot read nowhere.json: No such file or directory." in done.stderr
