"""`bk-pipeline` in this process: as a shell has it, without the seconds that importing takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from bk_pipeline.cli.main import main


@dataclass
class Done:
    """What was printed, and the exit status."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `bk-pipeline` with `arguments`, and `environment` on top of the test's clean one."""

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
