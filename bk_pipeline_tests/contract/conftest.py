"""Runs each contract test with every kind of ledger and a fake clock."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.contract.ledgers import LEDGERS


@pytest.fixture(params=LEDGERS.values(), ids=LEDGERS)
def reopen(request, tmp_path, clock):
    """Return a function that opens the same ledger again, as another process would."""
    with request.param(tmp_path) as where, ExitStack() as opened:
        yield lambda: opened.enter_context(Ledger.open(where, clock=clock))


@pytest.fixture
def ledger(reopen):
    return reopen()
