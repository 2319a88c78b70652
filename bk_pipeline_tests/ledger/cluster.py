"""A PostgreSQL server of the tests' own, that they may kill; or the one they are given.

`BK_PIPELINE_TEST_POSTGRES_URL` names a database whose user may create others. Without it,
and without server programs, these tests are skipped; see `programs.py`.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

from bk_pipeline_tests.programs import missing

# Read now: the fixtures of a test hide the developer's own environment.
GIVEN = os.environ.get("BK_PIPELINE_TEST_POSTGRES_URL")
USER, PASSWORD = "keeper", "sesame/open"
SETTINGS = {"fsync": "off", "max_connections": "40", "autovacuum": "off"}
TIMEOUT_S = 60


def programs() -> Path | None:
    """Where `initdb` and `pg_ctl` are."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Cluster:
    """A server in a temporary folder, on a free port of loopback."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._account = _account()
        self._changing = Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="bk_pipeline_postgres_"))
        if self._account is not None:
            shutil.chown(self.folder, self._account)
        self._data = self.folder / "data"
        self._go_with_this_process()
        self._initialize()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return URL.create(
            "postgresql", USER, PASSWORD, "127.0.0.1", self.port, "postgres"
        ).render_as_string(hide_password=False)

    def start(self) -> None:
        options = {**SETTINGS, "port": self.port, "listen_addresses": "127.0.0.1"}
        options["unix_socket_directories"] = self.folder
        shown = " ".join(f"-c {name}={value}" for name, value in options.items())
        self._run("pg_ctl", "start", "-w", "-s", "-l", self.folder / "log", "-o", shown)

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is like a crash: sessions are cut off, nothing is written any more."""
        with self._changing:
            self._run("pg_ctl", "stop", "-w", "-s", "-m", mode)

    def start_again(self) -> None:
        """Have it running, whether it is or not."""
        with self._changing:
            if not (self._data / "postmaster.pid").exists():
                self.start()

    def _go_with_this_process(self) -> None:
        """Stop and remove it when this process ends, even if that is by being killed.

        The shell waits for the end of a pipe of which only this process has the other one.
        """
        script = 'cat >/dev/null; "$0" -D "$1/data" stop -s -m immediate; cd /; rm -rf "$1"'
        self._watcher = subprocess.Popen(
            ["sh", "-c", script, self._binaries / "pg_ctl", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.folder,
            user=self._account,
            extra_groups=[] if self._account else None,
        )
        atexit.register(self._watcher.communicate, timeout=TIMEOUT_S)

    def _initialize(self) -> None:
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if self._account is not None:
            shutil.chown(secret, self._account)
        self._run(
            "initdb",
            *("-U", USER, "--pwfile", secret, "--auth", "scram-sha-256"),
            *("-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self._data, *map(str, arguments)],
            check=True,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            user=self._account,
            extra_groups=[] if self._account else None,
        )


def _account() -> str | None:
    """Whom to run the server as: it refuses root."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@cache
def cluster() -> Cluster:
    """This process's server, which goes with the process."""
    binaries = programs()
    if binaries is None:
        missing("PostgreSQL server", "postgresql")
    return Cluster(binaries)


@cache
def database() -> str:
    """The URL of this process's database, which goes with the process."""
    url = GIVEN or cluster().url
    name = f"bk_pipeline_test_{os.getpid()}"
    execute(url, f"CREATE DATABASE {name}")
    if GIVEN:
        atexit.register(execute, url, f"DROP DATABASE {name} WITH (FORCE)")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


_numbers = count()


@contextmanager
def fresh_schema() -> Iterator[str]:
    """The URL of a database with a schema of its own, which goes with the block."""
    name = f"test_{next(_numbers)}"
    execute(database(), f"CREATE SCHEMA {name}")
    yield f"{database()}?options=-csearch_path%3D{name}"
    execute(database(), f"DROP SCHEMA {name} CASCADE")


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a statement returns, if anything."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement.encode())
        return found.fetchall() if found.description else []
