"""Which attempt retries which."""

from __future__ import annotations

import pytest

from bk_pipeline.spans.jobs import Retries, Retry, last_attempts
from bk_pipeline.spans.records import Job, RetrySource


def job(
    name: str, *, source: str | None = None, successor: str | None = None, kind: str | None = None
):
    return Job(
        id=name,
        retry_source=RetrySource(source, kind) if source else None,
        retried_in_job_id=successor,
        retry_type=kind if successor else None,
    )


def test_a_first_attempt_is_not_a_retry():
    retries = Retries([job("a")])
    assert retries.of("a") is None
    assert retries.origin("a") == "a"


@pytest.mark.parametrize("jobs", [[job("b", source="a", kind="manual")], [job("a", successor="b")]])
def test_either_attempt_may_name_the_other(jobs):
    assert Retries(jobs).of("b") == Retry("a", manual=True)


def test_a_retry_is_manual_unless_marked_automatic():
    assert Retries([job("b", source="a", kind="automatic")]).of("b") == Retry("a", manual=False)
    assert Retries([job("a", successor="b", kind="automatic")]).of("b") == Retry("a", manual=False)


def test_a_job_is_not_a_retry_of_itself():
    assert Retries([job("a", source="a", successor="a")]).of("a") is None


def test_the_origin_of_all_attempts_is_the_first():
    chain = [job("a", successor="b"), job("b", successor="c"), job("c", source="b", kind="manual")]
    retries = Retries(chain)
    assert {retries.origin(name) for name in "cab"} == {"a"}


def test_the_first_attempt_may_be_missing():
    assert Retries([job("b", source="a")]).origin("b") == "a"


@pytest.mark.parametrize("asked_first", ["a", "b", "c", "tail"])
def test_all_jobs_of_a_cycle_have_the_same_origin(asked_first):
    jobs = [job("b", source="a"), job("c", source="b"), job("a", source="c")]
    retries = Retries([*jobs, job("tail", source="c")])
    retries.origin(asked_first)
    assert {retries.origin(name) for name in ("a", "b", "c", "tail")} == {"a"}


def test_retried_jobs_are_not_last_attempts():
    retries = Retries([job("b", source="a"), job("y", source="x")])
    assert list(last_attempts(["a", "b", "x"], retries)) == ["b", "x"]
    assert list(last_attempts(["a"], retries)) == ["a"]


def test_all_jobs_of_a_cycle_are_last_attempts():
    assert list(
        last_attempts(["a", "b"], Retries([job("b", source="a"), job("a", source="b")]))
    ) == [
        "a",
        "b",
    ]
