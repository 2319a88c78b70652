"""Spans of artifacts in the dialects of the programs that write them equal the golden files."""

from __future__ import annotations

import pytest

from bk_pipeline_tests.sources.artifact_goldens import rendered, samples


@pytest.mark.parametrize("sample", samples(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_spans_equal_the_golden_file(sample):
    assert rendered(sample) == sample.with_suffix(".txt").read_text()
