"""What Dagster shows of each asset: numbers that it plots, and nothing that says nothing."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from bk_pipeline.buildkite.api import Usage
from bk_pipeline.defs import checks, metadata
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.pipeline import Extraction
from bk_pipeline_tests.worlds import stage

ASSETS = ("raw_builds", "spans", "build_stats", "honeycomb_events")


class Honeycomb:
    """What the metadata of a delivery need of a destination."""

    name = "honeycomb:api.honeycomb.io/acme/production/buildkite"
    max_age_description = "Spans older than 60 days are not sent."

    def __init__(self, page="https://ui.honeycomb.io/acme/datasets/buildkite"):
        self._page = page

    def page_link(self):
        return self._page


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The metadata of a quiet day of the sandbox, by asset and label."""
    folder = tmp_path_factory.mktemp("metadata")
    with stage(folder, builds_per_day=20) as scene, dg.DagsterInstance.ephemeral() as instance:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is None
        found = {}
        for asset in ASSETS:
            event = instance.get_latest_materialization_event(dg.AssetKey(asset))
            made = event.asset_materialization.metadata
            found[asset] = {label: one.value for label, one in made.items()}
        return found


@pytest.mark.parametrize("asset", ASSETS)
def test_each_asset_has_numbers_and_no_empty_metadata(shown, asset):
    values = shown[asset]
    numbers = [one for one in values.values() if isinstance(one, int | float) and one]
    assert len(numbers) >= 3
    assert "dagster/partition_row_count" in values
    assert not [label for label, one in values.items() if one in ([], "", None, {})]


def test_zeros_of_rare_cases_are_left_out():
    quiet = metadata.of_extraction(Extraction(listed=3, stored=3))
    assert set(quiet) == {
        *("builds listed", "builds stored", "whole day listed", "requests", "new files"),
        "dagster/partition_row_count",
    }
    troubled = Extraction(usage=Usage(2, 71.4), clock_skew=timedelta(seconds=9), damaged=["a"])
    found = metadata.of_extraction(troubled)
    assert found["seconds waited for the rate limit or a retry"] == 71
    assert (found["clock skew in seconds"], found["damaged files"]) == (9, ["a"])
    # What a day mostly has is plotted also when it is zero.
    assert found["builds stored"] == 0


def test_a_delivery_says_only_what_happened():
    plain = metadata.of_delivery(Delivery(accepted=5), Honeycomb(), None)
    assert set(plain) == {
        *("destination", "accepted", "delivered before", "requests"),
        "dagster/partition_row_count",
    }
    old = metadata.of_delivery(Delivery(too_old=2, rejected_unnamed=1), Honeycomb(), None)
    assert old["too old to be sent"] == 2
    assert old["what is too old"] == Honeycomb.max_age_description
    assert old["rejected, but not identified by the destination"] == 1
    assert list(checks.rejections("2026-11-26", Delivery(rejected_unnamed=1))) == [
        "2026-11-26: 1 event that the destination did not identify"
    ]


def test_honeycomb_events_link_to_the_dataset(tmp_path):
    with stage(tmp_path) as scene:
        page = scene.services.changed(
            {"HONEYCOMB_API_ENDPOINT": "https://api.honeycomb.io"}
        ).page_of(Honeycomb())
        assert scene.services.page_of(Honeycomb("https://evil.example/acme")) is None
        # Its stand-in has no HTTPS page, so the board is not asked for.
        asked = scene.sandbox.honeycomb.request_count
        assert scene.services.board_page() is None
        assert scene.sandbox.honeycomb.request_count == asked
    found = metadata.of_delivery(Delivery(), Honeycomb(), page, page)
    assert found["board"] == found["dataset"]
    assert found["dataset"] == dg.MetadataValue.url(
        "https://ui.honeycomb.io/acme/datasets/buildkite"
    )


def test_page_of_a_destination_that_cannot_be_asked_is_unknown(tmp_path):
    with stage(tmp_path, BK_PIPELINE_HTTP_DEADLINE_S="0") as scene:
        scene.sandbox.faults.inject("honeycomb", "status", status=503, count=100)
        [configured] = scene.services.destinations()
        with scene.services.destination(configured) as to:
            assert scene.services.page_of(to) is None
