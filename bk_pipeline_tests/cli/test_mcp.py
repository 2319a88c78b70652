"""The server for agents, tried with the client of the official package."""

from __future__ import annotations

import json
import os
import socket
import sys
from datetime import timedelta

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from bk_pipeline.app import App
from bk_pipeline.cli import mcp
from bk_pipeline.settings import Settings
from bk_pipeline_tests.analysis.test_flaky import FIRST, Store, build, job
from bk_pipeline_tests.builders import make_retry, uid
from bk_pipeline_tests.insides import section

LAST = FIRST + timedelta(days=3)
TOOLS = {
    "changes",
    "describe_tables",
    "failed_jobs",
    "failures",
    "find_builds",
    "flaky_steps",
    "query",
    "show_build",
    "slowest_steps",
}
ENDLESS = (
    "SELECT count(*) FROM range(10000000000) AS a, range(1000) AS b WHERE a.range % 7 = b.range"
)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path))
    return Store(tmp_path)


@pytest.fixture
def builds(store):
    """A red build whose only job passed when it was retried, and a green one."""
    first = job("unit", "one", state="failed")
    jobs = [first, make_retry(first, made_s=600, state="passed")]
    store.add(FIRST, [build("one", jobs, number=1, commit="c0ffee", branch="main")])
    store.add(LAST, [build("two", [job("lint", "two")], number=2, branch="feature/x")])
    return store


def ask(*calls):
    """Connect, call the tools one after another, and return their results."""

    async def asking():
        async with Client(mcp.server(App(Settings.load()))) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return anyio.run(asking)


def answer(result):
    [content] = result.content
    assert not result.is_error, content.text
    return json.loads(content.text)


def error(result):
    [content] = result.content
    assert result.is_error, content.text
    return content.text


def rows(name, **arguments):
    [result] = ask((name, arguments))
    return answer(result)["rows"]


def test_process_answers_by_standard_output_alone_and_ends_with_its_client(builds, tmp_path):
    with (tmp_path / "errors").open("w+") as errors:
        here = StdioServerParameters(
            command=sys.executable,
            args=["-c", "from bk_pipeline.cli.main import main; main()", "mcp"],
            env=dict(os.environ),
            cwd=str(tmp_path),
        )

        async def asking():
            async with Client(stdio_client(here, errlog=errors)) as client:
                return await client.list_tools(), await client.call_tool("find_builds", {})

        listed, found = anyio.run(asking)
        errors.seek(0)
        assert errors.read() == ""
    assert {tool.name for tool in listed.tools} == TOOLS
    assert all(tool.annotations.read_only_hint and tool.description for tool in listed.tools)
    assert [row["number"] for row in answer(found)["rows"]] == [2, 1]


def test_builds_are_found_by_what_people_know_of_them(builds):
    everything = rows("find_builds")
    assert [row["number"] for row in everything] == [2, 1]
    for arguments, numbers in (
        ({"branch": "feature/*"}, [2]),
        ({"text": "C0FFEE"}, [1]),
        ({"state": "failed"}, []),
        ({"until": str(FIRST)}, [1]),
        ({"since": str(LAST)}, [2]),
        ({"pipeline": "nope"}, []),
        ({"by": "slowest"}, [1, 2]),
        ({"limit": 1}, [2]),
    ):
        assert [row["number"] for row in rows("find_builds", **arguments)] == numbers, arguments


def test_build_is_shown_as_a_waterfall_with_its_critical_path(builds):
    [shown] = ask(("show_build", {"build": "shop#1"}))
    [content] = shown.content
    assert "main @ c0ffee" in content.text
    assert "✗ unit (retried, exit 1)" in content.text
    assert "Critical path: " in content.text
    assert "\x1b" not in content.text


def test_each_question_has_an_answer(builds):
    [flaky] = rows("flaky_steps")
    assert (flaky["step"], flaky["flaky_attempts"]) == ("unit", 1)
    [failed] = rows("failed_jobs")
    assert (failed["step"], failed["build_number"], failed["retried"]) == ("unit", 1, True)
    assert {row["step"] for row in rows("slowest_steps")} == {"unit", "lint"}
    [changes] = ask(("changes", {}))
    assert answer(changes)["answer"].startswith("No change for the worse")
    [tables] = ask(("describe_tables", {}))
    described = answer(tables)
    assert set(described) == {"builds", "jobs", "steps", "sections", "tests"}
    assert rows("query", sql="SELECT pipeline, count(*) AS n FROM builds GROUP BY ALL") == [
        {"pipeline": "shop", "n": 2}
    ]
    columns = ", ".join(f'"{name}"' for name in described["jobs"]["columns"])
    assert len(rows("query", sql=f"SELECT {columns} FROM jobs")) == 3


