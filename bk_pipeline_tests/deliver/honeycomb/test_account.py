"""The account of a key, the destination's name, and trace links."""

from __future__ import annotations

import pytest

from bk_pipeline.deliver.honeycomb.destination import Honeycomb, dataset_link, trace_link
from bk_pipeline.errors import (
    AccessDenied,
    ConfigError,
    RetryableError,
    TokenRefused,
    UnexpectedAnswer,
)
from bk_pipeline.honeycomb.account import Account, base_url, dataset_slug
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.settings import Settings

ACCOUNT = Account("acme", "production", "ingest", True, True, False)
CLASSIC = Account("acme", "", "configuration", True, True, True)


@pytest.fixture
def honeycomb_with(url, clock):
    made = []

    def honeycomb_with(key, dataset="ci", **more):
        more.setdefault("retry_policy", RetryPolicy(deadline_s=10))
        made.append(Honeycomb(more.pop("endpoint", url), key, dataset, clock=clock, **more))
        return made[-1]

    yield honeycomb_with
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "path", ["", "/", "/1", "/1/", "/1/batch", "/1/events/", "/1/batch/ci", "/1/auth"]
)
def test_endpoint_may_contain_the_version_and_more(honeycomb_with, sandbox, url, path):
    bare, spelled_out = (
        honeycomb_with(sandbox.honeycomb_key, endpoint=one) for one in (url, f"{url}{path}")
    )
    assert spelled_out.name == bare.name


def test_other_parts_of_an_endpoint_are_kept():
    assert base_url("https://proxy.test/hny/1/batch/ci") == "https://proxy.test/hny"
    assert base_url("https://proxy.test/v/11") == "https://proxy.test/v/11"
    assert base_url("https://proxy.test/1/tenant") == "https://proxy.test/1/tenant"


@pytest.mark.parametrize(
    ("account", "endpoint", "page"),
    [
        (
            ACCOUNT,
            "https://api.honeycomb.io",
            "https://ui.honeycomb.io/acme/environments/production/datasets/ci-builds/trace",
        ),
        (
            ACCOUNT,
            "https://api.eu1.honeycomb.io",
            "https://ui.eu1.honeycomb.io/acme/environments/production/datasets/ci-builds/trace",
        ),
        (
            CLASSIC,
            "https://api.honeycomb.io",
            "https://ui.honeycomb.io/acme/datasets/ci-builds/trace",
        ),
    ],
    ids=["US", "EU", "classic"],
)
def test_trace_link_has_region_team_environment_and_dataset(account, endpoint, page):
    link = trace_link(
        account,
        endpoint=endpoint,
        dataset="CI builds",
        trace_text="ab" * 16,
        start_ns=1_760_000_000_500_000_000,
        end_ns=1_760_000_042_500_000_000,
    )

    dataset = dataset_link(account, endpoint=endpoint, dataset="CI builds")
    assert f"{dataset}/trace" == page
    # With a margin of a minute; without times, only traces of the last two hours are found.
    assert link == (
        f"{page}?trace_id={'ab' * 16}&trace_start_ts=1759999940&trace_end_ts=1760000103"
    )


def test_dataset_slug_is_honeycombs():
    assert dataset_slug(" My Dataset! ") == "my-dataset-"


def test_key_identifies_team_environment_and_permissions(sandbox, honeycomb_with):
    account = honeycomb_with(sandbox.add_honeycomb_key(create_datasets=False)).describe()

    assert account == Account("sandbox", "sandbox", "ingest", True, False, False)


def test_account_is_requested_once(sandbox, honeycomb_with):
    honeycomb = honeycomb_with(sandbox.honeycomb_key)

    assert [honeycomb.name for _ in range(3)] == [honeycomb.name] * 3
    honeycomb.describe()
    assert sandbox.honeycomb.request_count == 1


def test_name_depends_on_the_place_and_not_on_the_key(sandbox, honeycomb_with):
    one, two = sandbox.honeycomb_key, sandbox.add_honeycomb_key()

    name = honeycomb_with(one, "CI builds").name

    assert name.startswith("honeycomb:127.0.0.1:")
    assert name.endswith("/sandbox/sandbox/ci-builds")
    assert honeycomb_with(two, "ci builds").name == name
    assert honeycomb_with(one, "other").name != name


def test_classic_key_leads_to_another_name(sandbox, honeycomb_with):
    classic = sandbox.add_honeycomb_key("classic_ingest")

    assert honeycomb_with(classic).name.endswith("/sandbox/ci")
    assert honeycomb_with(classic).name != honeycomb_with(sandbox.honeycomb_key).name


def test_proxy_without_auth_is_named_by_its_host(sandbox, honeycomb_with):
    sandbox.faults.inject("honeycomb", "status", status=404, path="/1/auth")

    name = honeycomb_with(sandbox.honeycomb_key).name

    assert name.count("/") == 1
    assert name.endswith("/ci")


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://api.honeycomb.io", "api.honeycomb.io"),
        ("https://API.honeycomb.io:443", "api.honeycomb.io"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_spelling_of_the_url_does_not_change_the_host(endpoint, host, clock):
    assert repr(Honeycomb(endpoint, "k" * 22, "ci", clock=clock)) == f"Honeycomb('ci' at '{host}')"


def test_unknown_key_is_reported_before_anything_is_sent(honeycomb_with):
    with pytest.raises(TokenRefused, match=r"HONEYCOMB_API_KEY.*\(401: unknown API key"):
        _ = honeycomb_with("k" * 22).name


def test_key_without_send_permission_is_reported_before_anything_is_sent(sandbox, honeycomb_with):
    key = sandbox.add_honeycomb_key("configuration", events=False)

    with pytest.raises(AccessDenied, match="Send Events"):
        _ = honeycomb_with(key).name


def test_html_page_instead_of_an_account_is_reported(sandbox, honeycomb_with):
    sandbox.faults.inject("honeycomb", "html")

    with pytest.raises(
        UnexpectedAnswer, match=r"account of the key.*text/html.*HONEYCOMB_API_ENDPOINT"
    ):
        _ = honeycomb_with(sandbox.honeycomb_key).name


def test_outage_never_changes_the_name(sandbox, honeycomb_with):
    sandbox.faults.inject("honeycomb", "status", status=503, count=100)

    with pytest.raises(RetryableError, match="Gave up"):
        _ = honeycomb_with(sandbox.honeycomb_key).name


def test_unreachable_endpoint_is_reported(honeycomb_with):
    honeycomb = honeycomb_with("k" * 22, endpoint="http://127.0.0.1:1")

    with pytest.raises(
        RetryableError, match=r"Honeycomb \(dataset ci at 127.0.0.1:1\) cannot be reached.*Gave up"
    ):
        _ = honeycomb.name


def test_destination_is_created_from_settings(clock):
    settings = Settings.of(HONEYCOMB_API_KEY="k" * 22, HONEYCOMB_DATASET="ci")

    assert (
        repr(Honeycomb.from_settings(settings, clock=clock))
        == "Honeycomb('ci' at 'api.honeycomb.io')"
    )
    with pytest.raises(ConfigError, match="HONEYCOMB_API_KEY"):
        Honeycomb.from_settings(Settings.of(), clock=clock)
