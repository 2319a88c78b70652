"""The definitions as readable text. `python -m bk_pipeline_tests.defs.snapshot` writes the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from bk_pipeline.app import App
from bk_pipeline.defs.definitions import build_definitions
from bk_pipeline.settings import Settings

FILE = Path(__file__).with_name("definitions.txt")
EVERYTHING = {
    "HONEYCOMB_API_KEY": "hcaik_" + "a" * 58,
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://tempo.example.com/s3cret-path",
    "BK_PIPELINE_MARKERS": "markers.toml",
    "BK_PIPELINE_DEPLOYMENTS": "deployments.toml",
    "BK_PIPELINE_DATA_DIR": "/data",
}


def snapshot() -> str:
    """The definitions of a pipeline that has its code location to itself, and of a named one."""
    lines = []
    for title, settings in (
        ("By itself", EVERYTHING),
        (
            "As acme, below ci",
            {**EVERYTHING, "BK_PIPELINE_NAME": "acme", "BK_PIPELINE_KEY_PREFIX": "ci/acme"},
        ),
    ):
        definitions = build_definitions(App(Settings.of(**settings)))
        lines += [f"# {title}", *_assets(definitions), *_automation(definitions)]
        lines += [*_resources(definitions), ""]
    return "\n".join(lines)


def _assets(definitions: dg.Definitions) -> Iterator[str]:
    for asset in definitions.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        [spec] = asset.specs
        deps = ", ".join(one.asset_key.to_user_string() for one in spec.deps) or "nothing"
        yield f"asset {spec.key.to_user_string()} of {deps}"
        yield f"    group {spec.group_name}, owners {', '.join(spec.owners)}"
        yield f"    kinds {', '.join(sorted(spec.kinds))}; op {asset.op.name}, pool {asset.op.pool}"
        for name, field in getattr(asset.op.config_schema.config_type, "fields", {}).items():
            assert field.description, name
            yield f"    config {name}: {field.default_value}"
        for check in asset.check_specs:
            yield f"    check {check.name}"
    for checks in definitions.asset_checks or ():
        for check in checks.check_specs:
            yield f"check {check.name} of {check.asset_key.to_user_string()}; op {checks.op.name}"
    assert definitions.executor is None


def _automation(definitions: dg.Definitions) -> Iterator[str]:
    repository = definitions.get_repository_def()
    for job in sorted(repository.get_all_jobs(), key=lambda one: one.name):
        selected = [key.to_user_string() for key in job.asset_layer.selected_asset_keys]
        if not job.name.startswith("__"):
            yield f"job {job.name}: {', '.join(sorted(selected)) or 'checks'}"
    for sensor in repository.sensor_defs:
        status = sensor.default_status.value
        yield f"sensor {sensor.name}: {sensor.job_name}, {status}, {sensor.minimum_interval_seconds} s"
    for schedule in repository.schedule_defs:
        status = schedule.default_status.value
        cron = f"{schedule.cron_schedule} {schedule.execution_timezone}"
        yield f"schedule {schedule.name}: {schedule.job_name}, {status}, {cron}"


def _resources(definitions: dg.Definitions) -> Iterator[str]:
    for key, resource in (definitions.resources or {}).items():
        yield f"resource {key}: {type(resource).__name__}"
        for name, value in resource.model_dump(exclude={"app"}).items():
            if value is not None:
                yield f"    {name}: {value}"


if __name__ == "__main__":
    FILE.write_text(snapshot())
