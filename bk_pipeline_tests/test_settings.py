from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from bk_pipeline.deliver.resource import resource_attributes
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings

PROJECT = Path(__file__).parents[1]
TOKEN = "bkua_" + "0123456789abcdef" * 2
KEY = "hcaik_" + "9" * 58


def test_defaults_are_valid():
    settings = Settings.load()
    assert settings.buildkite_api_url == "https://api.buildkite.com"
    assert settings.honeycomb_api_endpoint == "https://api.honeycomb.io"
    assert settings.honeycomb_dataset == "buildkite"
    assert settings.timezone.key == "UTC"
    assert settings.pipelines == ()


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("BUILDKITE_API_URL", "buildkite.internal", "give a URL like https://api.buildkite.com"),
        ("HONEYCOMB_API_ENDPOINT", "hny.internal", "give a URL like https://api.honeycomb.io"),
        ("BUILDKITE_API_TOKEN", "bkct_0123456789abcdef", "this is an agent token; create an API"),
        ("BUILDKITE_API_TOKEN", "bkaj_0123456789abcdef", "this is an agent token; create an API"),
        ("BUILDKITE_API_TOKEN", KEY, "this is a key of Honeycomb"),
        ("HONEYCOMB_API_KEY", TOKEN, "this is a token of Buildkite"),
        ("HONEYCOMB_CONFIGURATION_KEY", TOKEN, "this is a token of Buildkite"),
        ("BUILDKITE_API_URL", "https://me:secret@api.buildkite.com", "without a user name"),
        ("HONEYCOMB_API_ENDPOINT", "https://api.honeycomb.io?x=1", "without anything behind"),
        ("HONEYCOMB_DATASET", "a/b", "without a slash"),
        ("HONEYCOMB_DATASET", "x" * 256, "1 to 255"),
        ("BK_PIPELINE_START_DATE", "yesterday", "a date like"),
        ("BK_PIPELINE_START_DATE", "31.01.2026", "a date like"),
        ("BK_PIPELINE_TIMEZONE", "Mars/Olympus", "a time zone like"),
        ("BK_PIPELINE_HTTP_DEADLINE_S", "soon", "number"),
        ("BUILDKITE_ORGANIZATION_SLUG", "my org", "give the slug alone"),
        ("BUILDKITE_ORGANIZATION_SLUG", "'acme'", "no quotes"),
        ("BUILDKITE_ORGANIZATION_SLUG", "https://buildkite.com/acme-inc", "no URL"),
        ("BUILDKITE_API_TOKEN", "bkua_a b", "as it was issued"),
        ("BUILDKITE_API_TOKEN", '"bkua_ab"', "as it was issued"),
        ("HONEYCOMB_API_KEY", "hcaik_01j1824es7n4evcmv81cn392jb", "give the whole key"),
        ("HONEYCOMB_API_KEY", "key\nwith a line break", "as it was issued"),
        *(
            ("BK_PIPELINE_SPANS_SERVICE_NAME", template, "only {pipeline} and {organization} are")
            for template in (
                "ci-{slug}",
                "ci-{Pipeline}",
                "{pipeline}-{cluster}",
                "{pipeline}{}",
                "{pipeline}{0}",
                "web-{pipeline",
                "ci-pipeline}",
                "{pipeline}}",
                "{pipeline!r}",
                "{pipeline:>40}",
                "{pipeline.slug}",
                "{pipeline[0]}",
                "{pipeline:{organization}}",
            )
        ),
        *(
            ("BK_PIPELINE_SPANS_SERVICE_NAME", template, "with {pipeline} in it")
            for template in ("one-for-all", "ci-$pipeline", "{{pipeline}}", "ci-{organization}")
        ),
        ("BK_PIPELINE_SPANS_SERVICE_NAME", "{pipeline}" + "é" * 50, "at most 100 bytes"),
    ],
)
def test_malformed_value_is_one_line_with_the_variable_and_advice(monkeypatch, name, value, advice):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    message = str(caught.value)
    assert message.startswith(f"{name} is malformed: ")
    assert advice in message
    assert value not in message
    assert "\n" not in message


