"""What is told, and to whom, whoever listens."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from threading import Thread

import pytest

from bk_pipeline import telemetry
from bk_pipeline.buildkite.api import Gate
from bk_pipeline.buildkite.quota import Quota


class Heard:
    """A listener that writes down what begins and what is added."""

    def __init__(self):
        self.lines = []

    @contextmanager
    def span(self, name, attributes, *, leaf, outgoing):
        self.lines.append((name, dict(attributes), leaf, outgoing))
        yield self

    def add(self, attributes):
        self.lines.append(dict(attributes))


@pytest.fixture
def heard():
    return Heard()


def tell(name="something"):
    with telemetry.span(name, {"n": 1}) as note:
        note.add({"m": 2})


def test_who_listens_hears_what_happens_inside_and_nothing_else(heard):
    tell("before")
    with telemetry.listening(heard):
        tell("inside")
        with telemetry.leaf("ask", outgoing=True):
            pass
    tell("after")

    assert heard.lines == [
        ("inside", {"n": 1}, False, False),
        {"m": 2},
        ("ask", {}, True, True),
    ]


def test_nobody_hears_another_thread_unless_it_is_carried_there(heard):
    with telemetry.listening(heard):
        for call in (lambda: tell("alone"), telemetry.carried(lambda: tell("carried"))):
            thread = Thread(target=call)
            thread.start()
            thread.join()

    assert [line[0] for line in heard.lines if isinstance(line, tuple)] == ["carried"]


def test_a_wait_for_quota_is_told_with_its_reason(heard, clock):
    quota = Quota()
    quota.block(clock.monotonic(), 7)

    with telemetry.listening(heard):
        Gate(quota, clock=clock, on_wait=lambda _: None).enter()

    reason = {"bk_pipeline.reason": "Buildkite answered 429."}
    assert heard.lines == [("wait for quota", reason, True, False)]


def test_unheard_nothing_is_carried_and_errors_pass():
    assert telemetry.carried(tell) is tell
    with pytest.raises(ValueError, match="mine"), telemetry.span("something"):
        raise ValueError("mine")


def test_unheard_a_block_makes_nothing():
    assert telemetry.span("one") is telemetry.leaf("another", {"n": 1})


def test_the_sdk_is_not_imported_where_nothing_is_traced():
    code = (
        "import sys, bk_pipeline.definitions\n"
        "from bk_pipeline.self_tracing import self_tracing\n"
        "from bk_pipeline.settings import Settings\n"
        "with self_tracing(Settings.of(), run_id=''): pass\n"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == 0
