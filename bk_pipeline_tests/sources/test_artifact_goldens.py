"""Spans of artifacts in the dialects of the programs that write them equal the golden files."""

from __future__ import annotations

import pytest

from bk_pipeline.spans.fields import DETAIL_FIELDS
from bk_pipeline_tests.sources.artifact_goldens import FOLDER, rendered, samples


@pytest.mark.parametrize("sample", samples(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_spans_equal_the_golden_file(sample):
    assert rendered(sample) == sample.with_suffix(".txt").read_text()


def test_every_field_of_what_is_inside_of_jobs_has_a_value_in_a_golden_file():
    goldens = [*FOLDER.glob("*/*.txt"), *FOLDER.glob("logs/*.json")]
    content = "".join(path.read_text() for path in goldens)
    # A field of the span itself, which the files show as "guessed".
    fields = {field.name for field in DETAIL_FIELDS} - {"bk_pipeline.time_guessed"}
    assert {name for name in fields if f'"{name}": ' not in content} == set()