def test_each_malformed_value_has_its_own_line(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_TIMEZONE", "Mars")
    monkeypatch.setenv("BK_PIPELINE_START_DATE", "soon")
    with pytest.raises(ConfigError) as caught:
        Settings.load()
    assert len(str(caught.value).splitlines()) == 2


def test_missing_token_or_key_is_named_with_where_to_create_it(monkeypatch):
    settings = Settings.load()
    with pytest.raises(ConfigError, match=r"BUILDKITE_API_TOKEN is not set.*read_builds"):
        settings.require_buildkite()
    with pytest.raises(ConfigError, match=r"HONEYCOMB_API_KEY is not set.*ingest key"):
        settings.require_honeycomb()
    monkeypatch.setenv("BUILDKITE_API_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="BUILDKITE_ORGANIZATION_SLUG is not set"):
        Settings.load().require_buildkite()


def test_missing_token_names_the_env_file_that_was_searched(tmp_path):
    for state in ("which does not exist", "which does not set it"):
        with pytest.raises(ConfigError, match=f"put it into {tmp_path}/.env, {state}, or export"):
            Settings.load().require_buildkite()
        (tmp_path / ".env").write_text("HONEYCOMB_DATASET=ci\n")


def test_secrets_are_never_shown(monkeypatch):
    monkeypatch.setenv("BUILDKITE_API_TOKEN", TOKEN)
    monkeypatch.setenv("HONEYCOMB_API_KEY", KEY)
    settings = Settings.load()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert TOKEN not in text
        assert KEY not in text
    assert settings.require_honeycomb() == KEY


def test_empty_value_counts_as_unset(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_API_KEY", "")
    monkeypatch.setenv("BK_PIPELINE_START_DATE", "")
    assert Settings.load().honeycomb_api_key is None


def test_environment_takes_precedence_over_the_env_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("HONEYCOMB_DATASET=from-file\nBK_PIPELINE_TIMEZONE=Asia/Tokyo\n")
    monkeypatch.setenv("HONEYCOMB_DATASET", "from-environment")
    settings = Settings.load()
    assert settings.honeycomb_dataset == "from-environment"
    assert settings.timezone.key == "Asia/Tokyo"


def test_pipelines_are_globs_between_commas_or_spaces(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_PIPELINES", "web-*, deploy  !web-old,")
    assert Settings.load().pipelines == ("web-*", "deploy", "!web-old")


def test_data_folder_is_next_to_dagster_home(monkeypatch, tmp_path):
    assert Settings.load().storage == str(tmp_path / ".bk_pipeline")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "deep" / "home"))
    assert Settings.load().storage == str(tmp_path / "deep" / ".bk_pipeline")
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "elsewhere")
    settings = Settings.load()
    assert settings.storage == str(tmp_path / "elsewhere")
    assert settings.ledger_path == tmp_path / "elsewhere" / "ledger.sqlite"


def test_ledger_is_local_if_the_data_is_in_an_object_store(monkeypatch, tmp_path):
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "s3://bucket/ci")
    settings = Settings.load()
    assert settings.storage == "s3://bucket/ci"
    assert settings.ledger_path == tmp_path / ".bk_pipeline" / "ledger.sqlite"


