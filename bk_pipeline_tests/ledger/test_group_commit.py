"""Group commit: concurrent writes share a transaction, and each behaves as if it were alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, select

from bk_pipeline.ledger.database import GroupCommit
from bk_pipeline.ledger.schema import destinations, open_database

TIMEOUT_S = 120


class Commits:
    """`write` of a real database that counts transactions and fails some of them."""

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


class BoundGroupCommit(GroupCommit):
    """A group commit with its `write` built in."""

    def __init__(self, commits):
        super().__init__()
        self._commits = commits

    def run(self, work):
        return super().run(work, write=self._commits.write)


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "ledger.sqlite", busy_timeout_s=30, create=True)
    yield database
    database.close()


@pytest.fixture
def commits(database):
    return Commits(database)


@pytest.fixture
def group_commit(commits):
    return BoundGroupCommit(commits)


def insert_name(name):
    """Return work that inserts `name` and returns it."""

    def work(connection):
        connection.execute(insert(destinations), {"name": name})
        return name

    return work


def stored_names(database):
    with database.read() as connection:
        return sorted(connection.execute(select(destinations.c.name)).scalars())


def run_behind_another(group_commit, *works) -> list[Future]:
    """Run `works` while another thread is writing, so that all have to wait; return their results."""
    writing, go_on = threading.Event(), threading.Event()

    def first(connection):
        insert_name("first")(connection)
        writing.set()
        assert go_on.wait(TIMEOUT_S)

    with ThreadPoolExecutor(1 + len(works)) as pool:
        pool.submit(group_commit.run, first)
        assert writing.wait(TIMEOUT_S)
        made = [pool.submit(group_commit.run, work) for work in works]
        deadline = time.monotonic() + TIMEOUT_S
        while group_commit.waiting < len(works) and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
    return made


def test_waiting_work_is_committed_in_one_transaction(group_commit, commits, database):
    made = run_behind_another(group_commit, insert_name("a"), insert_name("b"), insert_name("c"))

    assert [one.result() for one in made] == ["a", "b", "c"]
    assert commits.begun == 2
    assert stored_names(database) == ["a", "b", "c", "first"]


def test_error_rolls_back_only_the_work_that_raised_it(group_commit, database):
    def broken(connection):
        insert_name("b")(connection)
        raise ZeroDivisionError

    before, failed, after = run_behind_another(
        group_commit, insert_name("a"), broken, insert_name("c")
    )

    assert (before.result(), after.result()) == ("a", "c")
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert stored_names(database) == ["a", "c", "first"]


def test_one_of_two_conflicting_works_is_committed(group_commit, database):
    made = run_behind_another(
        group_commit, insert_name("same"), insert_name("same"), insert_name("other")
    )

    assert [one.exception() is None for one in made] in ([True, False, True], [False, True, True])
    assert stored_names(database) == ["first", "other", "same"]


def test_failed_group_commit_is_retried_separately(group_commit, commits, database):
    commits.failing = {2, 4}

    made = run_behind_another(group_commit, insert_name("a"), insert_name("b"), insert_name("c"))

    errors = [one.exception() for one in made]
    assert sorted(map(type, errors), key=str) == [type(None), type(None), OSError]
    assert commits.begun == 2 + 3
    assert len(stored_names(database)) == 1 + 2


def test_interrupt_stops_only_one_of_the_waiting_threads(group_commit, database):
    calls: list[str] = []

    def interruptible(name):
        def work(connection):
            calls.append(name)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return insert_name(name)(connection)

        return work

    made = run_behind_another(group_commit, *map(interruptible, "abc"))

    errors = [one.exception() for one in made]
    assert sorted(map(type, errors), key=str) == [KeyboardInterrupt, type(None), type(None)]
    written = [one.result() for one in made if one.exception() is None]
    assert stored_names(database) == [*written, "first"]


def test_single_work_fails_without_a_retry(group_commit, commits, database):
    commits.failing = {1}

    with pytest.raises(OSError, match="full"):
        group_commit.run(insert_name("a"))

    assert commits.begun == 1
    assert stored_names(database) == []


def test_each_of_many_threads_gets_its_own_result(group_commit, commits, database):
    names = [f"{number:03}" for number in range(200)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: group_commit.run(insert_name(name)), names)) == names

    assert stored_names(database) == names
    assert commits.begun <= len(names)
