"""The names of OTLP destinations in the ledger, without secrets."""

from __future__ import annotations

import base64

import pytest

from bk_pipeline.deliver.otlp.settings import destination_name, place_shown, secrets_in

URL = "https://collector.example.com/v1/traces"
TOKEN = "ZaVnC4dhaV1ABCDEFGhijk0123"


def basic(user, password):
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def name(url=URL, headers=None, account=""):
    return destination_name(url, headers or {}, account)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "otlp:collector.example.com/v1/traces"),
        ("http://localhost:4318/v1/traces", "otlp:localhost:4318/v1/traces"),
        ("https://Collector.Example.com:443/v1/traces", "otlp:collector.example.com/v1/traces"),
        ("http://[::1]:4318/", "otlp:[::1]:4318/"),
        ("https://Collector.Example.com./v1/traces/", "otlp:collector.example.com/v1/traces"),
        ("http://collector.example.com//v1//traces", "otlp:collector.example.com/v1/traces"),
        ("https://h/otlp/v1/traces?api_key=secret", "otlp:h/otlp/v1/traces"),
    ],
)
def test_name_is_host_port_and_path(url, shown):
    assert name(url) == shown


def test_possible_key_in_the_path_is_hashed():
    url = f"https://collectors.example.com/receiver/v1/otlp/{TOKEN}/v1/traces"

    assert TOKEN not in place_shown(url)
    assert place_shown(url).startswith("collectors.example.com/receiver/v1/otlp/")
    assert place_shown(url) != place_shown(url.replace(TOKEN, TOKEN[::-1]))


def test_another_key_is_the_same_destination():
    assert name(headers={"x-key": "one"}) == name(headers={"x-key": "two"}) == name()


def test_another_tenant_is_another_destination():
    one, two = (name(headers={"x-scope-orgid": tenant}) for tenant in ("one", "two"))

    assert len({one, two, name()}) == 3


def test_name_depends_on_the_user_and_not_on_the_password():
    one, rotated, other = (
        name(headers=basic(*each)) for each in (("12", "a"), ("12", "b"), ("13", "a"))
    )

    assert one == rotated != other


def test_user_without_a_password_is_treated_as_a_key():
    assert name(headers=basic(TOKEN, "")) == name()


@pytest.mark.parametrize("value", ["Basic ?", "Basic /w==", "Bearer abc", ""])
def test_other_credentials_do_not_change_the_name(value):
    assert name(headers={"authorization": value}) == name()


def test_account_distinguishes_destinations_that_differ_in_keys_only():
    assert name(account="team-a") == "otlp:collector.example.com/v1/traces#team-a"


def test_secrets_in_a_url_are_found():
    found = secrets_in(f"https://h/receiver/{TOKEN}/v1?key=abc&flag")

    assert {TOKEN, "abc", "key=abc&flag"} <= set(found)
    assert "receiver" not in found
