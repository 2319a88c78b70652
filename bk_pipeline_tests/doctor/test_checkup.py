from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bk_pipeline.app import App
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.doctor.findings import Finding, Verdict, exit_status
from bk_pipeline.errors import ConfigError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.private_files import tightening
from bk_pipeline.settings import Settings
from bk_pipeline.spans.costs import with_costs
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import table_of
from bk_pipeline.store.delivery_records import DeliveryRecord
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline_tests.builders import make_agent, make_build, make_job, make_trace
from bk_pipeline_tests.conftest import FakeClock
from bk_pipeline_tests.doctor.conftest import NOON, checkup
from bk_pipeline_tests.http.scripted import Answer, as_json, scripted_server
from bk_pipeline_tests.worlds import free_port

OK, WARNING, FAILED, SKIPPED = Verdict

RULES = """
[[rule]]
id = "failed"
state = "failed"
type = "failed"
at = "finish"
message = "{buildkite.pipeline.slug}"
"""


def test_checks_of_a_good_installation_pass_in_order(serve, tmp_path):
    sandbox = serve()
    found = checkup()
    assert list(found) == [
        "settings",
        "token",
        "organization",
        "names",
        "rate limits",
        "backfill",
        "honeycomb_events",
        "honeycomb board",
        "storage",
        "ledger",
        "inside jobs",
        "DAGSTER_HOME",
        "version",
    ]
    assert {one.verdict for name, one in found.items() if name != "storage"} == {OK}
    assert found["storage"].verdict in {OK, WARNING}  # a disk may have little room
    assert exit_status(list(found.values())) == 0
    assert sandbox.honeycomb.event_count == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "check", "says", "unchecked"),
    [
        ("BUILDKITE_API_TOKEN", "", "token", "BUILDKITE_API_TOKEN is not set.", 5),
        ("BUILDKITE_API_TOKEN", "bkua_wrong", "token", "does not know the token", 5),
        ("BUILDKITE_ORGANIZATION_SLUG", "", "token", "BUILDKITE_ORGANIZATION_SLUG is not set.", 5),
        ("BUILDKITE_ORGANIZATION_SLUG", "acne", "organization", "no organization acne", 2),
        ("BK_PIPELINE_PIPELINES", "wbe", "backfill", "has no pipeline wbe", 0),
        ("BK_PIPELINE_TIMEZONE", "Mars", "settings", "like UTC or Europe/Berlin", 9),
        ("BK_PIPELINE_DESTINATIONS", "jaeger", "destinations", "honeycomb,otlp:tempo", 0),
        ("HONEYCOMB_API_KEY", "wrong", "honeycomb_events", "rejects the key", 0),
        ("BK_PIPELINE_DATA_DIR", "file/data", "storage", "is no folder that", 1),
        ("BK_PIPELINE_LEDGER_URL", "sqlite:///file", "ledger", "it is not an SQLite database", 0),
        ("BK_PIPELINE_LEDGER_URL", "sqlite:///file/x", "ledger", "is no folder that", 0),
        ("DAGSTER_HOME", "here", "DAGSTER_HOME", "an absolute path", 0),
        ("DAGSTER_HOME", "/dev/null", "DAGSTER_HOME", "no folder that can be written", 0),
    ],
    ids=str,
)
def test_failure_is_reported_once_and_dependent_checks_are_skipped(
    *, serve, monkeypatch, tmp_path, variable, value, check, says, unchecked
):
    serve()
    (tmp_path / "file").write_text("no database " * 99)
    monkeypatch.setenv(variable, value)
    found = checkup()
    failed = [name for name, one in found.items() if one.verdict is FAILED]
    assert failed == [check]
    assert says in found[check].message
    left_out = [one for one in found.values() if one.verdict is SKIPPED]
    assert len(left_out) == unchecked
    assert {one.message for one in left_out} <= {f"skipped because {check} failed"}