def test_given_settings_read_no_environment(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_DATASET", "from-environment")
    assert Settings.of(BK_PIPELINE_TIMEZONE="Asia/Tokyo").honeycomb_dataset == "buildkite"


def test_env_example_names_exactly_the_settings():
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
        "  BUILDKITE_API_TOKEN = {}  \n\n# a comment\nHONEYCOMB_DATASET= ci # another\n",
        "export BUILDKITE_API_TOKEN=\"{}\"\nexport HONEYCOMB_DATASET='ci'\n",
    ],
    ids=["plain", "CRLF", "byte order mark", "spaces and comments", "exports and quotes"],
)
def test_env_file_is_read_in_any_common_form(content):
    Path(".env").write_bytes(content.format(TOKEN).encode())
    settings = Settings.load()
    assert settings.buildkite_api_token.get_secret_value() == TOKEN
    assert settings.honeycomb_dataset == "ci"
    assert settings.environment["BUILDKITE_API_TOKEN"] == TOKEN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'A=1\nBUILDKITE_API_TOKEN="bkua_1\n', "line 2 is not of the form NAME=value"),
        (b"BUILDKITE_API_TOKEN: bkua_1\n", "line 1 is not of the form NAME=value"),
        (b"BUILDKITE_API_TOKEN bkua_1\n", "line 1 is not of the form NAME=value"),
        ("BUILDKITE_API_TOKEN=bkua_1\n".encode("utf-16"), "is not valid UTF-8"),
    ],
    ids=["open quote", "colon", "space", "UTF-16"],
)
def test_malformed_env_file_is_an_error_with_the_line(content, message):
    Path(".env").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Settings.load()
    assert str(Path(".env").absolute()) in str(caught.value)
    assert "bkua_1" not in str(caught.value)


# A variable of each kind, a value that it takes, and where the value can be seen.
KINDS = {
    "BUILDKITE_API_TOKEN": TOKEN,
    "BUILDKITE_ORGANIZATION_SLUG": "acme",
    "BUILDKITE_API_URL": "http://127.0.0.1:1",
    "HONEYCOMB_API_KEY": KEY,
    "HONEYCOMB_DATASET": "ci",
    "BK_PIPELINE_PIPELINES": "web-*",
    "BK_PIPELINE_BRANCHES": "main",
    "BK_PIPELINE_SPANS_DROP": "*.email",
    "BK_PIPELINE_SPANS_HASH": "*.hostname",
    "BK_PIPELINE_SPANS_MASK": r"\bfoo\d+",
    "BK_PIPELINE_DATA_DIR": "data",
    "BK_PIPELINE_TIMEZONE": "Asia/Tokyo",
    "BK_PIPELINE_LEDGER_URL": "sqlite:////tmp/ledger.sqlite",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-key=abc",
    "OTEL_SERVICE_NAME": "ci",
    "OTEL_RESOURCE_ATTRIBUTES": "team=web",
    "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4319",
    "HTTPS_PROXY": "http://127.0.0.1:3128",
    "no_proxy": "internal",
    "REQUESTS_CA_BUNDLE": "ca.pem",
}
# What a shell, a file or a copied page leaves around or in a value, and whether it is harmless.
SLIPS = {
    "double quotes": '"{}"',
    "single quotes": "'{}'",
    "typographic quotes": "\u201c{}\u201d",
    "a quote before it": '"{}',
    "a line break in it": "{}\n{}",
    "a character that cannot be seen": "\u200b{}",
    "bytes that are not UTF-8": "{}\udcff",
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_value_with_leftovers_of_quoting_is_rejected(monkeypatch, name, slip):
    monkeypatch.setenv(name, slip.format(KINDS[name], KINDS[name]))
    with pytest.raises(ConfigError, match=f"^{name} is malformed: ") as caught:
        Settings.load()
    assert len(str(caught.value).splitlines()) == 1
    # A description may have such a value as its example.
    assert KINDS[name] not in str(caught.value).partition(" It is: ")[0]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("around", ["{}\r", "{}\n", " {}\t", "\u00a0{}"], ids=repr)
def test_white_space_around_a_value_is_ignored(monkeypatch, name, around):
    monkeypatch.setenv(name, around.format(KINDS[name]))
    assert Settings.load().environment[name] == KINDS[name]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("empty", ["", "  ", "\n"], ids=repr)
def test_exported_empty_value_does_not_override_the_file(monkeypatch, name, empty):
    Path(".env").write_text(f"{name}={KINDS[name]}\n")
    monkeypatch.setenv(name, empty)
    assert Settings.load().environment[name] == KINDS[name]
    monkeypatch.setenv(name, KINDS[name])
    Path(".env").write_text(f"{name}=\n")
    assert Settings.load().environment[name] == KINDS[name]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_variable_is_read_from_the_env_file(name):
    Path(".env").write_text(f"{name}='{KINDS[name]}'\r\n")
    assert Settings.load().environment[name] == KINDS[name]
    Path(".env").write_text(f"{name}=\u201c{KINDS[name]}\u201d\n")
    with pytest.raises(ConfigError, match=f"^{name} is malformed"):
        Settings.load()


def test_pattern_may_end_with_a_quotation_mark(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_SPANS_MASK", 'password="[^"]*"')
    assert Settings.load().spans_mask == 'password="[^"]*"'


def test_quotes_around_one_of_several_names_are_rejected(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_PIPELINES", "web,'deploy',docs")
    with pytest.raises(ConfigError, match="no quotes around them"):
        Settings.load()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (r"BK_PIPELINE_SPANS_MASK=\bfoo\d+", r"\bfoo\d+"),
        (r"BK_PIPELINE_SPANS_MASK='\bfoo\d+'", r"\bfoo\d+"),
        (r'BK_PIPELINE_SPANS_MASK="foo\d+\."', r"foo\d+\."),
        (r'BK_PIPELINE_SPANS_MASK="\\bfoo"', r"\bfoo"),
        ("BK_PIPELINE_SPANS_MASK=pa$word$x", "pa$word$x"),
        ("X=foo\nBK_PIPELINE_SPANS_MASK=${X}bar", "foobar"),
        ("BK_PIPELINE_SPANS_MASK=${NONE:-foo}", "foo"),
    ],
)
def test_escapes_and_dollars_are_read_like_dagster_dev(line, value):
    Path(".env").write_text(f"OTHER={{}}\n{line}\n")
    assert Settings.load().spans_mask == value
    assert dotenv_values(".env")["BK_PIPELINE_SPANS_MASK"] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'BK_PIPELINE_SPANS_MASK="\bfoo\d+"', "escape between double quotes"),
        (r'BK_PIPELINE_SPANS_MASK="\\\nfoo"', "escape between double quotes"),
        (r"BK_PIPELINE_SPANS_MASK='a\\.b'", "between single quotes"),
        ("BK_PIPELINE_LEDGER_URL=postgresql://u:s3${x}cret@h/d", r"holds \$\{…\}.*none is set"),
        ("X=1\nHONEYCOMB_API_KEY='s3${X}cret'", r"holds \$\{…\}"),
        ('OTEL_EXPORTER_OTLP_HEADERS="x-key=s3\\tcret"', "escape between double quotes"),
        ("BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_HEADERS=x-key=s3${x}cret", r"holds \$\{…\}"),
    ],
)
def test_syntax_that_would_change_a_value_silently_is_rejected(line, message):
    number = line.count("\n") + 5
    # The lines of other programs may hold what they like.
    Path(".env").write_text(f'KEY="-----BEGIN\\n"\nY=${{none}}\n\n\n{line}\n')
    with pytest.raises(ConfigError, match=f"line {number}: .*{message}") as caught:
        Settings.load()
    assert "cret" not in str(caught.value)


