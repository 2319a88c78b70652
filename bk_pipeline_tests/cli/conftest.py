"""Runs `bk-pipeline` in this process, which saves the seconds that imports take."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from bk_pipeline.cli.main import main


@dataclass
class Done:
    """The output and exit status of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs `bk-pipeline` in the test's environment plus `environment`."""

    def called(*arguments: str, **environment: str) -> Done:
        with monkeypatch.context() as inside:
            inside.setattr(sys, "argv", ["bk-pipeline", *arguments])
            for name, value in environment.items():
                inside.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return called