def test_token_without_the_scope_fails_and_its_scopes_are_listed(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("BUILDKITE_API_TOKEN", sandbox.add_token(["read_artifacts"]))
    found = checkup()["token"]
    assert found.verdict is FAILED
    assert "lacks the scope read_builds; it has: read_artifacts." in found.message


def test_optional_scopes_are_named_with_what_they_would_bring(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("BUILDKITE_API_TOKEN", sandbox.add_token(["read_builds", "read_clusters"]))
    found = checkup()["names"]
    assert found.verdict is OK
    assert found.message == (
        "spans have buildkite.cluster.name and buildkite.cluster.graphql_id; with the scope "
        "read_organizations, which the token lacks, spans would have buildkite.organization.id and "
        "buildkite.organization.name. Optional; scopes are edited under Personal Settings > API "
        "Access Tokens in Buildkite."
    )


def test_scopes_for_the_inside_of_jobs_are_named_with_what_they_would_bring(serve, monkeypatch):
    sandbox = serve()
    token = sandbox.add_token(["read_builds", "read_artifacts"])
    monkeypatch.setenv("BUILDKITE_API_TOKEN", token)
    found = checkup()["inside jobs"]
    assert found.verdict is OK
    assert found.message == (
        "nothing is read. BK_PIPELINE_JOB_DETAILS would add, with the scope read_build_logs, which "
        "the token lacks, spans of the sections of logs, and why jobs failed; with the scope "
        "read_artifacts, which the token has, spans of tests and of profiles; with the scope "
        "read_suites, which the token lacks, spans of Test Engine's tests. Optional."
    )


@pytest.mark.parametrize(
    ("read", "scopes", "verdict", "says"),
    [
        ('["log"]', ["read_build_logs"], OK, "the token has read_build_logs, as BK_PIPELINE_JOB"),
        ('["log"]', ["read_artifacts"], WARNING, "the token lacks read_build_logs, which BK_PIP"),
        ('["tests"]', ["read_build_logs"], WARNING, "there will be no spans of tests and of prof"),
        ('["profiles"]', ["read_artifacts"], OK, "the token has read_artifacts, as"),
        ('["log", "tests"]', [], WARNING, "lacks read_build_logs and read_artifacts, which"),
    ],
)
def test_scopes_that_the_policy_needs_are_checked(
    *, serve, monkeypatch, tmp_path, read, scopes, verdict, says
):
    sandbox = serve()
    (tmp_path / "details.toml").write_text(f"[[rule]]\nid = 'all'\nread = {read}\n")
    monkeypatch.setenv("BK_PIPELINE_JOB_DETAILS", str(tmp_path / "details.toml"))
    token = sandbox.add_token(["read_builds", *scopes])
    monkeypatch.setenv("BUILDKITE_API_TOKEN", token)
    found = checkup()["inside jobs"]
    assert (found.verdict, says in found.message) == (verdict, True), found.message


def test_malformed_policy_is_reported_once(serve, monkeypatch, tmp_path):
    serve()
    (tmp_path / "details.toml").write_text("[[rule]]\nread = 'log'\n")
    monkeypatch.setenv("BK_PIPELINE_JOB_DETAILS", str(tmp_path / "details.toml"))
    found = checkup()
    assert found["job details"].verdict is FAILED
    assert found["inside jobs"].message == "skipped because job details failed"


def test_token_with_more_scopes_or_near_expiry_gives_a_warning(monkeypatch):
    told = {
        "uuid": "a",
        "scopes": ["read_builds", "write_builds"],
        "description": "CI",
        "expires_at": "2026-08-10T00:00:00Z",
        "user": {"name": "Ada"},
    }
    with scripted_server() as server:
        server.otherwise = as_json(told)
        monkeypatch.setenv("BUILDKITE_API_URL", server.url)
        monkeypatch.setenv("BUILDKITE_API_TOKEN", "bkua_1")
        monkeypatch.setenv("BUILDKITE_ORGANIZATION_SLUG", "acme")
        found = checkup()["token"]
    assert found.verdict is WARNING
    assert found.message.startswith(
        '"CI" of Ada; it may also write_builds, where read_builds alone'
    )
    assert "expires on 2026-08-10" in found.message


def test_quota_used_by_other_clients_gives_a_warning(serve):
    sandbox = serve()
    sandbox.limits.consume(count=120)
    found = checkup()["rate limits"]
    assert found.verdict is WARNING
    assert (
        "organization: 78 of 200 requests left this minute, of which runs may use 58 and leave 20 "
        in (found.message)
    )


def test_parts_of_a_quota_add_up_even_below_its_reserve(serve):
    sandbox = serve()
    sandbox.limits.consume(count=190)
    numbers = re.search(
        r"organization: (\d+) of 200 .*? may use (\d+) and leave (\d+) to others",
        checkup()["rate limits"].message,
    )
    left, ours, others = map(int, numbers.groups())
    assert left == ours + others
    assert ours == 0


def test_missing_rate_limit_headers_give_a_warning(monkeypatch):
    with scripted_server() as server:
        server.replies.append(as_json({"uuid": "a", "scopes": ["read_builds"]}))
        monkeypatch.setenv("BUILDKITE_API_URL", server.url)
        monkeypatch.setenv("BUILDKITE_API_TOKEN", "bkua_1")
        monkeypatch.setenv("BUILDKITE_ORGANIZATION_SLUG", "acme")
        found = checkup()
    assert "no RateLimit headers" in found["rate limits"].message
    assert found["backfill"].verdict is WARNING
    assert "no builds in the last 30 days" in found["backfill"].message


def test_filters_that_exclude_everything_are_named(serve, monkeypatch):
    serve()
    monkeypatch.setenv("BK_PIPELINE_BRANCHES", "no-such-branch")
    found = checkup()["backfill"]
    assert found.verdict is WARNING
    assert "check BK_PIPELINE_BRANCHES (set to no-such-branch) and BUILDKITE_ORG" in found.message
    assert "BK_PIPELINE_PIPELINES" not in found.message
    monkeypatch.delenv("BK_PIPELINE_BRANCHES")
    monkeypatch.setenv("BK_PIPELINE_PIPELINES", "no-such-*")
    found = checkup()["backfill"]
    assert found.verdict is WARNING
    assert "no builds to take: the " in found.message
    assert "BK_PIPELINE_PIPELINES chooses" in found.message


def test_unreachable_api_names_the_setting_to_check(serve, monkeypatch):
    serve()
    monkeypatch.setenv("BUILDKITE_API_URL", f"http://127.0.0.1:{free_port()}")
    found = checkup()["token"]
    assert found.verdict is FAILED
    assert found.message.startswith("Buildkite cannot be reached.")
    assert "BUILDKITE_API_URL" in found.message


@pytest.mark.parametrize(
    ("key", "verdict", "says"),
    [
        ({"kind": "ingest"}, OK, "an ingest key of honeycomb:"),
        ({"kind": "ingest", "create_datasets": False}, WARNING, "permission Create Datasets"),
        ({"kind": "configuration", "events": False}, FAILED, "may not send events"),
    ],
    ids=["kind", "no datasets", "no events"],
)
def test_kind_and_permissions_of_a_honeycomb_key_are_reported(
    serve, monkeypatch, key, verdict, says
):
    sandbox = serve()
    monkeypatch.setenv("HONEYCOMB_API_KEY", sandbox.add_honeycomb_key(**key))
    found = checkup()["honeycomb_events"]
    assert found.verdict is verdict
    assert says in found.message


def test_otlp_endpoint_is_probed_with_an_empty_export(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sandbox.url)
    found = checkup()
    assert found["otlp_traces"].verdict is found["otlp_metrics"].verdict is OK
    assert (sandbox.otlp.span_count, sandbox.otlp.metrics.points) == (0, [])
    assert sandbox.otlp.request_count == 2


def test_backend_without_metrics_names_the_setting_that_turns_them_off(serve, monkeypatch):
    sandbox = serve()
    sandbox.faults.inject("otlp", "status", status=404, path="/v1/metrics")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sandbox.url)
    found = checkup()
    assert found["otlp_traces"].verdict is OK
    assert found["otlp_metrics"].verdict is FAILED
    assert "set OTEL_METRICS_EXPORTER=none" in found["otlp_metrics"].message


def test_wrong_otlp_path_fails(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", sandbox.url + "/v2/nothing")
    found = checkup()["otlp_traces"]
    assert found.verdict is FAILED
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in found.message


def test_sampling_rules_are_checked_before_the_cost(serve, monkeypatch, tmp_path):
    serve()
    (tmp_path / "sampling.toml").write_text('[[rule]]\nid = "all"\nrate = 10\n')
    monkeypatch.setenv("BK_PIPELINE_SAMPLING", "sampling.toml")
    found = checkup()
    assert found["sampling"].message.startswith("1 rule; ")
    assert "of which BK_PIPELINE_SAMPLING keeps about" in found["backfill"].message

    (tmp_path / "sampling.toml").write_text('[[rule]]\nid = "all"\nrate = 0.1\n')
    found = checkup()
    assert 'sampling.toml line 3: rule "all", rate: expected a whole' in found["sampling"].message
    assert found["backfill"].message == "skipped because sampling failed"


def test_deployment_rules_are_checked(serve, monkeypatch, tmp_path):
    serve()
    path = tmp_path / "deployments.toml"
    path.write_text('[[rule]]\nid = "all"\nenvironment = "production"\n')
    assert "deployments" not in checkup()
    monkeypatch.setenv("BK_PIPELINE_DEPLOYMENTS", str(path))
    assert checkup()["deployments"].message.startswith("1 rule; ")

    path.write_text('[[rule]]\nid = "all"\n')
    found = checkup()["deployments"]
    assert found.verdict is FAILED
    assert 'rule "all", environment: is missing' in found.message


PRICE = """
currency = "USD"
[[price]]
id = "linux"
queue = ["default", "deploy"]
per_minute = 0.01
"""


def test_queues_without_a_price_are_named(serve, monkeypatch, tmp_path):
    serve()
    file = tmp_path / "costs.toml"
    monkeypatch.setenv("BK_PIPELINE_COSTS", "costs.toml")
    file.write_text(PRICE)
    assert checkup()["costs"] == Finding("costs", OK, "1 price in USD; no jobs are stored yet.")

    app = App(Settings.load(), clock=FakeClock(NOON))
    agents = {"mac": "mac", "arm": "arm\n\x1b[31m", "linux": "default"}
    jobs = [
        make_job(name, agent=make_agent(name, meta_data=[f"queue={queue}"]))
        for name, queue in agents.items()
    ]
    old = make_job("old", agent=make_agent("old", meta_data=["queue=old"]))
    for day, builds in (
        ("2026-07-20", [make_build([old])]),
        ("2026-07-28", [make_build(jobs, cluster_id=None), make_build(jobs[:1])]),
        ("2026-08-03", [make_build([make_job("asks", agent=None)], cluster_id="c1")]),
    ):
        table = table_of([make_trace(one) for one in builds])
        part = SpanPart("20260806T000000.000000Z-11111111", "aaaaaaaa")
        app.spans().write(day, part, [table], PartSummary())
    found = checkup()["costs"]
    assert found.verdict is WARNING
    assert found.message.startswith(
        "1 price in USD; 2 of 4 queues of the last 7 days that are stored have jobs without a price, "
        "and so without a cost: arm [31m, mac. "
    )

    file.write_text(f'{PRICE}[[price]]\nid = "others"\nper_minute = 1\n')
    found = checkup()["costs"]
    assert found == Finding(
        "costs",
        OK,
        "2 prices in USD; all jobs of the last 7 days that are stored have one (4 queues).",
    )

    file.write_text("[[price]]")
    found = checkup()["costs"]
    assert found.verdict is FAILED
    assert "costs.toml line 1: currency: is missing." in found.message


def test_stored_cost_counts_although_its_queue_is_hidden(serve, monkeypatch, tmp_path):
    serve()
    monkeypatch.setenv("BK_PIPELINE_COSTS", "costs.toml")
    (tmp_path / "costs.toml").write_text(PRICE.replace("default", "mac"))
    app = App(Settings.load(), clock=FakeClock(NOON))
    job = make_job(agent=make_agent(meta_data=["queue=mac"]), agent_query_rules=["queue=mac"])
    table = with_costs(table_of([make_trace(make_build([job]))]), app.prices())
    hidden = Privacy(drop=("buildkite.agent.*",)).apply(table)
    part = SpanPart("20260806T000000.000000Z-11111111", "aaaaaaaa")
    app.spans().write("2026-08-05", part, [hidden], PartSummary())
    assert "all jobs" in checkup()["costs"].message


@pytest.mark.parametrize(
    ("key", "verdict", "says"),
    [
        ("configuration", OK, "1 rule; the key may place markers at markers:127.0.0.1"),
        ("ingest", FAILED, "ingest key"),
        (None, FAILED, "HONEYCOMB_CONFIGURATION_KEY is not set."),
    ],
    ids=str,
)
def test_markers_need_rules_and_their_own_key(*, serve, monkeypatch, tmp_path, key, verdict, says):
    sandbox = serve()
    (tmp_path / "markers.toml").write_text(RULES)
    monkeypatch.setenv("BK_PIPELINE_MARKERS", "markers.toml")
    value = sandbox.add_honeycomb_key(key) if key else ""
    monkeypatch.setenv("HONEYCOMB_CONFIGURATION_KEY", value)
    found = checkup()["honeycomb_markers"]
    assert found.verdict is verdict
    assert says in found.message
    if verdict is OK:
        assert "regression" not in found.message
        (tmp_path / "markers.toml").write_text(f"{RULES}regression = true\n")
        found = checkup()["honeycomb_markers"]
        assert found.verdict is OK
        assert "materialize the asset changes" in found.message


@pytest.mark.parametrize(
    ("key", "settings", "verdict", "says"),
    [
        ({}, {}, OK, "with Manage Public Boards and Manage Queries and Columns."),
        ({}, {"BK_PIPELINE_HONEYCOMB_TRIGGERS": "1"}, OK, "and Manage Triggers."),
        (
            {"management": ["boards"]},
            {},
            WARNING,
            "lacks the permission Manage Queries and Columns.",
        ),
        (
            {"management": ["boards", "columns"]},
            {"BK_PIPELINE_HONEYCOMB_SLO": "1"},
            WARNING,
            "lacks the permission Manage SLOs.",
        ),
        (
            {"management": []},
            {"BK_PIPELINE_MARKERS": "markers.toml"},
            OK,
            "the key is for markers;",
        ),
        ({"kind": "ingest"}, {}, FAILED, "ingest key"),
    ],
    ids=str,
)
def test_board_needs_permissions_of_the_configuration_key(
    *, serve, monkeypatch, tmp_path, key, settings, verdict, says
):
    sandbox = serve()
    (tmp_path / "markers.toml").write_text(RULES)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    made = sandbox.add_honeycomb_key(**{"kind": "configuration", **key})
    monkeypatch.setenv("HONEYCOMB_CONFIGURATION_KEY", made)
    found = checkup()["honeycomb board"]
    assert found.verdict is verdict
    assert says in found.message


def test_board_is_not_checked_without_a_configuration_key(serve, monkeypatch):
    serve()
    monkeypatch.delenv("HONEYCOMB_CONFIGURATION_KEY")
    assert "honeycomb board" not in checkup()


def test_missing_destination_gives_a_warning(serve, monkeypatch):
    serve()
    monkeypatch.delenv("HONEYCOMB_API_KEY")
    found = checkup()
    assert found["destinations"].verdict is WARNING
    assert exit_status(list(found.values())) == 0


def test_object_store_is_probed_and_its_credentials_are_not_shown(serve, monkeypatch, tmp_path):
    serve()
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", f"file://{tmp_path}/bucket")
    assert checkup()["storage"].verdict is OK
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "s3://key:hush@bucket/data?region=hush&what=hush")
    found = checkup()["storage"]
    assert found.verdict is FAILED
    assert "s3://bucket/data" in found.message
    assert "hush" not in found.message


def test_files_that_others_can_read_are_reported_with_the_command_that_fixes_it(
    serve, monkeypatch, tmp_path
):
    data, ledger = tmp_path / "data", tmp_path / "open" / "ledger.sqlite"
    serve()
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(data))
    monkeypatch.setenv("BK_PIPELINE_LEDGER_URL", f"sqlite:///{ledger}")
    data.mkdir(mode=0o700)
    with Ledger.from_settings(Settings.load(), clock=FakeClock(NOON)):
        pass
    advice = "Others can look into it: chmod -R g-rwx,o-rwx"
    for name, path in (("storage", data), ("ledger", ledger)):
        assert "Others" not in checkup()[name].message
        path.chmod(0o755)
        path.parent.chmod(0o755)
        found = checkup()[name]
        assert found.verdict is WARNING
        assert f"{advice} {path} " in found.message
        subprocess.run(["sh", "-c", tightening(path)], check=True)
        assert "Others" not in checkup()[name].message


