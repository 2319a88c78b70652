"""Programs that some tests need and Python does not bring along."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

# Read here, since tests see an environment without what is ours.
REQUIRED = os.environ.get("BK_PIPELINE_TEST_PROGRAMS") == "required"


def missing(program: str, package: str) -> NoReturn:
    """Skip the test for lack of `program`; with `BK_PIPELINE_TEST_PROGRAMS=required`, fail it."""
    words = f"NO {program.upper()}, SO THIS GOES UNTESTED HERE: apt-get install {package}"
    if REQUIRED:
        pytest.fail(words)
    pytest.skip(words)
