"""Which attempt replaces which."""

from __future__ import annotations

import pytest

from bk_pipeline.spans.jobs import Retries, Retry, last_attempts
from bk_pipeline.spans.records import Job, RetrySource


def job(name: str, *, source: str | None = None, heir: str | None = None, kind: str | None = None):
    return Job(
        id=name,
        retry_source=RetrySource(source, kind) if source else None,
        retried_in_job_id=heir,
        retry_type=kind if heir else None,
    )


def test_a_first_attempt_replaces_nothing():
    retries = Retries([job("a")])
    assert retries.of("a") is None
    assert retries.origin("a") == "a"


@pytest.mark.parametrize("jobs", [[job("b", source="a", kind="manual")], [job("a", heir="b")]])
def test_either_attempt_may_name_the_other(jobs):
    assert Retries(jobs).of("b") == Retry("a", manual=True)


def test_only_what_says_so_is_automatic():
    assert Retries([job("b", source="a", kind="automatic")]).of("b") == Retry("a", manual=False)
    assert Retries([job("a", heir="b", kind="automatic")]).of("b") == Retry("a", manual=False)


def test_a_job_does_not_replace_itself():
    assert Retries([job("a", source="a", heir="a")]).of("a") is None


def test_all_attempts_go_back_to_the_first():
    chain = [job("a", heir="b"), job("b", heir="c"), job("c", source="b", kind="manual")]
    retries = Retries(chain)
    assert {retries.origin(name) for name in "cab"} == {"a"}


def test_the_first_attempt_may_be_missing():
    assert Retries([job("b", source="a")]).origin("b") == "a"


@pytest.mark.parametrize("asked_first", ["a", "b", "c", "tail"])
def test_a_circle_has_one_origin(asked_first):
    jobs = [job("b", source="a"), job("c", source="b"), job("a", source="c")]
    retries = Retries([*jobs, job("tail", source="c")])
    retries.origin(asked_first)
    assert {retries.origin(name) for name in ("a", "b", "c", "tail")} == {"a"}


def test_what_another_replaces_is_not_the_last_word():
    retries = Retries([job("b", source="a"), job("y", source="x")])
    assert list(last_attempts(["a", "b", "x"], retries)) == ["b", "x"]
    assert list(last_attempts(["a"], retries)) == ["a"]


def test_in_a_circle_all_have_their_say():
    assert list(
        last_attempts(["a", "b"], Retries([job("b", source="a"), job("a", source="b")]))
    ) == [
        "a",
        "b",
    ]
