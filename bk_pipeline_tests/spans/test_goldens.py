"""Payloads in, spans out, readable side by side: see `golden/`."""

from __future__ import annotations

import json

import pytest

from bk_pipeline_tests.builders import make_trace
from bk_pipeline_tests.spans.goldens import OPTIONS, expected_of, payload_of, rendered, situations
from bk_pipeline_tests.spans.wholeness import assert_whole


@pytest.mark.parametrize("situation", situations())
def test_a_payload_gives_the_spans_that_were_reviewed(situation):
    assert json.loads(rendered(situation)) == json.loads(expected_of(situation))


@pytest.mark.parametrize("situation", situations())
def test_each_situation_gives_a_whole_trace(situation):
    assert_whole(make_trace(payload_of(situation), **OPTIONS.get(situation, {})))
