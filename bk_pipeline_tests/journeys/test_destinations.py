"""Several destinations in one pipeline."""

from __future__ import annotations

import dagster as dg
import pytest

from bk_pipeline.app import App
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.settings import Settings
from bk_pipeline_tests.worlds import stage


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_each_destination_gets_every_span_once(tmp_path, instance):
    with stage(tmp_path, otlp=True) as scene:
        for _ in range(2):
            [run] = materialize_days(scene.services, scene.days, instance=instance)
            assert run.error is None
        honeycomb = [e.data for e in scene.sandbox.honeycomb.events if "trace.span_id" in e.data]
        assert scene.sandbox.otlp.span_count == len(honeycomb) > 0
        assert scene.sandbox.otlp.duplicate_count == scene.sandbox.honeycomb.duplicate_count == 0


def test_new_destination_gets_the_history_and_the_old_one_nothing(tmp_path, instance):
    with stage(tmp_path) as scene:
        list(materialize_days(scene.services, scene.days, instance=instance))
        before = scene.sandbox.honeycomb.event_count
        settings = Settings.of(
            **scene.services.settings.environment, OTEL_EXPORTER_OTLP_ENDPOINT=scene.url
        )
        services = App(settings, retries=0)
        [run] = materialize_days(services, scene.days, instance=instance)
        assert run.error is None
        assert run.results["honeycomb_events"].accepted == 0
        assert run.results["otlp_traces"].accepted == scene.sandbox.otlp.span_count > 0
        assert scene.sandbox.honeycomb.event_count == before


def test_unavailable_destination_does_not_block_the_other(tmp_path, instance):
    unavailable = {
        "BK_PIPELINE_HTTP_DEADLINE_S": "0",
        "HONEYCOMB_API_ENDPOINT": "http://127.0.0.1:9",
    }
    with stage(tmp_path, otlp=True, **unavailable) as scene:
        [run] = materialize_days(scene.services, scene.days, instance=instance)
        assert run.error is not None
        assert "127.0.0.1:9" in run.error
        assert scene.sandbox.otlp.span_count > 0
