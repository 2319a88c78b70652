from __future__ import annotations

import gzip
import json
import subprocess
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bk_pipeline.cli.spans import builds_in
from bk_pipeline.spans.records import decode_build
from bk_pipeline_tests.cli import program

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


def run(*arguments: str, stdin: str | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    return program.run("spans", *arguments, stdin=stdin, cwd=cwd)


def write(path: Path, content: object) -> str:
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path.name


def test_ndjson_has_an_object_a_span(tmp_path):
    done = run(write(tmp_path / "b.json", [BUILD]), cwd=tmp_path)
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
def test_a_build_and_an_array_of_builds_are_read_from_standard_input(tmp_path, shape):
    content = json.dumps(BUILD if shape == "object" else [BUILD, BUILD | {"id": "another"}])
    done = run("-", stdin=content, cwd=tmp_path)
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
        "bytes that are no UTF-8",
        "half a surrogate pair",
    ],
)
def test_builds_are_read_in_whatever_form_a_shell_left_them(content):
    builds = [decode_build(one.content) for one in builds_in(content)]
    assert [one.id for one in builds] == [BUILD["id"], "b"]


def test_a_build_with_a_message_is_no_error(tmp_path):
    done = run("-", stdin=json.dumps(BUILD | {"message": "Fix"}), cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)


def test_an_error_that_repeats_the_token_is_not_told_with_it(tmp_path):
    token = "bkua_" + "0123456789abcdef" * 2
    done = run("-", stdin=json.dumps({"message": f"no such token: {token}"}), cwd=tmp_path)
    assert done.returncode == 1
    assert "no such token" in done.stderr
    assert token not in done.stderr


def test_a_table_shows_labels_as_they_are(tmp_path):
    done = run(write(tmp_path / "b.json", BUILD), "--format", "table", cwd=tmp_path)
    assert "[red]unit[/red]" in done.stdout
    assert "web#12" in done.stdout
    assert "293.001" in done.stdout


def test_parquet_goes_to_a_file(tmp_path):
    name = write(tmp_path / "b.json", BUILD)
    done = run(name, "--format", "parquet", "--output", "spans.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "spans.parquet")
    assert table.num_rows == 4
    assert "buildkite.job.exit_status" in table.column_names


def test_a_build_that_has_not_finished_gives_no_spans_and_a_word(tmp_path):
    running = BUILD | {"finished_at": None, "state": "running"}
    done = run(write(tmp_path / "b.json", [running]), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "have not finished" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param([BUILD, BUILD | {"number": "x"}], "`$[1].number`", id="wrong type"),
        pytest.param([BUILD, {"id": "b"}], "`$[1]`", id="missing keys"),
        pytest.param([BUILD, {**BUILD, "jobs": [{"id": 3}]}], "`$[1].jobs[0].id`", id="in a job"),
        pytest.param([{**BUILD, "created_at": "soon"}], "`$[0].created_at`", id="no time"),
        pytest.param({"message": "Not Found"}, 'error of Buildkite\'s, "Not Found"', id="an error"),
        pytest.param({"message": "No\nsuch", "errors": []}, '"No such"', id="an error, two lines"),
        pytest.param({"builds": [BUILD, {"id": "b"}]}, "`$.builds[1]`", id="in a wrapped list"),
        pytest.param(f"{json.dumps(BUILD)}\n{{}}", "`$[1]`", id="second line"),
        pytest.param("HTTP/2 200\r\n\r\n[]", "leave out curl's -i", id="headers too"),
        pytest.param(gzip.compress(b"[]" * 99)[:-9], "damaged", id="half of a gzipped file"),
        pytest.param('[{"id": ', "truncated", id="cut off"),
        pytest.param("<html>", "JSON is malformed", id="not JSON"),
        pytest.param("", "is empty", id="empty"),
        pytest.param(b"\xef\xbb\xbf", "is empty", id="nothing but a byte order mark"),
        pytest.param("3", "Expected `object`", id="a number"),
    ],
)
def test_what_is_no_build_answer_is_named_with_its_path_and_nothing_is_written(
    tmp_path, content, says
):
    good = write(tmp_path / "good.json", BUILD)
    bad = write(tmp_path / "bad.json", content)
    done = run(good, bad, "--output", "out.ndjson", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert not (tmp_path / "out.ndjson").exists()
    assert "bad.json is no build answer" in done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    done = run("nowhere.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "Cannot read nowhere.json: No such file or directory." in done.stderr