def test_existing_ledger_is_opened(serve, clock, tmp_path):
    serve()
    with Ledger.open(tmp_path / ".bk_pipeline" / "ledger.sqlite", clock=clock) as book:
        assert "it knows of 0 destinations." in checkup()["ledger"].message
        book.accept(book.begin("honeycomb:one", "2026-08-01", {bytes(16): [bytes(8)]}))
        assert "it knows of 1 destination." in checkup()["ledger"].message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("BUILDKITE_ORGANISATION_SLUG=acme\n", "Did you mean BUILDKITE_ORGANIZATION_SLUG?"),
        ("HONEYCOMB_DATASET=other\n", "HONEYCOMB_DATASET has another value in the environment"),
        ("DAGSTER_HOME=/somewhere\n", "DAGSTER_HOME in .env has no effect"),
        ("BK_PIPELINE_NONSENSE=1\n", "BK_PIPELINE_NONSENSE is not a known setting"),
    ],
    ids=["misspelt", "overruled", "too late", "unknown"],
)
def test_variable_without_effect_in_env_file_gives_a_warning(serve, monkeypatch, content, says):
    serve()
    monkeypatch.setenv("HONEYCOMB_DATASET", "ours")
    Path(".env").write_text(content)
    found = checkup()["settings"]
    assert found.verdict is WARNING
    assert says in found.message


