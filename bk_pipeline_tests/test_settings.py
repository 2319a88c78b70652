from __future__ import annotations

from pathlib import Path

import pytest

from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings

PROJECT = Path(__file__).parents[1]
TOKEN = "bkua_" + "0123456789abcdef" * 2
KEY = "hcaik_" + "9" * 58


def test_everything_has_a_default_that_works():
    settings = Settings.load()
    assert settings.buildkite_api_url == "https://api.buildkite.com"
    assert settings.honeycomb_api_endpoint == "https://api.honeycomb.io"
    assert settings.honeycomb_dataset == "buildkite"
    assert settings.timezone.key == "UTC"
    assert settings.pipelines == ()


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("BUILDKITE_API_URL", "buildkite.internal", "give a URL like"),
        ("BUILDKITE_API_URL", "https://me:secret@api.buildkite.com", "without a user name"),
        ("HONEYCOMB_API_ENDPOINT", "https://api.honeycomb.io?x=1", "without anything behind"),
        ("HONEYCOMB_DATASET", "a/b", "without a slash"),
        ("HONEYCOMB_DATASET", "x" * 256, "1 to 255"),
        ("BK_PIPELINE_START_DATE", "yesterday", "a date like"),
        ("BK_PIPELINE_START_DATE", "31.01.2026", "a date like"),
        ("BK_PIPELINE_TIMEZONE", "Mars/Olympus", "a time zone like"),
        ("BK_PIPELINE_HTTP_DEADLINE_S", "soon", "number"),
        ("BUILDKITE_ORGANIZATION_SLUG", "my org", "the one word"),
        ("BUILDKITE_ORGANIZATION_SLUG", "'acme'", "no quotes"),
        ("BUILDKITE_ORGANIZATION_SLUG", "https://buildkite.com/acme-inc", "no URL"),
        ("BUILDKITE_API_TOKEN", "bkua_a b", "as it was issued"),
        ("BUILDKITE_API_TOKEN", '"bkua_ab"', "as it was issued"),
        ("HONEYCOMB_API_KEY", "hcaik_01j1824es7n4evcmv81cn392jb", "give the whole key"),
        ("HONEYCOMB_API_KEY", "key\nwith a line break", "as it was issued"),
    ],
)
def test_a_malformed_value_gives_one_line_with_the_variable_and_the_remedy(
    monkeypatch, name, value, advice
):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    message = str(caught.value)
    assert message.startswith(f"{name} is malformed: ")
    assert advice in message
    assert value not in message
    assert "\n" not in message


def test_each_malformed_value_gets_its_line(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_TIMEZONE", "Mars")
    monkeypatch.setenv("BK_PIPELINE_START_DATE", "soon")
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_token_or_key_is_named_with_where_to_get_it(monkeypatch):
    settings = Settings.load()
    with pytest.raises(ConfigError, match=r"BUILDKITE_API_TOKEN is not set.*read_builds"):
        settings.require_buildkite()
    with pytest.raises(ConfigError, match=r"HONEYCOMB_API_KEY is not set.*ingest key"):
        settings.require_honeycomb()
    monkeypatch.setenv("BUILDKITE_API_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="BUILDKITE_ORGANIZATION_SLUG is not set"):
        Settings.load().require_buildkite()


def test_no_secret_is_ever_printed(monkeypatch):
    monkeypatch.setenv("BUILDKITE_API_TOKEN", TOKEN)
    monkeypatch.setenv("HONEYCOMB_API_KEY", KEY)
    settings = Settings.load()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert TOKEN not in text
        assert KEY not in text
    assert settings.require_honeycomb() == KEY


def test_empty_is_as_good_as_unset(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_API_KEY", "")
    monkeypatch.setenv("BK_PIPELINE_START_DATE", "")
    assert Settings.load().honeycomb_api_key is None


def test_the_file_dot_env_counts_and_the_environment_goes_before_it(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("HONEYCOMB_DATASET=from-file\nBK_PIPELINE_TIMEZONE=Asia/Tokyo\n")
    monkeypatch.setenv("HONEYCOMB_DATASET", "from-environment")
    settings = Settings.load()
    assert settings.honeycomb_dataset == "from-environment"
    assert settings.timezone.key == "Asia/Tokyo"


def test_pipelines_are_globs_between_commas_or_spaces(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_PIPELINES", "web-*, deploy  !web-old,")
    assert Settings.load().pipelines == ("web-*", "deploy", "!web-old")


def test_data_lie_beside_dagster_home(monkeypatch, tmp_path):
    assert Settings.load().storage == str(tmp_path / ".bk_pipeline")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "deep" / "home"))
    assert Settings.load().storage == str(tmp_path / "deep" / ".bk_pipeline")
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "elsewhere")
    settings = Settings.load()
    assert settings.storage == str(tmp_path / "elsewhere")
    assert settings.ledger_path == tmp_path / "elsewhere" / "ledger.sqlite"


def test_data_in_an_object_store_leave_the_ledger_on_a_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "s3://bucket/ci")
    settings = Settings.load()
    assert settings.storage == "s3://bucket/ci"
    assert settings.ledger_path == tmp_path / ".bk_pipeline" / "ledger.sqlite"


def test_given_settings_read_no_environment(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_DATASET", "from-environment")
    assert Settings.of(BK_PIPELINE_TIMEZONE="Asia/Tokyo").honeycomb_dataset == "buildkite"


def test_the_example_names_every_setting_and_no_other():
    lines = (PROJECT / ".env.example").read_text().splitlines()
    named = {
        line.lstrip("#").partition("=")[0] for line in lines if "=" in line and line[:2] != "# "
    }
    ours = {name for name in named if not name.startswith("OTEL_")}
    assert ours == {field.alias for field in Settings.model_fields.values()}


@pytest.mark.parametrize(
    "content",
    [
        "BUILDKITE_API_TOKEN={}\nHONEYCOMB_DATASET=ci\n",
        "BUILDKITE_API_TOKEN={}\r\nHONEYCOMB_DATASET=ci\r\n",
        "\ufeffBUILDKITE_API_TOKEN={}\nHONEYCOMB_DATASET=ci",
        "  BUILDKITE_API_TOKEN = {}  \n\n# a remark\nHONEYCOMB_DATASET= ci # another\n",
        "export BUILDKITE_API_TOKEN=\"{}\"\nexport HONEYCOMB_DATASET='ci'\n",
    ],
    ids=["plain", "CRLF", "byte order mark", "spaces and remarks", "exports and quotes"],
)
def test_a_file_is_read_however_it_was_written(content):
    Path(".env").write_bytes(content.format(TOKEN).encode())
    settings = Settings.load()
    assert settings.buildkite_api_token.get_secret_value() == TOKEN
    assert settings.honeycomb_dataset == "ci"
    assert settings.environment["BUILDKITE_API_TOKEN"] == TOKEN


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'A=1\nBUILDKITE_API_TOKEN="bkua_1\n', "line 2, is no NAME=value"),
        (b"BUILDKITE_API_TOKEN: bkua_1\n", "line 1, is no NAME=value"),
        (b"BUILDKITE_API_TOKEN bkua_1\n", "line 1, is no NAME=value"),
        ("BUILDKITE_API_TOKEN=bkua_1\n".encode("utf-16"), "is no text in UTF-8"),
    ],
    ids=["open quote", "colon", "space", "UTF-16"],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_line(content, says):
    Path(".env").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        Settings.load()
    assert str(Path(".env").absolute()) in str(caught.value)
    assert "bkua_1" not in str(caught.value)