MISSPELT = {
    "BK_PIPELINE_PIPELINE": "BK_PIPELINE_PIPELINES",
    "BK_PIPELINE_SPANS_DORP": "BK_PIPELINE_SPANS_DROP",
    "BK_PIPELINE_HONEYCOMB_API_KEY": "HONEYCOMB_API_KEY",
    "BUILDKITE_ORGANISATION_SLUG": "BUILDKITE_ORGANIZATION_SLUG",
    "HONEYCOMB_APIKEY": "HONEYCOMB_API_KEY",
    "OTEL_EXPORTER_OTLP_HEADER": "OTEL_EXPORTER_OTLP_HEADERS",
    "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPONT": "BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT",
    "BK_PIPELINE_TEMPO_OTLP_ACOUNT": "BK_PIPELINE_TEMPO_OTLP_ACCOUNT",
}


@pytest.mark.parametrize("exported", [True, False], ids=["exported", "in the file"])
@pytest.mark.parametrize(("name", "meant"), MISSPELT.items(), ids=str)
def test_misspelt_variable_is_a_warning_with_a_suggestion(
    *, monkeypatch, caplog, name, meant, exported
):
    monkeypatch.setenv("BK_PIPELINE_DESTINATIONS", "honeycomb,otlp:tempo")
    if exported:
        monkeypatch.setenv(name, "x")
    else:
        Path(".env").write_text(f"{name}=x\n")
    assert Settings.load().warnings == (f"{name} is not a known setting. Did you mean {meant}?",)
    assert caplog.messages == [f"{name} is not a known setting. Did you mean {meant}?"]


