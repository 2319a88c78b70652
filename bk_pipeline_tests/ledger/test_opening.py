"""Opening the ledger: a file, or a database by its URL."""

from __future__ import annotations

import pytest

from bk_pipeline.errors import ConfigError, FatalError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.settings import Settings

VARIABLE = "BK_PIPELINE_LEDGER_URL"
HERE, DAY = "here", "2026-11-19"


def opened(clock, *, create=True, **variables):
    return Ledger.from_settings(Settings.of(**variables), clock=clock, create=create)


def test_ledger_without_url_is_a_file_in_the_data_directory(tmp_path, clock):
    with opened(clock, BK_PIPELINE_DATA_DIR=str(tmp_path)) as ledger:
        ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert (tmp_path / "ledger.sqlite").exists()


def test_url_can_name_a_file(tmp_path, clock):
    with opened(clock, BK_PIPELINE_LEDGER_URL=f"sqlite:///{tmp_path}/mine.db") as ledger:
        ledger.mark_part_delivered(HERE, DAY, "part-1")

    assert (tmp_path / "mine.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_all_postgres_schemes_open_the_same_database(scheme, postgres_url, clock):
    with Ledger.open(postgres_url, clock=clock) as ledger:
        ledger.mark_part_delivered(HERE, DAY, "part-1")

    url = postgres_url.replace("postgresql", scheme, 1)
    with opened(clock, BK_PIPELINE_LEDGER_URL=url) as ledger:
        assert ledger.delivered_parts(HERE, DAY) == {"part-1"}


@pytest.mark.parametrize(
    "value",
    [
        "mysql://keeper:sesame@host/db",
        "keeper:sesame@host/db",
        "postgresql://keeper:sesame@host",
        "postgresql://keeper:se#same@host/db",
        "postgresql://keeper:se/same@host/db",
        "postgresql://keeper:sesame@host:port/db",
        "postgresql://keeper:ses ame@host/db",
        "postgresql:/keeper/sesame",
        "sqlite://",
        "sqlite:///",
        "/var/lib/sesame.sqlite",
    ],
)
def test_malformed_url_is_a_one_line_error_that_does_not_quote_it(value, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(ConfigError) as caught:
        Settings.load()

    message = str(caught.value)
    assert message.startswith(f"{VARIABLE} is malformed: give a URL like postgresql://")
    assert "\n" not in message
    assert "same" not in message


def test_url_is_not_printed_with_the_settings():
    settings = Settings.of(BK_PIPELINE_LEDGER_URL="postgresql://keeper:sesame@host/db")

    assert "sesame" not in repr(settings) + settings.model_dump_json()


def test_reading_a_database_without_a_ledger_creates_none(postgres_url, clock):
    for _ in range(2):
        with pytest.raises(FatalError, match=r"There is no ledger at 127\.0\.0\.1:\d+/\w+ yet"):
            opened(clock, create=False, BK_PIPELINE_LEDGER_URL=postgres_url)

    with opened(clock, BK_PIPELINE_LEDGER_URL=postgres_url):
        opened(clock, create=False, BK_PIPELINE_LEDGER_URL=postgres_url).close()