def test_variables_of_named_destinations_are_not_reported_as_misspelled(serve, monkeypatch):
    sandbox = serve()
    Path(".env").write_text(
        "BK_PIPELINE_DESTINATIONS=otlp:tempo\n"
        f"BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT={sandbox.url}\n"
    )
    found = checkup()
    assert found["settings"].verdict is OK
    assert found["otlp_traces_tempo"].verdict is OK


def test_dagster_home_is_checked(serve, monkeypatch, tmp_path):
    serve()
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert "does not exist yet" in checkup()["DAGSTER_HOME"].message
    home.mkdir()
    assert "holds no dagster.yaml" in checkup()["DAGSTER_HOME"].message
    (home / "dagster.yaml").touch()
    assert checkup()["DAGSTER_HOME"].verdict is OK


def test_findings_contain_no_secret(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sandbox.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20aHVzaA")
    monkeypatch.setenv("BK_PIPELINE_LEDGER_URL", "postgresql://u:hush@127.0.0.1:9/db")
    said = " ".join(one.message for one in checkup().values())
    for secret in (sandbox.buildkite_token, sandbox.honeycomb_key, "aHVzaA", "hush"):
        assert secret not in said


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([(OK, False), (WARNING, False)], 0),
        ([(FAILED, False), (SKIPPED, False)], 1),
        ([(FAILED, False), (FAILED, True)], 2),
    ],
    ids=["well", "something", "a setting"],
)
def test_exit_status_distinguishes_config_errors(verdicts, status):
    found = [Finding("x", verdict, "", is_config_error=setting) for verdict, setting in verdicts]
    assert exit_status(found) == status


