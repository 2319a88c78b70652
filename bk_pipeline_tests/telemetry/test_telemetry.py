"""The tracing hooks, with a tracer that records and without any."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from threading import Thread

import pytest

from bk_pipeline import telemetry
from bk_pipeline.buildkite.api import QuotaLimiter
from bk_pipeline.buildkite.quota import Quota


class RecordingTracer:
    """Records each span that starts and the attributes added to it."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def span(self, name, attributes, *, leaf, outgoing):
        self.calls.append((name, dict(attributes), leaf, outgoing))
        yield self

    def set_attributes(self, attributes):
        self.calls.append(dict(attributes))


@pytest.fixture
def tracer():
    return RecordingTracer()


def traced_call(name="something"):
    with telemetry.span(name, {"n": 1}) as span:
        span.set_attributes({"m": 2})


def test_tracer_sees_only_spans_inside_its_block(tracer):
    traced_call("before")
    with telemetry.use_tracer(tracer):
        traced_call("inside")
        with telemetry.leaf_span("ask", outgoing=True):
            pass
    traced_call("after")

    assert tracer.calls == [
        ("inside", {"n": 1}, False, False),
        {"m": 2},
        ("ask", {}, True, True),
    ]


def test_other_threads_are_traced_only_with_a_bound_context(tracer):
    with telemetry.use_tracer(tracer):
        for call in (
            lambda: traced_call("alone"),
            telemetry.bind_context(lambda: traced_call("bound")),
        ):
            thread = Thread(target=call)
            thread.start()
            thread.join()

    assert [line[0] for line in tracer.calls if isinstance(line, tuple)] == ["bound"]


def test_quota_wait_is_a_span_with_its_reason(tracer, clock):
    quota = Quota()
    quota.block(clock.monotonic(), 7)

    with telemetry.use_tracer(tracer):
        QuotaLimiter(quota, clock=clock, on_wait=lambda _: None).acquire()

    reason = {"bk_pipeline.reason": "Buildkite answered 429."}
    assert tracer.calls == [("wait for quota", reason, True, False)]


def test_without_tracer_context_is_not_bound_and_errors_propagate():
    assert telemetry.bind_context(traced_call) is traced_call
    with pytest.raises(ValueError, match="mine"), telemetry.span("something"):
        raise ValueError("mine")


def test_without_tracer_all_spans_are_one_object():
    assert telemetry.span("one") is telemetry.leaf_span("another", {"n": 1})


def test_sdk_is_not_imported_when_self_tracing_is_off():
    code = (
        "import sys, bk_pipeline.definitions\n"
        "from bk_pipeline.self_tracing import self_tracing\n"
        "from bk_pipeline.settings import Settings\n"
        "with self_tracing(Settings.of(), run_id=''): pass\n"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == 0
