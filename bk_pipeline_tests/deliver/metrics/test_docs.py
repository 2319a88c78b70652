"""The documentation page on metrics has a row for each metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from bk_pipeline.deliver.metrics.deployments import INSTRUMENTS as DEPLOYMENTS
from bk_pipeline.deliver.metrics.points import ACTIVE_RUNS, INSTRUMENTS

ROWS = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text().splitlines()


@pytest.mark.parametrize(
    "instrument", [*INSTRUMENTS, ACTIVE_RUNS, *DEPLOYMENTS], ids=lambda one: one.name
)
def test_docs_page_lists_each_metric_with_unit_and_attributes(instrument):
    at = next(n for n, row in enumerate(ROWS) if row.startswith(f"| `{instrument.name}`"))
    row = ROWS[at] if not ROWS[at].endswith("| the same |") else ROWS[at - 1]

    assert f"| `{instrument.unit}` |" in ROWS[at]
    assert all(f"`{name}`" in row for name in (*instrument.attributes, *dict(instrument.constant)))
