"""Generate the dashboards for Grafana, from the span fields and the definitions of metrics.

`python -m bk_pipeline.dashboards` writes `dashboards/grafana/*.json`; `--check` fails if one is out of
date. A query can only name an attribute or metric that is declared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bk_pipeline.deliver.metrics import deployments, points
from bk_pipeline.deliver.metrics.points import Instrument, Measure
from bk_pipeline.docsgen import write_or_check
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.model import SpanKind

FOLDER = Path(__file__).parents[1] / "dashboards" / "grafana"
METRICS = {
    one.name: one for one in (*points.INSTRUMENTS, points.ACTIVE_RUNS, *deployments.INSTRUMENTS)
}
# How Prometheus' translation writes units; `interop/test_checks.py` of the tests asks it.
SUFFIXES = {"ms": "_milliseconds", "s": "_seconds"}
WIDTH, HEIGHT = 12, 8
Json = dict[str, Any]


def series(one: Instrument) -> str:
    """Return the name that Prometheus gives a metric."""
    total = "" if one.is_gauge or one.is_histogram else "_total"
    return one.name.replace(".", "_") + SUFFIXES.get(one.unit, "") + total


def label(one: Instrument, attribute: str) -> str:
    """Return the label of an attribute of the metric.

    Raises:
        KeyError: The metric does not have it.
    """
    if attribute not in one.attributes:
        raise KeyError(f"{one.name} has no attribute {attribute}")
    return attribute.replace(".", "_")


def selector(one: Instrument, conditions: Mapping[str, str]) -> str:
    """Return the metric with matchers: those of the dashboard's variables, and `conditions`."""
    matchers = [
        f'{label(one, attribute)}=~"${variable}"'
        for attribute, variable in VARIABLES.items()
        if attribute in one.attributes
    ]
    matchers += [f'{label(one, name)}="{value}"' for name, value in conditions.items()]
    return f"{series(one)}{{{', '.join(matchers)}}}"


VARIABLES = {
    points.ORGANIZATION: "organization",
    points.PIPELINE: "pipeline",
    points.QUEUE: "queue",
    deployments.SERVICE: "service",
}


def added(one: Instrument, by: str, *, over: str = "$__interval", **conditions: str) -> str:
    """Return PromQL: the increase of a counter, by an attribute."""
    found = {name.replace("__", "."): value for name, value in conditions.items()}
    return f"sum by ({label(one, by)}) (increase({selector(one, found)}[{over}]))"


def quantile(share: float, one: Instrument, by: str, *, over: str = "$__interval") -> str:
    """Return PromQL: a quantile of a histogram, by an attribute."""
    return f"histogram_quantile({share}, {added(one, by, over=over)})"


def field(name: str) -> str:
    """Return TraceQL: an attribute of the span table with its scope.

    Raises:
        StopIteration: There is none of this name.
    """
    found = next(one for one in FIELDS if one.name == name)
    return f"{'resource' if found.resource else 'span'}.{found.name}"


def spans(kind: SpanKind, *conditions: str) -> str:
    """Return TraceQL: the spans of a kind, of the pipelines that the dashboard shows."""
    chosen = f'{field("buildkite.pipeline.slug")} =~ "$pipeline"'
    return "{ " + " && ".join([f'name = "{kind}"', chosen, *conditions]) + " }"


def panel(title: str, targets: Sequence[tuple[str, str]], *, unit: str, **options: Any) -> Json:
    """Return a panel of PromQL queries and their legends."""
    return _panel(title, unit, "prometheus", options) | {
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "expr": expression,
                "legendFormat": legend,
                "interval": "1h",
                "datasource": _source("prometheus"),
            }
            for n, (expression, legend) in enumerate(targets)
        ]
    }


def trace_panel(title: str, query: str, *, unit: str = "short", **options: Any) -> Json:
    """Return a panel of a TraceQL query."""
    return _panel(title, unit, "tempo", options) | {
        "targets": [
            {
                "refId": "A",
                "queryType": "traceql",
                "query": query,
                "limit": 20,
                "tableType": "traces",
                "datasource": _source("tempo"),
            }
        ]
    }


