from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from bk_pipeline_tests.analysis.test_deployments import RULES, deploys
from bk_pipeline_tests.analysis.test_flaky import FIRST, Store
from bk_pipeline_tests.builders import DAY_S, HOUR_S, make_pipeline


@pytest.fixture
def store(tmp_path, monkeypatch):
    rules = tmp_path / "deployments.toml"
    rules.write_text(RULES)
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("BK_PIPELINE_DEPLOYMENTS", str(rules))
    return Store(tmp_path / "data")


@pytest.fixture
def history(store):
    """Ten days: shop deploys each day, fails on the third, and rolls the seventh back."""
    for n in range(10):
        deploy = deploys(
            f"shop {n}", ("deploy", "failed" if n == 2 else "passed"), after_s=n * DAY_S
        )
        undo = deploys(f"undo {n}", ("undo", "passed"), after_s=n * DAY_S + HOUR_S)
        other = deploys(
            f"web {n}", ("deploy", "passed"), after_s=n * DAY_S, pipeline=make_pipeline("web")
        )
        payloads = [deploy, *([undo] if n == 6 else []), *([other] if n < 2 else [])]
        store.add(FIRST + timedelta(days=n), payloads)


def lines(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_sentence_and_four_keys(history, call):
    first, _, head, *rows = lines(call("deployments"))
    # 11 of 12 succeeded in 10 days. The failure took a day to restore, the rollback an hour.
    assert first == (
        "11 successful deployments of 2 services to production from 2026-02-10 to 2026-03-11, 1.1 "
        "a day; a change took 13.0 s (median) to get there; 17% of changes failed, and it took 12 h "
        "30 m to restore."
    )
    assert head.split() == [
        *("service", "environment", "deployed", "per", "day", "lead", "time", "failed"),
        *("rollbacks", "restored", "in", "last"),
    ]
    assert rows[0].split() == [
        *("shop", "production", "9/10", "0.90", "13.0", "s", "20.0%", "1"),
        *("12", "h", "30", "m", "2026-03-11", "ok"),
    ]
    assert rows[1].split()[:4] == ["web", "production", "2/2", "0.20"]
    assert max(map(len, (head, *rows))) <= 120


def test_by_week_and_filters(history, call):
    _, _, _, *rows = lines(call("deployments", "--by", "week", "--service", "shop"))
    assert [row.split()[:5] for row in rows] == [
        ["2026-03-02", "shop", "production", "6/7", "0.86"],
        ["2026-03-09", "shop", "production", "3/3", "1.00"],
    ]
    nothing = lines(call("deployments", "--environment", "staging"))
    assert len(nothing) == 1
    assert "found no deployment" in nothing[0]


def test_list_has_each_deployment(history, call):
    _, _, _, *rows = lines(call("deployments", "--list", "--since", "2026-03-08"))
    assert ["rollback" in row for row in rows] == [False, True, False, False, False]
    [*_, table] = [json.loads(call("deployments", "--list", "--format", "json").stdout)]
    assert len(table) == 13
    assert sum(row["change_failed"] for row in table) == 2


def test_json_has_every_key(history, call):
    shop, _ = json.loads(call("deployments", "--format", "json").stdout)
    assert (shop["change_failure_rate"], shop["restores"]) == (0.2, 2)
    assert shop["restore_p50_s"] == pytest.approx((DAY_S + HOUR_S) / 2)
    assert shop["lead_time_from"] == "build 9"


def test_what_is_missing_is_named(store, call, monkeypatch):
    assert "no stored spans" in call("deployments").stderr
    assert call("deployments", "--list", "--by", "week").returncode == 2
    monkeypatch.delenv("BK_PIPELINE_DEPLOYMENTS")
    done = call("deployments")
    assert (done.returncode, "BK_PIPELINE_DEPLOYMENTS is not set" in done.stderr) == (2, True)


def section(path):
    """The rows of the tables of the report's section on deployments."""
    [_, found] = path.read_text().split(">Deployments</h2>")
    tables = found.split("<table>")[1:]
    return [
        [re.sub(r"<[^>]+>", " ", row).split() for row in table.split("<tr>")[1:]]
        for table in tables
    ]


def test_report_of_a_week_has_the_four_keys_and_the_last_deployments(history, call, tmp_path):
    assert call("report", "--period", "week", "--until", "2026-03-11").returncode == 0
    keys, listed = section(tmp_path / "report.html")
    # From the 5th on: 7 days of shop, with the rollback of the sixth of them.
    assert [row[:6] for row in keys[1:]] == [["shop", "production", "7", "of", "7", "1.0"]]
    assert listed[1][:5] == ["11", "Mar", "09:00", "shop", "production"]
    assert len(listed) == 1 + 8


def test_report_of_a_day_has_its_deployments(history, call, tmp_path):
    assert call("report", "--period", "day", "--until", "2026-03-11").returncode == 0
    [listed] = section(tmp_path / "report.html")
    assert len(listed) == 2


def test_report_says_why_it_has_no_deployments(history, call, tmp_path):
    (tmp_path / "deployments.toml").write_text("[[rule]]\nid = 1\n")
    done = call("report", "--period", "day", "--until", "2026-03-11")
    assert done.returncode == 0
    assert "The report has no deployments. " in done.stderr
    assert ">Deployments</h2>" not in (tmp_path / "report.html").read_text()