def test_html_page_of_a_proxy_fails_the_token_check(monkeypatch):
    with scripted_server() as server:
        server.otherwise = Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"})
        monkeypatch.setenv("BUILDKITE_API_URL", server.url)
        monkeypatch.setenv("BUILDKITE_API_TOKEN", "bkua_1")
        monkeypatch.setenv("BUILDKITE_ORGANIZATION_SLUG", "acme")
        assert "BUILDKITE_API_URL" in checkup()["token"].message


def test_ledger_that_lacks_deliveries_is_reported(serve, monkeypatch, tmp_path):
    serve()
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(tmp_path / "data"))
    settings = Settings.load()
    [honeycomb] = destinations(settings)
    name = honeycomb.open(FakeClock(NOON)).name
    records = SpanStore(Folder(settings.storage)).deliveries
    records.start()
    records.write("2026-08-05", DeliveryRecord(name, "f" * 32, 2))

    gone = checkup()["ledger"]
    Ledger.from_settings(settings, clock=FakeClock(NOON)).close()
    another = checkup()["ledger"]

    for found in (gone, another):
        assert found.verdict is FAILED
        assert "bk-pipeline ledger adopt" in found.message
        assert "--resend" in found.message
    assert "There is no ledger" in gone.message
    assert "2026-08-05" in another.message
    with Ledger.from_settings(settings, clock=FakeClock(NOON)) as ledger:
        ledger.adopt(name, "2026-08-05", [], {"f" * 32: 2})
    assert checkup()["ledger"].verdict is OK


