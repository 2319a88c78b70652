"""The metrics of OpenTelemetry's semantic conventions, compared with the registry."""

from __future__ import annotations

import inspect

import pytest
from opentelemetry.semconv._incubating.metrics import cicd_metrics

from bk_pipeline.deliver.metrics.points import (
    ACTIVE_RUNS,
    AGENT,
    CONTROLLER,
    CONVENTION_INSTRUMENTS,
    SCHEDULER,
    data_points,
    measured_items,
)
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.pipeline.active_runs import RUN_STATES, STATES
from bk_pipeline_tests.spans.test_conventions import METRICS, REGISTRY
from bk_pipeline_tests.worlds import span_table

OURS = (*CONVENTION_INSTRUMENTS, ACTIVE_RUNS)
# Not of the conventions: a pipeline's name is unique in its organization only.
ADDED = {"buildkite.organization.slug"}


def kind(instrument):
    return (
        "updowncounter"
        if instrument.is_gauge
        else "histogram"
        if instrument.is_histogram
        else "counter"
    )


class Recorder:
    """Stands in for a `Meter`; keeps what was created."""

    def create_counter(self, **made):
        return "counter", made

    def create_up_down_counter(self, **made):
        return "updowncounter", made

    def create_histogram(self, **made):
        return "histogram", made


PUBLISHED = {
    made["name"]: (kind, made)
    for name, create in inspect.getmembers(cicd_metrics, inspect.isfunction)
    if name.startswith("create_")
    for kind, made in [create(Recorder())]
}


@pytest.mark.parametrize("instrument", OURS, ids=lambda one: one.name)
def test_metric_is_as_the_registry_has_it(instrument):
    registered = METRICS[instrument.name]
    names = {*instrument.attributes, *dict(instrument.constant)}

    assert (kind(instrument), instrument.unit) == (registered.instrument, registered.unit)
    assert registered.required <= names
    assert names - ADDED <= registered.required | registered.conditional


@pytest.mark.parametrize("instrument", OURS, ids=lambda one: one.name)
def test_metric_is_as_opentelemetrys_package_publishes_it(instrument):
    published, made = PUBLISHED[instrument.name]

    assert published == kind(instrument)
    assert made == {
        "name": instrument.name,
        "unit": instrument.unit,
        "description": instrument.description,
    }


def test_values_of_points_are_those_that_the_registry_enumerates():
    rows = SpanRows.from_table(span_table(seed=11, builds=150))
    found = {}
    for point in data_points(measured_items(rows), CONVENTION_INSTRUMENTS):
        for name, value in point.attributes:
            found.setdefault(name, set()).add(value)

    assert found["cicd.pipeline.result"] >= {"success", "failure"}
    for name, values in found.items():
        if REGISTRY.get(name):
            assert values <= REGISTRY[name]
    assert found["cicd.system.component"] <= {AGENT, CONTROLLER, SCHEDULER}
    assert set(STATES.values()) == set(RUN_STATES) == REGISTRY["cicd.pipeline.run.state"]


def test_required_attributes_are_on_every_point():
    rows = SpanRows.from_table(span_table(seed=11, builds=150))
    seen = set()
    for point in data_points(measured_items(rows), CONVENTION_INSTRUMENTS):
        seen.add(point.metric)
        attributes = dict(point.attributes)
        assert METRICS[point.metric].required <= set(attributes)
        if attributes.get("cicd.pipeline.result") in {"failure", "error", "timeout"}:
            assert "error.type" in attributes
    assert seen == {one.name for one in CONVENTION_INSTRUMENTS}
