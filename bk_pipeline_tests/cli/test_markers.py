from __future__ import annotations

import io
import time

import pytest
import requests

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.pipeline import extract_day, transform_day
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline_tests.worlds import stage

RULES = """\
[colors]
done = "#c62828"

[[rule]]
id = "passed"
state = "passed"
type = "done"
message = "{buildkite.pipeline.slug} #{buildkite.build.number}"
dataset = "__all__"
"""


@pytest.fixture
def scene(tmp_path):
    """A scene with a day of spans and a file of rules."""
    (tmp_path / "markers.toml").write_text(RULES)
    with stage(tmp_path, builds_per_day=20, live=True, BK_PIPELINE_MARKERS="markers.toml") as scene:
        services = scene.services
        with services.buildkite(on_wait=print) as client:
            for key in scene.days:
                day = day_of(key, services.settings)
                extract_day(day, client=client, raw=services.raw(), clock=services.clock)
                transform_day(key, raw=services.raw(), spans=services.spans())
        yield scene


@pytest.fixture
def markers(scene, call):
    """Return a function that runs `bk-pipeline markers` and returns the printed lines."""

    def markers(*arguments, **environment):
        done = call("markers", *arguments, **scene.services.settings.environment | environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return markers


def counts(lines):
    return dict(reversed(part.split(" ", 1)) for part in lines[-1].removesuffix(".").split(", "))


def test_markers_are_planned_applied_listed_and_pruned(scene, markers, tmp_path):
    stored = scene.sandbox.honeycomb.markers

    planned = markers("plan")
    count = int(counts(planned)["to create"])
    assert count > 0
    assert counts(planned)["to color"] == "1"
    assert len(planned) == count + 2
    assert planned[0].split("\t")[:4] == ["create", scene.days[0], "__all__", "passed"]
    assert stored.markers == []

    assert counts(markers("apply")) == {"created": str(count), "colors set": "1"}
    assert len(stored.markers) == count
    assert counts(markers("plan")) == {"as they should be": str(count)}
    assert counts(markers("apply")) == {"unchanged": str(count)}
    assert len(stored.markers) == count

    listed = markers("list")
    assert sorted(line.split("\t")[2] for line in listed) == sorted(
        one["id"] for one in stored.markers
    )
    assert listed[0].split("\t")[:2] == ["__all__", "passed"]

    (tmp_path / "markers.toml").write_text("")
    assert counts(markers("plan")) == {"to delete (prune)": str(count)}
    assert len(stored.markers) == count
    assert markers("prune", "--yes")[-1] == f"{count} markers deleted."
    assert stored.markers == []
    assert markers("prune", "--yes") == ["Nothing to delete."]
    assert markers("list") == []
    assert markers("plan") == ["Nothing to do."]


def test_marker_deleted_in_honeycomb_is_listed_and_restored(scene, markers):
    stored = scene.sandbox.honeycomb.markers
    markers("apply")
    count = len(stored.markers)
    gone = stored.markers[0]["id"]
    with scene.services.marking(print) as marking:
        marking.client.delete("__all__", gone)

    assert f"__all__\tpassed\t{gone}\tdeleted in Honeycomb" in markers("list")
    assert counts(markers("plan"))["deleted in Honeycomb (--restore places them)"] == "1"
    assert counts(markers("apply", "--restore")) == {"created": "1", "unchanged": str(count - 1)}
    assert len(stored.markers) == count


def test_plan_is_limited_to_the_given_days(scene, markers):
    [day] = scene.days

    assert markers("plan", "--to", "2001-01-01") == [markers("plan")[-2], "1 to color."]
    assert len(markers("plan", "--from", day, "--to", day)) > 2


def test_rules_on_regressions_need_stored_changes(scene, call, tmp_path):
    (tmp_path / "markers.toml").write_text(RULES.replace("state =", "regression = true #"))

    done = call("markers", "plan", **scene.services.settings.environment)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 to color.")
    assert done.stderr.startswith("Rules with regression = true have no effect yet: materialize")


def test_prune_asks_for_confirmation(scene, markers, call, tmp_path, monkeypatch):
    markers("apply")
    (tmp_path / "markers.toml").write_text("")

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = call("markers", "prune", **scene.services.settings.environment)

    assert done.returncode == 1
    assert "Delete these" in done.stdout
    assert scene.sandbox.honeycomb.markers.markers != []


@pytest.mark.parametrize(
    ("environment", "status", "message"),
    [
        ({"BK_PIPELINE_MARKERS": ""}, 2, "BK_PIPELINE_MARKERS is not set. Write a file of rules"),
        ({"BK_PIPELINE_MARKERS": "nowhere.toml"}, 2, "nowhere.toml, which cannot be read: No such"),
        ({"HONEYCOMB_CONFIGURATION_KEY": ""}, 2, "HONEYCOMB_CONFIGURATION_KEY is not set. Markers"),
        ({"HONEYCOMB_CONFIGURATION_KEY": "ingest"}, 1, "is an ingest key. Markers need a conf"),
    ],
    ids=["no rules", "no file", "no key", "ingest key"],
)
def test_missing_rules_or_key_is_a_one_line_error(scene, call, environment, status, message):
    if environment.get("HONEYCOMB_CONFIGURATION_KEY") == "ingest":
        environment = {"HONEYCOMB_CONFIGURATION_KEY": scene.sandbox.add_honeycomb_key("ingest")}

    done = call("markers", "plan", **scene.services.settings.environment | environment)

    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def honeycomb():
    """Honeycomb alone: a step that places a marker has no data directory and no rules."""
    sandbox = Sandbox(World(days=0))
    with running(sandbox) as url:
        yield (
            sandbox,
            {
                "HONEYCOMB_API_ENDPOINT": url,
                "HONEYCOMB_CONFIGURATION_KEY": sandbox.add_honeycomb_key("configuration"),
            },
        )


JOB = {
    "BUILDKITE": "true",
    "BUILDKITE_PIPELINE_SLUG": "shop",
    "BUILDKITE_BUILD_NUMBER": "7",
    "BUILDKITE_LABEL": ":rocket: Deploy",
    "BUILDKITE_BUILD_URL": "https://buildkite.com/acme/shop/builds/7",
    "BUILDKITE_JOB_ID": "0190-job",
}


def test_a_step_marks_its_deploy_and_deletes_the_marker_again(honeycomb, call):
    sandbox, environment = honeycomb
    before = int(time.time())
    added = call("markers", "add", "--dataset", "__all__", **environment, **JOB)

    assert (added.returncode, added.stderr) == (0, "")
    [listed] = sandbox.honeycomb.markers.markers
    assert added.stdout == f"{listed['id']}\n"
    assert before <= listed["start_time"] <= time.time()
    assert listed["type"] == "deploy"
    assert listed["message"] == "shop #7: :rocket: Deploy"
    assert listed["url"] == "https://buildkite.com/acme/shop/builds/7#0190-job"

    deleted = call("markers", "delete", listed["id"], "--dataset", "__all__", **environment)
    assert (deleted.returncode, deleted.stderr) == (0, "")
    assert sandbox.honeycomb.markers.markers == []
    again = call("markers", "delete", listed["id"], "--dataset", "__all__", **environment)
    assert again.returncode == 1
    assert f"There is no marker {listed['id']} in __all__" in again.stderr


def test_marker_for_a_range_in_a_dataset_is_created_once_even_if_the_response_is_lost(
    honeycomb, call
):
    sandbox, environment = honeycomb
    environment |= {"HONEYCOMB_DATASET": "My CI"}
    # The first call lists the markers, the second one creates one.
    sandbox.faults.inject("honeycomb", "reset_after", path="/1/markers/*", after=1)
    create_dataset(sandbox, environment["HONEYCOMB_API_ENDPOINT"], "My CI")

    arguments = ("--message", "maintenance", "--type", "ops", "--url", "https://example.com/x")
    times = ("--start", "2026-11-01T12:00:00+01:00", "--end", "1793538000")
    added = call("markers", "add", *arguments, *times, **environment)

    assert added.returncode == 0, added.stderr
    [listed] = sandbox.honeycomb.markers.markers
    wanted = {
        "start_time": 1793530800,
        "end_time": 1793538000,
        "type": "ops",
        "message": "maintenance",
        "url": "https://example.com/x",
    }
    assert {name: listed[name] for name in wanted} == wanted
    assert added.stdout == f"{listed['id']}\n"


def create_dataset(sandbox, url, name):
    key = sandbox.honeycomb_key
    requests.post(
        f"{url}/1/events/{name}", json={"a": 1}, headers={"X-Honeycomb-Team": key}, timeout=60
    ).raise_for_status()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "Give a --message. Only within a Buildkite job is there a default."),
        (("--message", "x", "--url", "javascript:alert(1)"), 2, "must begin with https://"),
        (("--message", "x", "--start", "yesterday"), 2, "expected Unix seconds or a time like"),
        (("--message", "x", "--start", "2026-11-01T12:00"), 2, "expected Unix seconds or a time"),
        (("--message", "x", "--start", "20", "--end", "10"), 2, "--end is before --start"),
        (("--message", "x", "--dataset", "nowhere"), 1, "has no dataset nowhere"),
    ],
)
def test_marker_that_cannot_be_added_is_explained(honeycomb, call, arguments, status, message):
    sandbox, environment = honeycomb
    done = call("markers", "add", *arguments, **environment)

    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert sandbox.honeycomb.markers.markers == []


def test_marker_needs_a_configuration_key(honeycomb, call):
    _, environment = honeycomb
    key = environment.pop("HONEYCOMB_CONFIGURATION_KEY")
    missing = call("markers", "add", "--message", "x", **environment)
    wrong = call(
        "markers",
        "add",
        "--message",
        "x",
        **environment,
        HONEYCOMB_CONFIGURATION_KEY=key[:-4] + "zzzz",
    )

    assert (missing.returncode, wrong.returncode) == (2, 1)
    assert "HONEYCOMB_CONFIGURATION_KEY is not set" in missing.stderr
    assert "Manage Markers" in wrong.stderr
    assert key not in missing.stderr + wrong.stderr