def test_local_ledger_is_refused_with_data_in_an_object_store(serve, monkeypatch, tmp_path):
    serve()
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "s3://bucket/ci")
    with pytest.raises(ConfigError, match="BK_PIPELINE_LEDGER_ON_THIS_HOST=1"):
        App(Settings.load()).ledger()

    monkeypatch.setenv("BK_PIPELINE_LEDGER_URL", f"sqlite:///{tmp_path}/ledger.sqlite")
    with pytest.raises(ConfigError, match="PostgreSQL"):
        App(Settings.load()).ledger()

    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "mock:///ci")  # pyarrow's object store in memory
    found = checkup()
    assert found["storage"].verdict is OK
    assert found["ledger"].verdict is FAILED
    assert "BK_PIPELINE_LEDGER_ON_THIS_HOST=1" in found["ledger"].message
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", "s3://bucket/ci")

    monkeypatch.setenv("BK_PIPELINE_LEDGER_ON_THIS_HOST", "1")
    App(Settings.load()).ledger().close()


def test_maximum_age_is_reported_for_each_destination(serve, monkeypatch):
    sandbox = serve()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sandbox.url)
    monkeypatch.setenv("BK_PIPELINE_OTLP_MAX_AGE", "90m")
    found = checkup()
    assert "older than 60 days are not sent" in found["honeycomb_events"].message
    assert "older than 90 minutes are not sent: BK_PIPELINE_OTLP_MAX_AGE" in (
        found["otlp_traces"].message
    )