def test_failures_are_those_of_logs_with_whether_they_are_new(builds):
    [before] = ask(("failures", {}))
    assert answer(before)["answer"].startswith("No job details are stored")
    broken = section("Tests", 0, 9, failure=("test", "expected 3, got 4", "0" * 16))
    builds.add_insides(FIRST, {uid("job unit one"): [broken]})
    [found] = ask(("failures", {}))
    assert answer(found)["answer"].startswith("1 failure with 1 message from")
    [row] = answer(found)["rows"]
    assert (row["signature"], row["is_new"], row["steps"]) == ("0" * 16, None, ["unit"])


def test_answer_says_whether_it_is_complete(builds):
    whole, part = (answer(one) for one in ask(("find_builds", {}), ("find_builds", {"limit": 1})))
    period = f"from {LAST - timedelta(days=29)} to {LAST}."
    assert (whole["answer"], whole["complete"]) == (f"2 builds {period}", True)
    assert (part["answer"], part["complete"]) == (f"The first 1 build {period}", False)


def test_rows_and_texts_are_bounded(builds):
    long, many, nested = (
        answer(one)
        for one in ask(
            ("query", {"sql": "SELECT repeat('x', 100000) AS long"}),
            ("query", {"sql": "SELECT repeat('x', 900) AS x FROM range(1000)", "limit": 1000}),
            ("query", {"sql": "SELECT range(100000) AS numbers"}),
        )
    )
    assert len(long["rows"][0]["long"]) == mcp.LONGEST_TEXT
    assert not many["complete"]
    assert len(json.dumps(many["rows"])) < mcp.MOST_BYTES * 1.2
    assert len(nested["rows"][0]["numbers"]) == mcp.LONGEST_TEXT
    [refused] = ask(("query", {"sql": "SELECT 1", "limit": mcp.MOST_ROWS + 1}))
    assert "limit" in error(refused)


def test_values_that_json_lacks(builds):
    [row] = rows(
        "query",
        sql="SELECT 'NaN'::DOUBLE AS nan, 1.50::DECIMAL(9, 2) AS amount, 'ab'::BLOB AS bytes, "
        "day, 1 AS a, 2 AS a FROM builds ORDER BY day LIMIT 1",
    )
    assert row == {"nan": None, "amount": 1.5, "bytes": "6162", "day": str(FIRST), "a": 1, "a_2": 2}


def test_endless_query_is_ended_and_the_next_one_runs(builds, monkeypatch):
    monkeypatch.setattr(mcp, "QUERY_SECONDS", 0.3)
    endless, after = ask(("query", {"sql": ENDLESS}), ("query", {"sql": "SELECT 1 AS one"}))
    assert error(endless).endswith(
        "The query took more than 0.3 seconds. Narrow it, for example by day."
    )
    assert answer(after)["rows"] == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW builds",
        "COPY (SELECT 1) TO 'out.csv'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "",
        "SELECT nothing FROM builds",
    ],
)
def test_query_that_is_no_plain_select_fails_with_its_reason(builds, tmp_path, sql):
    before = sorted(tmp_path.rglob("*"))
    [result] = ask(("query", {"sql": sql}))
    assert "query" in error(result)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_requested_from_anyone(builds, monkeypatch):
    monkeypatch.setenv("BUILDKITE_API_TOKEN", "bkua_0000000000000000000000000000000000000001")
    monkeypatch.setenv("BUILDKITE_ORGANIZATION_SLUG", "acme")
    monkeypatch.setenv("HONEYCOMB_API_KEY", "SandboxOnlyKey00000001")

    def refuse(self, address):
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    known, unknown = ask(("show_build", {"build": "shop#1"}), ("show_build", {"build": "shop#99"}))
    assert not known.is_error
    assert error(unknown).endswith(
        "There is no build shop#99 among the stored ones. find_builds lists them."
    )


def test_without_stored_builds_each_answer_says_what_to_do(store):
    for result in ask(*((name, {}) for name in TOOLS - {"describe_tables", "query", "show_build"})):
        assert "There are no stored spans yet. Run bk-pipeline backfill" in error(result)


def test_texts_from_builds_cannot_break_out(store):
    evil = 'x\x1b[31m"},{"injected": true}\n\u202e'
    store.add(FIRST, [build("one", [job("unit", "one")], number=1, message=evil, branch="a\x1bb")])
    [row] = rows("find_builds")
    assert (row["message"], row["branch"]) == (evil, "a\x1bb")
    [shown] = ask(("show_build", {"build": "shop#1"}))
    assert "\x1b" not in shown.content[0].text
    assert "\u202e" not in shown.content[0].text


def test_missing_package_is_named(call, monkeypatch):
    monkeypatch.delitem(sys.modules, "bk_pipeline.cli.mcp")
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    done = call("mcp")
    assert done.returncode == 2
    assert "pip install 'bk_pipeline[mcp]'" in done.stderr


def test_period_that_ends_before_it_begins(builds):
    [result] = ask(("find_builds", {"since": str(LAST), "until": str(FIRST)}))
    assert "The period ends before it begins" in error(result)
    [result] = ask(("find_builds", {"since": "yesterday"}))
    assert "valid date" in error(result)
