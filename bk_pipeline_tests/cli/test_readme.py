"""Runs the commands of the guides as written, with the sandbox instead of both services."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.clock import SystemClock
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.cli.program import wait_until
from bk_pipeline_tests.programs import missing
from bk_pipeline_tests.worlds import free_port, recent_world

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
# What begins a command in a block, and where Python's programs are there.
INSTALLED = ".venv/bin/"


@pytest.fixture
def served(tmp_path):
    sandbox = Sandbox(recent_world(days=2, builds_per_day=5))
    with running(sandbox) as url:
        yield sandbox, environment(sandbox, url)


def commands(sandbox):
    """Yield the commands of the setup, with days and a build of the sandbox."""
    section = (DOCS / "setup.md").read_text()
    first, last = (day.isoformat() for day in sandbox.world.first_and_last_day())
    url = sandbox.world.finish_build_now()["web_url"]
    lines = re.findall(r"^ {7}(\S.*)$", section, re.MULTILINE)
    for line in lines:
        given = line.replace("2026-11-01", first).replace("2026-11-07", last)
        yield shlex.split(re.sub(r"https://buildkite\.com/acme/web/builds/\d+", url, given))


def fill_in(file, settings):
    """Write the settings into the file: into existing lines, otherwise at the end."""
    text = file.read_text()
    for name, value in settings.items():
        text, found = re.subn(rf"^{name}=$", f"{name}={value}", text, flags=re.MULTILINE)
        text += "" if found else f"{name}={value}\n"
    file.write_text(text)


def test_ten_minute_setup_works_as_written(call, served, tmp_path):
    sandbox, settings = served
    ran = []
    for program, *arguments in commands(sandbox):
        ran.append(" ".join([program, *arguments[:1]]))
        if program == "cp":
            shutil.copy(PROJECT / arguments[0], tmp_path / arguments[1])
            fill_in(tmp_path / arguments[1], settings)
        elif program.endswith("bk-pipeline"):
            done = call(*arguments)
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    assert ran == [
        "cp .env.example",
        ".venv/bin/bk-pipeline doctor",
        ".venv/bin/bk-pipeline backfill",
        "make dev",
        ".venv/bin/bk-pipeline trace",
    ]
    assert sandbox.honeycomb.event_count > 0
    assert sandbox.honeycomb.duplicate_count == 0
    assert f"{settings['HONEYCOMB_API_ENDPOINT']}/sandbox" in done.stdout


def blocks(page):
    """The lines of the page's blocks that are not of a list's."""
    return re.findall(r"^ {4,8}(\S.*)$", (DOCS / page).read_text(), re.MULTILINE)


def test_tutorial_works_as_written(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = {}
    for line in blocks("tutorial.md"):
        program, *arguments = shlex.split(line)
        if line == "make demo":
            makefile = (PROJECT / "Makefile").read_text()
            [command] = re.findall(r"^\t@\$\(BIN\)/bk-pipeline (demo .*)$", makefile, re.MULTILINE)
            assert call(*shlex.split(command)).returncode == 0
        elif program == "export":
            monkeypatch.setenv(*arguments[0].split("="))
        elif program == f"{INSTALLED}bk-pipeline" and arguments != ["sandbox"]:
            done = call(*arguments)
            assert done.returncode == 0, f"{line}: {done.stderr}"
            printed[arguments[0]] = done.stdout
    assert set(printed) == {"changes", "sql", "queues", "flaky"}
    assert "the largest: api / test takes " in printed["changes"]
    number = printed["sql"].splitlines()[1].split()[1]
    assert "Critical path: " in call("trace", f"api#{number}").stdout


def test_cron_line_works_as_written(served, tmp_path):
    sandbox, settings = served
    sandbox.world.finish_build_now()  # weekends have hardly any
    [line] = [one for one in blocks("service.md") if one.startswith("*/15")]
    # Cron replaces `\%` with `%`, and gives commands hardly any environment.
    command = (
        line.split(maxsplit=5)[5].replace(r"\%", "%").replace("/opt/bk_pipeline", str(tmp_path))
    )
    (tmp_path / ".env").write_text("".join(f"{name}={one}\n" for name, one in settings.items()))
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    # The clock of `make test-any-day`.
    bare |= {
        name: one
        for name, one in os.environ.items()
        if name in {"LD_PRELOAD", "WALL_CLOCK_SHIFT_S"}
    }
    done = subprocess.run(["/bin/sh", "-c", command], cwd="/", env=bare, check=False)
    log = (tmp_path / ".cron.log").read_text()
    assert done.returncode == 0, log
    assert "3 of 3 days" in log
    assert sandbox.honeycomb.event_count > 0


def test_backup_of_the_ledger_works_as_written(tmp_path):
    [line] = [one for one in blocks("maintenance.md") if "sqlite3" in one]
    program, *arguments = shlex.split(line)
    assert program == f"{INSTALLED}python"
    (tmp_path / ".bk_pipeline").mkdir()
    clock = SystemClock()
    with Ledger.open(tmp_path / ".bk_pipeline" / "ledger.sqlite", clock=clock) as ledger:
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
        with Ledger.open(tmp_path / "ledger-backup.sqlite", clock=clock, create=False) as copy:
            assert copy.id == ledger.id


def completion(shell, home):
    """The line of the shell's configuration, the shell itself, and the environment of both."""
    program = shutil.which(shell)
    if program is None:
        missing(shell, shell)
    [line] = [one for one in blocks("shell.md") if f"={shell}_source" in one]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(home), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    return line.partition("  #")[0].strip(), program, env


