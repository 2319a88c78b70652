"""The component's fields are the settings."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml

from bk_pipeline.components import BuildkitePipelineComponent
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings

KEY = "hcaik_" + "a" * 58
# Dagster's own `resolve_from_yaml` warns.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def settings_of(text: str) -> Settings:
    return BuildkitePipelineComponent.resolve_from_yaml(text).settings()


def test_every_setting_is_a_field_named_like_its_variable():
    for name, field in Settings.model_fields.items():
        assert str(field.alias) in {name.upper(), f"BK_PIPELINE_{name.upper()}"}
        ours = BuildkitePipelineComponent.model_fields[name]
        assert ours.description == field.description


def test_field_takes_precedence_over_its_variable(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_DATASET", "theirs")
    monkeypatch.setenv("BK_PIPELINE_NIGHTLY_DAYS", "9")
    found = settings_of("honeycomb_dataset: ours\npipelines: [web-*, deploy]\nspans_waits: true")
    assert (found.honeycomb_dataset, found.nightly_days) == ("ours", 9)
    assert (found.pipelines, found.spans_waits) == (("web-*", "deploy"), True)


@pytest.mark.parametrize("text", ["honeycomb_api_key: null", 'honeycomb_api_key: "{{ env.NONE }}"'])
def test_null_field_does_not_fall_back_to_the_environment(monkeypatch, text):
    monkeypatch.setenv("HONEYCOMB_API_KEY", KEY)
    assert settings_of("name: acme").honeycomb_api_key is not None
    assert settings_of(text).honeycomb_api_key is None


def test_variables_without_a_field_can_be_set_and_unset(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    component = BuildkitePipelineComponent.resolve_from_yaml(
        "variables: {OTEL_EXPORTER_OTLP_ENDPOINT: null, OTEL_SERVICE_NAME: ci}"
    )
    found = component.settings().environment
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in found
    assert found["OTEL_SERVICE_NAME"] == "ci"


def test_malformed_field_is_named_without_its_value():
    with pytest.raises(ConfigError, match=r"HONEYCOMB_API_KEY is malformed") as raised:
        settings_of('honeycomb_api_key: "two words"')
    assert "two words" not in str(raised.value)


@pytest.mark.parametrize("field", ["name", "key_prefix"])
def test_invalid_name_is_rejected_with_an_example(field):
    with pytest.raises(ConfigError, match=r"like (ci/)?acme"):
        settings_of(f'{field}: "Acme Inc."')


def test_component_repr_contains_no_secret():
    component = BuildkitePipelineComponent.resolve_from_yaml(f"honeycomb_api_key: {KEY}")
    assert KEY not in repr(component)


def test_embedding_project_sets_group_and_owners():
    component = BuildkitePipelineComponent(group_name="ci", owners=["team:platform"])
    for asset in dg.build_defs_for_component(component).assets or ():
        assert set(asset.group_names_by_key.values()) == {"ci"}
        assert {owner for one in asset.specs for owner in one.owners} == {"team:platform"}


def test_example_in_the_docs_resolves(monkeypatch):
    monkeypatch.setenv("ACME_BUILDKITE_TOKEN", "bkua_0123456789")
    [example] = re.findall(r"```yaml\n +(type: .*?)```", PAGE.read_text(), re.DOTALL)
    given = yaml.safe_load(re.sub(r"^   ", "", example, flags=re.MULTILINE))
    found = settings_of(yaml.safe_dump(given["attributes"]))
    assert found.require_buildkite() == ("acme", "bkua_0123456789")
    assert found.honeycomb_api_key is None
    assert found.storage.endswith(".bk_pipeline/pipelines/acme")
