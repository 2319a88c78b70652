from __future__ import annotations

import io

import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.pipeline import extract_day, transform_day
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
