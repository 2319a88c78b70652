"""Threads that write at once: in one transaction, and yet each as if it were alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, select

from bk_pipeline.ledger.database import Together
from bk_pipeline.ledger.schema import open_database
from bk_pipeline.ledger.tables import destinations

PATIENCE_S = 120


class Commits:
    """`write` of a real database, which counts its transactions, and of which some fail."""

    def __init__(self, database):
        self._database = database
        self.begun = 0
        self.failing: set[int] = set()

    @contextmanager
    def write(self):
        self.begun += 1
        number = self.begun
        with self._database.write() as connection:
            yield connection
            if number in self.failing:
                raise OSError("the disk is full")


class Joined(Together):
    """With its `write` at hand."""

    def __init__(self, commits):
        super().__init__()
        self._commits = commits

    def do(self, work):
        return super().do(work, write=self._commits.write)


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "ledger.sqlite", busy_timeout_s=30, create=True)
    yield database
    database.close()


@pytest.fixture
def commits(database):
    return Commits(database)


@pytest.fixture
def together(commits):
    return Joined(commits)


def note(name):
    """Work that writes something down, and returns what."""

    def work(connection):
        connection.execute(insert(destinations), {"name": name})
        return name

    return work


def noted(database):
    with database.read() as connection:
        return sorted(connection.execute(select(destinations.c.name)).scalars())


def behind_another(together, *works) -> list[Future]:
    """What `works` came to, all of which had to wait while somebody else was writing."""
    writing, go_on = threading.Event(), threading.Event()

    def first(connection):
        note("first")(connection)
        writing.set()
        assert go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(1 + len(works)) as pool:
        pool.submit(together.do, first)
        assert writing.wait(PATIENCE_S)
        made = [pool.submit(together.do, work) for work in works]
        until = time.monotonic() + PATIENCE_S
        while together.waiting < len(works) and time.monotonic() < until:
            time.sleep(0.01)
        go_on.set()
    return made


def test_who_waits_is_written_for_in_one_transaction(together, commits, database):
    made = behind_another(together, note("a"), note("b"), note("c"))

    assert [one.result() for one in made] == ["a", "b", "c"]
    assert commits.begun == 2
    assert noted(database) == ["a", "b", "c", "first"]


def test_an_error_of_one_undoes_its_own_work_and_nobody_elses(together, database):
    def broken(connection):
        note("b")(connection)
        raise ZeroDivisionError

    before, failed, after = behind_another(together, note("a"), broken, note("c"))

    assert (before.result(), after.result()) == ("a", "c")
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert noted(database) == ["a", "c", "first"]


def test_two_that_cannot_both_be_written_are_not_both_lost(together, database):
    made = behind_another(together, note("same"), note("same"), note("other"))

    assert [one.exception() is None for one in made] in ([True, False, True], [False, True, True])
    assert noted(database) == ["first", "other", "same"]


def test_when_the_common_commit_fails_each_is_tried_alone(together, commits, database):
    commits.failing = {2, 4}

    made = behind_another(together, note("a"), note("b"), note("c"))

    errors = [one.exception() for one in made]
    assert sorted(map(type, errors), key=str) == [type(None), type(None), OSError]
    assert commits.begun == 2 + 3
    assert len(noted(database)) == 1 + 2


def test_who_is_interrupted_while_writing_for_all_is_the_only_one_to_stop(together, database):
    calls: list[str] = []

    def interruptible(name):
        def work(connection):
            calls.append(name)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return note(name)(connection)

        return work

    made = behind_another(together, *map(interruptible, "abc"))

    errors = [one.exception() for one in made]
    assert sorted(map(type, errors), key=str) == [KeyboardInterrupt, type(None), type(None)]
    written = [one.result() for one in made if one.exception() is None]
    assert noted(database) == [*written, "first"]


def test_who_is_alone_has_the_error_at_once(together, commits, database):
    commits.failing = {1}

    with pytest.raises(OSError, match="full"):
        together.do(note("a"))

    assert commits.begun == 1
    assert noted(database) == []


def test_many_threads_all_get_what_is_theirs(together, commits, database):
    names = [f"{number:03}" for number in range(200)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: together.do(note(name)), names)) == names

    assert noted(database) == names
    assert commits.begun <= len(names)