def test_service_name_of_honeycombs_distributions_is_understood(monkeypatch):
    monkeypatch.setenv("HONEYCOMB_SERVICE_NAME", "ci")
    loaded = Settings.load()

    assert resource_attributes(loaded.environment, default_service="x") == {"service.name": "ci"}
    [warning] = loaded.warnings
    assert warning.startswith(
        "HONEYCOMB_SERVICE_NAME is read as OTEL_SERVICE_NAME, the standard name"
    )
    monkeypatch.setenv("OTEL_SERVICE_NAME", "builds")
    named = resource_attributes(Settings.load().environment, default_service="x")
    assert named == {"service.name": "builds"}


def test_variables_of_other_programs_are_ignored(monkeypatch):
    monkeypatch.setenv("BUILDKITE", "true")
    for name in (
        "BUILDKITE_ORGANIZATION_ID",  # the agent's, in a job
        "BUILDKITE_MESSAGE",
        "HONEYCOMB_METRICS_DATASET",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_PYTHON_LOG_LEVEL",
        "BK_PIPELINE_SERVICE_HOST",  # Kubernetes', of a service bk-pipeline
        "BK_PIPELINE_PORT_80_TCP_ADDR",
    ):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("BUILDKITE_MESSAGE", '"quoted"\nand long')
    assert Settings.load().warnings == ()


def test_error_names_the_variable_of_a_named_destination(monkeypatch):
    monkeypatch.setenv("BK_PIPELINE_STAGING_HONEYCOMB_DATASET", "a/b")
    with pytest.raises(ConfigError, match=r"^BK_PIPELINE_STAGING_HONEYCOMB_DATASET is malformed"):
        Settings.load().for_destination("BK_PIPELINE_STAGING_")


@pytest.mark.parametrize("there", [True, False])
def test_missing_variable_is_an_error_with_the_searched_file(tmp_path, there):
    if there:
        (tmp_path / ".env").write_text("BUILDKITE_API_TOKEN=\n")
    state = "does not set it" if there else "does not exist"
    for require, *needed in (
        ("require_buildkite",),
        ("require_honeycomb",),
        ("require_configuration_key", "Markers need one"),
    ):
        with pytest.raises(ConfigError, match=f"{re.escape(str(tmp_path / '.env'))}, .*{state}"):
            getattr(Settings.load(), require)(*needed)
    with pytest.raises(ConfigError, match="is not set") as caught:
        Settings.of().require_buildkite()
    assert ".env" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    sorted(
        {str(field.alias) for field in Settings.model_fields.values()}
        - {"BUILDKITE_API_TOKEN", "HONEYCOMB_API_KEY", "HONEYCOMB_CONFIGURATION_KEY"}
        - {"BK_PIPELINE_SPANS_MASK"}
    ),
)
@pytest.mark.parametrize("token", [TOKEN, KEY, "0123456789abcdef" * 2], ids=["b", "h", "bare"])
def test_token_in_a_variable_that_takes_none_is_rejected_and_not_shown(monkeypatch, name, token):
    monkeypatch.setenv(name, token)
    with pytest.raises(ConfigError, match=f"^{name} is malformed") as caught:
        Settings.load()
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["(?P<s3cret-1>x)", "s3cret(?P=s3cret)", r"[s3cret\8", "(s3cret"]
)
def test_malformed_pattern_is_not_shown(monkeypatch, pattern):
    monkeypatch.setenv("BK_PIPELINE_SPANS_MASK", pattern)
    with pytest.raises(ConfigError, match="at character") as caught:
        Settings.load()
    assert "s3cret" not in str(caught.value)