def printed_by(shell, *options, script, env):
    return subprocess.run(
        [shell, *options, "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout


def test_completion_of_bash(tmp_path):
    line, shell, env = completion("bash", tmp_path)
    script = f"""{line}
        complete -p bk-pipeline
        COMP_WORDS=(bk-pipeline ledg) COMP_CWORD=1
        _bk_pipeline_completion bk-pipeline ledg bk-pipeline
        echo "found ${{COMPREPLY[*]}}" """
    told = printed_by(shell, script=script, env=env)
    assert "-F _bk_pipeline_completion bk-pipeline" in told
    assert "found ledger" in told


def test_completion_of_fish(tmp_path):
    line, shell, env = completion("fish", tmp_path)
    script = f"{line}\ncomplete -C 'bk-pipeline ledg'\ncomplete -C 'bk-pipeline report --per'"
    names = [
        one.partition("\t")[0] for one in printed_by(shell, script=script, env=env).splitlines()
    ]
    assert names == ["ledger", "--period"]


def test_completion_of_zsh(tmp_path):
    """In a terminal, by the Tab key: only its line editor completes."""
    line, shell, env = completion("zsh", tmp_path)
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [shell, "-f", "-i"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=env,
        start_new_session=True,
    )
    os.close(inside)
    shown = ""

    def see(text):
        nonlocal shown
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
        return text in shown

    try:
        os.write(terminal, f"autoload -Uz compinit; compinit -u; {line}; print rea''dy\n".encode())
        wait_until(lambda: see("ready"))
        os.write(terminal, b"bk-pipeline ledg\t")
        wait_until(lambda: see("bk-pipeline ledger"))
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize(
    ("unit", "ready"),
    [("webserver", "Serving dagster-webserver"), ("daemon", "Instance is configured")],
)
def test_units_of_systemd_start_what_is_installed(unit, ready, tmp_path):
    text = (PROJECT / "examples" / "systemd" / f"bk-pipeline-{unit}.service").read_text()
    [command] = re.findall(r"^ExecStart=/opt/bk_pipeline/\.venv/bin/(.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(command.replace("-p 3000", f"-p {free_port()}"))
    home, data, log = (tmp_path / name for name in ("home", "data", "log"))
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)  # as `make dev` does
    with log.open("wb") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments],
            cwd=PROJECT,
            env={**os.environ, "DAGSTER_HOME": str(home), "BK_PIPELINE_DATA_DIR": str(data)},
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: ready in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(60)
