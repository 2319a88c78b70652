"""Handles programs that some tests need and that pip cannot install."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

# Read on import, because tests run without our variables.
REQUIRED = os.environ.get("BK_PIPELINE_TEST_PROGRAMS") == "required"


def missing(program: str, package: str) -> NoReturn:
    """Skip the test because `program` is missing; fail it if programs are required."""
    message = f"NO {program.upper()}, SO THIS GOES UNTESTED HERE: apt-get install {package}"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)
