"""A metrics endpoint at the sandbox, retried for a minute of the fake clock."""

from __future__ import annotations

from itertools import count

import pytest

from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.deliver.otlp.variables import METRICS
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.retry import RetryPolicy

numbers = count()


@pytest.fixture
def connect(clock):
    """Creates the destination that variables describe."""
    made = []

    def connect(**variables):
        environment = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
        # A unique name, because rate limits are shared by name.
        environment["BK_PIPELINE_OTLP_ACCOUNT"] = f"test-{next(numbers)}"
        settings = OtlpSettings.from_environment(environment, signal=METRICS)
        made.append(
            OtlpMetrics(
                settings,
                clock=clock,
                retry_policy=RetryPolicy(deadline_s=60, jitter=lambda: 0.5),
                timeouts=Timeouts(connect_s=30, read_s=5, total_s=10**6),
            )
        )
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def metrics(connect, url):
    return connect(ENDPOINT=url)