def _panel(title: str, unit: str, source: str, options: Mapping[str, Any]) -> Json:
    return {
        "type": options.get("type", "timeseries"),
        "title": title,
        "description": options.get("description", ""),
        "datasource": _source(source),
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": options.get("custom", {})},
            "overrides": [],
        },
    }


BARS = {"drawStyle": "bars", "fillOpacity": 60, "stacking": {"group": "A", "mode": "normal"}}


def _source(kind: str) -> Json:
    return {"type": kind, "uid": "${datasource}"}


def metrics_dashboard() -> Json:
    """Return the dashboard of the metrics, through Prometheus."""
    builds, jobs = METRICS["buildkite.builds.count"], METRICS["buildkite.jobs.count"]
    took, waited = METRICS["buildkite.builds.duration"], METRICS["buildkite.jobs.wait_time"]
    errors, system = METRICS["cicd.pipeline.run.errors"], METRICS["cicd.system.errors"]
    active = METRICS["cicd.pipeline.run.active"]
    states = f"sum by ({label(active, points.RUN_STATE)}) ({selector(active, {})})"
    panels = [
        panel("Builds by state", [_named(builds, points.STATE)], unit="short", custom=BARS),
        panel("Build duration", _quantiles(took, points.PIPELINE), unit="ms"),
        panel("Wait for an agent", _quantiles(waited, points.QUEUE), unit="ms"),
        panel("Jobs, passed or not", [_named(jobs, points.PASSED)], unit="short", custom=BARS),
        panel("Job errors by type", [_named(errors, points.ERROR_TYPE)], unit="short", custom=BARS),
        panel(
            "Errors of the CI system by component",
            [_named(system, points.COMPONENT)],
            unit="short",
            custom=BARS,
        ),
        panel(
            "Active builds",
            [(states, f"{{{{{label(active, points.RUN_STATE)}}}}}")],
            unit="short",
            description="Only with BK_PIPELINE_SENSOR_ACTIVE_RUNS.",
        ),
        *_deployment_panels(),
    ]
    sources = zip(VARIABLES.items(), (builds, builds, waited, DEPLOYED), strict=True)
    variables = [
        _choices(name, f"label_values({series(one)}, {label(one, attribute)})")
        for (attribute, name), one in sources
    ]
    return _dashboard("Buildkite metrics", "prometheus", variables, panels)


DEPLOYED = METRICS["bk_pipeline.deployments"]


def _deployment_panels() -> list[Json]:
    failures = METRICS["bk_pipeline.deployment.change_failures"]
    lead, restore = (
        METRICS[f"bk_pipeline.deployment.{name}"] for name in ("lead_time", "time_to_restore")
    )
    by = deployments.SERVICE
    legend = f"{{{{{label(DEPLOYED, by)}}}}}"
    ended = {"bk_pipeline__deployment__kind": "deployment", "deployment__status": "succeeded"}
    rate = " / ".join(
        (
            added(failures, by, over="$__range"),
            added(DEPLOYED, by, over="$__range", bk_pipeline__deployment__kind="deployment"),
        )
    )
    return [
        panel(
            "Deployment frequency",
            [(added(DEPLOYED, by, **ended), legend)],
            unit="short",
            custom=BARS,
            description="Successful deployments, if there are rules for deployments.",
        ),
        panel("Change failure rate", [(rate, legend)], unit="percentunit", type="bargauge"),
        panel(
            "Lead time for changes, median",
            [(quantile(0.5, lead, by, over="$__range"), legend)],
            unit="s",
            type="bargauge",
        ),
        panel(
            "Time to restore, median",
            [(quantile(0.5, restore, by, over="$__range"), legend)],
            unit="s",
            type="bargauge",
        ),
    ]


def _named(one: Instrument, by: str) -> tuple[str, str]:
    return added(one, by), f"{{{{{label(one, by)}}}}}"


def _quantiles(one: Instrument, by: str) -> list[tuple[str, str]]:
    assert one.measure is not Measure.COUNT
    return [
        (quantile(share, one, by), f"{{{{{label(one, by)}}}}} p{share * 100:.0f}")
        for share in (0.5, 0.95)
    ]


