"""A PostgreSQL server that tests start and may kill, or one that is given to them.

`BK_PIPELINE_TEST_POSTGRES_URL` names a database whose user may create others. Without it and
without the server's programs, these tests are skipped; see `programs.py`.
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
    """Return the folder of `initdb` and `pg_ctl`, if they are installed."""
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
        self._remove_with_this_process()
        self._initialize()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        """The URL of the server's default database, with user and password."""
        return URL.create(
            "postgresql", USER, PASSWORD, "127.0.0.1", self.port, "postgres"
        ).render_as_string(hide_password=False)

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = {**SETTINGS, "port": self.port, "listen_addresses": "127.0.0.1"}
        options["unix_socket_directories"] = self.folder
        shown = " ".join(f"-c {name}={value}" for name, value in options.items())
        self._run("pg_ctl", "start", "-w", "-s", "-l", self.folder / "log", "-o", shown)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; mode `immediate` is like a crash."""
        with self._changing:
            self._run("pg_ctl", "stop", "-w", "-s", "-m", mode)

    def start_again(self) -> None:
        """Start the server unless it is running."""
        with self._changing:
            if not (self._data / "postmaster.pid").exists():
                self.start()

    def _remove_with_this_process(self) -> None:
        """Stop and remove the server when this process ends, even if it is killed.

        The shell waits for the end of a pipe whose other end only this process holds.
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
    """Return the user to run the server as, since it refuses root; None for this one."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@cache
def cluster() -> Cluster:
    """Return the server of this process, which stops with it."""
    binaries = programs()
    if binaries is None:
        missing("PostgreSQL server", "postgresql")
    return Cluster(binaries)


@cache
def database() -> str:
    """Return the URL of the database of this process, which is dropped with it."""
    url = GIVEN or cluster().url
    name = f"bk_pipeline_test_{os.getpid()}"
    execute(url, f"CREATE DATABASE {name}")
    if GIVEN:
        atexit.register(execute, url, f"DROP DATABASE {name} WITH (FORCE)")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


_numbers = count()


@contextmanager
def fresh_schema() -> Iterator[str]:
    """Create a schema for the duration of the block, and yield its URL."""
    name = f"test_{next(_numbers)}"
    execute(database(), f"CREATE SCHEMA {name}")
    yield f"{database()}?options=-csearch_path%3D{name}"
    execute(database(), f"DROP SCHEMA {name} CASCADE")


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement and return its rows, if any."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement.encode())
        return found.fetchall() if found.description else []
