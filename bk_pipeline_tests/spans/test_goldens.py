"""Spans of the payloads in `golden/` equal the golden files."""

from __future__ import annotations

import json

import pytest

from bk_pipeline_tests.builders import make_trace
from bk_pipeline_tests.spans.goldens import OPTIONS, expected_of, payload_of, rendered, situations
from bk_pipeline_tests.spans.wholeness import assert_whole


@pytest.mark.parametrize("situation", situations())
def test_spans_equal_the_golden_file(situation):
    assert json.loads(rendered(situation)) == json.loads(expected_of(situation))


@pytest.mark.parametrize("situation", situations())
def test_each_golden_trace_is_consistent(situation):
    assert_whole(make_trace(payload_of(situation), **OPTIONS.get(situation, {})))