def traces_dashboard() -> Json:
    """Return the dashboard of the spans, by TraceQL."""
    build, step, job = SpanKind.BUILD, SpanKind.STEP, SpanKind.JOB
    pipeline, key = field("buildkite.pipeline.slug"), field("buildkite.step.key")
    state, queue = field("buildkite.build.state"), field("buildkite.agent.queue")
    failed = spans(job, "status = error")
    on_path = spans(job, f"{field('bk_pipeline.critical_path')} = true")
    retried = spans(job, f"{field('buildkite.job.retried')} = true")
    wait, path_ms = field("buildkite.job.wait_time_ms"), field("bk_pipeline.critical_path_ms")
    by_pipeline = f"quantile_over_time(duration, .5, .95) by ({pipeline})"
    panels = [
        trace_panel(
            "Builds by state", f"{spans(build)} | count_over_time() by ({state})", custom=BARS
        ),
        trace_panel("Build duration p50, p95", f"{spans(build)} | {by_pipeline}", unit="s"),
        trace_panel(
            "Wait for an agent p50, p95",
            f"{spans(job)} | quantile_over_time({wait}, .5, .95) by ({queue})",
            unit="ms",
        ),
        trace_panel(
            "Slowest steps p95",
            f"{spans(step)} | quantile_over_time(duration, .95) by ({pipeline}, {key})",
            unit="s",
        ),
        trace_panel(
            "Time on the critical path by step",
            f"{on_path} | sum_over_time({path_ms}) by ({pipeline}, {key})",
            unit="ms",
            custom=BARS,
        ),
        trace_panel(
            "Failed jobs by type of error",
            f"{failed} | count_over_time() by ({field('error.type')})",
            custom=BARS,
        ),
        trace_panel(
            "Retried jobs by step",
            f"{retried} | count_over_time() by ({pipeline}, {key})",
            custom=BARS,
        ),
        trace_panel(
            "Cost by pipeline",
            f"{spans(build)} | sum_over_time({field('bk_pipeline.cost')}) by ({pipeline})",
            custom=BARS,
            description="Only with BK_PIPELINE_COSTS; in its currency.",
        ),
        trace_panel("Failed builds", spans(build, f'{state} = "failed"'), type="table"),
        trace_panel("Builds of more than 30 minutes", spans(build, "duration > 30m"), type="table"),
    ]
    typed = {"type": "textbox", "name": "pipeline", "label": "pipeline (regular expression)"}
    variables = [typed | {"query": ".*", "current": {"text": ".*", "value": ".*"}}]
    return _dashboard("Buildkite traces", "tempo", variables, panels)


def _choices(name: str, query: str) -> Json:
    return {
        "type": "query",
        "name": name,
        "label": name,
        "query": query,
        "datasource": _source("prometheus"),
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _dashboard(title: str, source: str, variables: list[Json], panels: Sequence[Json]) -> Json:
    chosen = {"type": "datasource", "name": "datasource", "label": "data source", "query": source}
    placed = [
        one
        | {
            "id": n + 1,
            "gridPos": {"x": n % 2 * WIDTH, "y": n // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        }
        for n, one in enumerate(panels)
    ]
    return {
        "uid": title.lower().replace(" ", "-"),
        "title": title,
        "description": "Generated by bk_pipeline (make dashboards).",
        "tags": ["buildkite", "bk_pipeline"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-7d", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [chosen, *variables]},
        "panels": placed,
    }


DASHBOARDS: Mapping[str, Callable[[], Json]] = {
    "buildkite-metrics.json": metrics_dashboard,
    "buildkite-traces.json": traces_dashboard,
}


def main(arguments: list[str]) -> int:
    """Write the dashboards, or with `--check` report those that are out of date.

    Returns:
        The exit status.
    """
    made = {
        FOLDER / name: lambda dashboard=dashboard: json.dumps(dashboard(), indent=2) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }
    return write_or_check(made, arguments, target="dashboards")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
