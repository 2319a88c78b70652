"""The maximum span age of destinations: known hosts and settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.delivery import BACKENDS, age_text
from bk_pipeline.deliver.destinations import destinations
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline.spans.timing import from_ns
from bk_pipeline_tests.deliver.destinations import ScriptedDestination
from bk_pipeline_tests.deliver.tables import DAY, payload, table

HOUR, DAYS = timedelta(hours=1), timedelta(days=1)


def opened(**settings):
    """The destinations of these settings, by asset."""
    found = destinations(Settings.of(**settings))
    return {one.asset: one.open(SystemClock()) for one in found}


def otlp(url, **settings):
    return opened(OTEL_EXPORTER_OTLP_ENDPOINT=url, **settings)


@pytest.mark.parametrize(
    ("url", "limit", "by_end"),
    [
        ("https://abc123.live.dynatrace.com/api/v2/otlp", HOUR, True),
        ("https://abc123.apps.dynatrace.com:443/api/v2/otlp", HOUR, True),
        ("https://gateway.example.com:9999/e/abc123/api/v2/otlp", HOUR, True),
        ("https://otlp.nr-data.net", DAYS, False),
        ("https://otlp.eu01.nr-data.net:4318", DAYS, False),
        ("https://OTLP.NR-DATA.NET", DAYS, False),
        ("https://collectors.de.sumologic.com/receiver/v1/otlp", DAYS, False),
        ("https://ingest.monium.yandex.cloud", DAYS, False),
        ("https://api.honeycomb.io", 60 * DAYS, False),
        ("https://api.eu1.honeycomb.io:443/", 60 * DAYS, False),
        ("https://otlp.datadoghq.com", None, False),
        ("http://localhost:4318", None, False),
        ("https://nr-data.net.example.com", None, False),
    ],
)
def test_known_hosts_have_their_maximum_age(url, limit, by_end):
    found = otlp(url)["otlp_traces"]

    assert (found.max_age, found.max_age_by_end) == (limit, by_end)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ("60m", HOUR),
        ("90 min", 1.5 * HOUR),
        ("24h", DAYS),
        ("60d", 60 * DAYS),
        ("7 days", 7 * DAYS),
        ("0", None),
    ],
)
def test_setting_takes_precedence_in_minutes_hours_or_days(given, limit):
    found = otlp("https://otlp.nr-data.net", BK_PIPELINE_OTLP_MAX_AGE=given)

    assert found["otlp_traces"].max_age == found["otlp_metrics"].max_age == limit
    assert "BK_PIPELINE_OTLP_MAX_AGE" in found["otlp_traces"].max_age_description


@pytest.mark.parametrize("given", ["60", "h", "-1h", "1.5h", "10y", "99999999d"])
def test_malformed_age_is_rejected_with_an_example(given):
    with pytest.raises(ConfigError, match=r"BK_PIPELINE_OTLP_MAX_AGE .*like 90m, 24h or 60d"):
        Settings.of(BK_PIPELINE_OTLP_MAX_AGE=given)


def test_honeycomb_has_the_same_limit_over_both_routes():
    found = opened(
        HONEYCOMB_API_KEY="hcaik_" + "0" * 58,
        OTEL_EXPORTER_OTLP_ENDPOINT="https://api.honeycomb.io",
        BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS="30",
    )

    assert {one.max_age for one in found.values()} == {30 * DAYS}
    none = otlp("https://api.honeycomb.io", BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS="0")
    assert none["otlp_traces"].max_age is None


def test_metrics_have_their_own_known_age_and_setting():
    assert otlp("https://x.live.dynatrace.com/api/v2/otlp")["otlp_metrics"].max_age == HOUR
    assert otlp("https://otlp.nr-data.net")["otlp_metrics"].max_age is None
    own = {"BK_PIPELINE_OTLP_MAX_AGE": "1h", "BK_PIPELINE_OTLP_METRICS_MAX_AGE": "48h"}
    found = otlp("http://localhost:4318", **own)
    assert (found["otlp_traces"].max_age, found["otlp_metrics"].max_age) == (HOUR, 2 * DAYS)


def test_named_destination_has_its_own_setting():
    found = opened(
        BK_PIPELINE_DESTINATIONS="otlp,otlp:tempo,otlp:jaeger",
        BK_PIPELINE_JAEGER_OTEL_EXPORTER_OTLP_ENDPOINT="http://jaeger:4318",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:4318",
        BK_PIPELINE_TEMPO_OTEL_EXPORTER_OTLP_ENDPOINT="http://tempo:4318",
        BK_PIPELINE_OTLP_MAX_AGE="24h",
        BK_PIPELINE_TEMPO_OTLP_MAX_AGE="2h",
    )

    assert found["otlp_traces"].max_age == DAYS
    assert found["otlp_traces_tempo"].max_age == 2 * HOUR
    assert found["otlp_traces_jaeger"].max_age is None
    assert "BK_PIPELINE_TEMPO_OTLP_MAX_AGE" in found["otlp_traces_tempo"].max_age_description


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("https://x.live.dynatrace.com/api/v2/otlp", "older than 60 minutes since their end"),
        ("https://otlp.nr-data.net", "older than 24 hours are not sent: New Relic"),
        ("https://api.honeycomb.io", "older than 60 days are not sent: Honeycomb would bill"),
        ("https://otlp.datadoghq.com", "no maximum age is known for otlp.datadoghq.com"),
    ],
)
def test_description_gives_the_limit_and_its_reason(url, description):
    assert description in otlp(url)["otlp_traces"].max_age_description


def test_age_counted_from_the_end_keeps_long_spans_that_ended_recently(ledger, clock):
    spans = table(payload(1))
    ends = spans["end"].cast("int64").to_pylist()
    starts = spans["start"].cast("int64").to_pylist()
    clock.moment = from_ns(max(ends)) + HOUR - timedelta(seconds=1)
    by_start, by_end = ScriptedDestination(), ScriptedDestination()
    by_end.max_age_by_end = True
    for destination in (by_start, by_end):
        destination.max_age = HOUR
    send = {"day": DAY, "ledger": ledger, "clock": clock}

    kept = deliver([spans], destination=by_end, **send)
    dropped = deliver([spans], destination=by_start, **send)

    limit_ns = int((clock.moment - HOUR).timestamp() * 1e9)
    assert kept.too_old == sum(end < limit_ns for end in ends)
    assert dropped.too_old == sum(start < limit_ns for start in starts) > kept.too_old


def test_every_known_backend_is_documented_with_its_hosts_and_age():
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text().splitlines()
    for one in BACKENDS:
        [row] = [line for line in page if line.startswith(f"| {one.name} | `")]
        assert all(f"`{host}`" in row for host in one.hosts)
        assert age_text(one.limit) in row
