from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.sources.failure import MESSAGE_LIMIT, TAIL_BYTES, failure_of, signature_of
from bk_pipeline.sources.failure_rules import RULES
from bk_pipeline.sources.log import read_log
from bk_pipeline.sources.model import JobTimes
from bk_pipeline_tests.sources.failing import EXAMPLES, Example, framed
from bk_pipeline_tests.spans.test_secrets import JWT, SAMPLES, key

JOB = JobTimes("job", 1_790_000_000_000_000_000, 1_790_000_900_000_000_000)
QUICK = settings(deadline=None, max_examples=50)
NAMES = [example.name for example in EXAMPLES]


def failure(example: Example, raw: bytes):
    return failure_of(raw, exit_status=example.exit_status, signal_reason=example.signal_reason)


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_the_kind_and_the_message_of_what_a_tool_prints(example):
    found = failure(example, framed(example.output, example.exit_status))

    assert str(found.kind) == example.kind
    assert example.message in found.message


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_a_tail_has_the_failure_of_the_whole_log(example):
    raw = framed(example.output, example.exit_status)
    reasons = {"exit_status": example.exit_status, "signal_reason": example.signal_reason}

    whole = read_log([raw[:100], raw[100:]], JOB, **reasons).failure

    assert whole == failure_of(raw, **reasons)
    later = failure_of(raw[60:], **reasons)
    assert (later.kind, later.signature) == (whole.kind, whole.signature)


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_another_run_of_the_same_has_the_same_signature(example):
    """Other times, another checkout, other ports and process ids."""
    other = example.output.replace("/app/", "/var/lib/buildkite/builds/agent-7/acme/web/")
    other = re.sub(r"\b\d+(?:\.\d+)?(?=s\b| ?ms\b)", "8.75", other)
    other = re.sub(r"\b(?:3121|4121|4211)\b", "907", other)

    first = failure(example, framed(example.output, example.exit_status))
    later = framed(other, example.exit_status, markers=False, started_ms=1_795_000_000_000)

    assert failure(example, later).signature == first.signature


def test_different_failures_have_different_signatures():
    found = [failure(one, framed(one.output, one.exit_status)).signature for one in EXAMPLES]

    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in found)


def test_a_job_that_passed_has_no_failure():
    raw = framed(EXAMPLES[0].output)

    assert failure_of(raw, exit_status=0) is None
    assert failure_of(b"all done\n") is None
    assert failure_of(b"") is None
    # The log's error is not the job's if nothing says that the job failed.
    assert read_log([b"~~~ Running commands\nerror: ignored\n"], JOB).failure is None


def test_failures_are_looked_for_in_the_step_that_failed():
    raw = b"\n".join(
        [
            b"~~~ Running global environment hook",
            b"error: no space left on device, using the other disk",
            b"~~~ Running commands",
            b"FAILED tests/test_a.py::test_b - assert 0",
            "\U0001f6a8 Error: The command exited with status 1".encode(),
            b"~~~ Running global pre-exit hook",
            b"Out of memory: Killed process 1",
        ]
    )

    found = failure_of(raw, exit_status=1)

    assert (found.kind, found.message) == ("test", "tests/test_a.py::test_b - assert 0")
    assert raw[found.offset :].startswith(b"FAILED")


def test_what_fails_before_the_command_is_infrastructure():
    raw = (
        b"~~~ Preparing working directory\n$ git checkout -f 1f2e3d4\n"
        b"error: pathspec '1f2e3d4' did not match any file(s) known to git\n"
        + "\U0001f6a8 Error: The command exited with status 128\n".encode()
    )

    assert failure_of(raw).kind == "infrastructure"


@pytest.mark.parametrize(
    ("exit_status", "reason", "kind", "message"),
    [
        (-1, None, "infrastructure", "The agent was lost"),
        (-1, "agent_stop", "infrastructure", "The agent was stopped while the job ran"),
        (None, "stack_error", "infrastructure", "The stack that runs agents failed"),
        (124, None, "timeout", "compiling 13 of 400"),
        (-1, "cancel", "unknown", "The job was canceled"),
        (137, None, "infrastructure", "compiling 13 of 400"),
        (1, None, "unknown", "compiling 13 of 400"),
    ],
)
def test_how_a_job_ended_decides_if_no_tool_says_why(exit_status, reason, kind, message):
    found = failure_of(
        b"~~~ Running commands\ncompiling 13 of 400\n",
        exit_status=exit_status,
        signal_reason=reason,
    )

    assert (found.kind, found.message) == (kind, message)


def test_a_time_limit_is_told_from_a_cancellation_by_the_state():
    raw = b"~~~ Running commands\n# Received cancellation signal, interrupting\n"

    found = failure_of(raw, exit_status=-1, signal_reason="cancel", state="timed_out")

    assert found.kind == "timeout"


def test_of_a_longer_log_the_tail_is_read():
    noise = b"compiling one more file of many\n" * 20_000
    raw = framed(EXAMPLES[0].output)

    found = failure_of(noise + raw, exit_status=1)

    assert len(noise) > TAIL_BYTES
    assert found.signature == failure_of(raw, exit_status=1).signature
    assert (noise + raw)[found.offset :].split(b"\r\n")[0].endswith(b"- assert 3 == 4")


def test_what_the_agent_prints_after_the_error_does_not_push_it_out():
    raw = framed(EXAMPLES[0].output) + b"uploading one more of many files\n" * 20_000

    log = read_log([raw], JOB, exit_status=1)

    assert log.failure == failure_of(raw[:2_000], exit_status=1)


TEMPLATES = [
    "{time} worker[{number}]: request {uuid} to {host} failed after {duration}",
    "{path}/src/queue.c:{number}:{number}: error: unknown type name 'quue'",
    "open {temporary}/out.txt: permission denied ({address})",
    "build {sha} of image app@sha256:{digest} took {duration} and {number} bytes",
    "Killed process {number} ({time})",
]
FIELDS = st.fixed_dictionaries(
    {
        "time": st.sampled_from(
            ["2026-11-27T13:01:02Z", "2025-01-02 03:04:05,123", "Nov 27 13:01:02", "13:01:02.5"]
        ),
        "number": st.integers(0, 10**9).map(str),
        "uuid": st.uuids().map(str),
        "host": st.sampled_from(["10.0.0.1:8080", "192.168.7.12:53412", "[fe80:0:0:0:1:2:3:4]"]),
        "duration": st.sampled_from(["1.43s", "12 ms", "10m0s", "3m4.5s", "2 minutes", "1h2m"]),
        "path": st.sampled_from(["/app", "/var/lib/buildkite/builds/a-1/acme/web", "C:\\b\\1"]),
        "temporary": st.sampled_from(["/tmp/x81", "/var/folders/zz/abc", "/private/tmp/q"]),
        "address": st.integers(4096, 2**48).map(hex),
        "sha": st.from_regex(r"[0-9]{3}[a-f]{2}[0-9a-f]{2,35}", fullmatch=True),
        "digest": st.from_regex(r"[0-9a-f]{30}[0-9][a-f][0-9a-f]{32}", fullmatch=True),
    }
)  # fmt: skip


@QUICK
@given(st.sampled_from(TEMPLATES), FIELDS, FIELDS)
def test_signatures_do_not_depend_on_what_differs_between_runs(template, first, other):
    a, b = template.format(**first), template.format(**other)
    if "{path}" in template:
        a, b = (one.replace("C:\\b\\1/src/", "C:\\b\\1\\src\\") for one in (a, b))

    assert signature_of(a) == signature_of(b)


WORDS = st.lists(
    st.sampled_from(
        [
            "queue",
            "cart",
            "total",
            "field",
            "missing",
            "unexpected",
            "token",
            "Parser",
            "user_id",
            "E0382",
        ]
    ),
    min_size=1,
    max_size=6,
).map(" ".join)


@QUICK
@given(WORDS, WORDS)
def test_signatures_of_different_words_differ(first, other):
    assert (signature_of(first) == signature_of(other)) == (first == other)


def test_tests_that_fail_in_another_order_have_the_same_signature():
    lines = [f"FAILED tests/test_{one}.py::test_{one} - assert 0" for one in "bca"]

    found = [failure_of(framed("\n".join(order)), exit_status=1) for order in (lines, lines[::-1])]

    assert found[0].signature == found[1].signature
    assert found[0].message == "tests/test_a.py::test_a - assert 0"


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("pod web-7d9f8b6c5d-x2x7z is not ready", "pod web-5f4c9d7b8f-q4lzm is not ready"),
        ("pod job-x2x7z failed", "pod job-k9l4m failed"),
        ("request 5TCMZMB1F7723KBF denied", "request 9KQ2RV7W1B44XZT0 denied"),
        ("cannot read /home/a/web/x.toml", "cannot read /builds/b/7/web/x.toml"),
        ("https://ci.example.com/builds/17 failed", "https://ci.example.com/builds/18 failed"),
        ("at 0x7ffd2c3a in frame 3", "at 0x55d0aa10 in frame 9"),
        ("took 1m3.5s (12%)", "took 59.1s (7%)"),
        ("file:///app/src/x.kt:9:14 no", "file:///builds/7/src/x.kt:11:2 no"),
    ],
)
def test_what_machines_make_up_is_not_in_a_signature(first, other):
    assert signature_of(first) == signature_of(other)


def test_numbers_that_are_part_of_a_name_stay():
    assert signature_of("tests/test_a.py::test_v1 failed") != signature_of(
        "tests/test_a.py::test_v2 failed"
    )
    assert signature_of("error TS2322: x") != signature_of("error TS2345: x")


MEBIBYTE = 1 << 20
HOSTILE = [
    *(one * (MEBIBYTE // len(one)) for one in ("a", "/", ":", "-", ".", " ", "\t", "1", "[", "\x1b")),
    *(one * (MEBIBYTE // len(one)) for one in ("error: ", "--- FAIL: ", "1:1:", "a/", "0x1 ", "\x1b[")),
    *(one * (MEBIBYTE // len(one)) for one in ("\x1b]", "\r", "\n", "\nE  ", "1) Failure:\n", "C:\\a")),
    *(rule.hints[0] * (MEBIBYTE // len(rule.hints[0])) for rule in RULES[::7]),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_hostile_lines_take_linear_time(text):
    began = time.process_time()

    failure_of(text.encode(), exit_status=1)
    signature_of(text)

    assert time.process_time() - began < 10


@QUICK
@given(st.binary(max_size=300), st.integers(-2, 255) | st.none())
def test_any_bytes_are_read(raw, exit_status):
    found = failure_of(raw, exit_status=exit_status)

    assert found is None or len(found.message or "") <= MESSAGE_LIMIT


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.tool}-{rule.rank}")
def test_hints_are_in_lower_case(rule):
    assert all(hint == hint.lower() for hint in rule.hints)
    assert not rule.expression.search("")


TOKENS = {secret for samples in SAMPLES.values() for secret in samples}
SECRETS = [
    *sorted(TOKENS),
    "https://deploy:hunter2pass99@registry.example.com/v2/",
    "Authorization: Bearer abcdef0123456789abcdef0123456789",
    *(
        line.format(password="hunter2pass99", token="q1W2e3R4t5Y6u7I8o9P0a1S2d3F4g5H6")
        for line in Path(__file__).with_name("secrets.txt").read_text().splitlines()
    ),
    f"bkua_{JWT}",
]
HIDDEN = ("hunter2", "q1W2e3R4", "abcdef0123456789")
PLACES = [
    "error: request failed: {}",
    "FAILED tests/test_a.py::test_b - AssertionError: {}",
    "E   ValueError: {}",
    "--- FAIL: TestX (0.00s)\n    a_test.go:1: got {}",
    "src/a.c:1:2: error: {}",
    "panic: {}",
    "last words {}",
    "error: " + "x " * 140 + "{}",
    "error: \x1b[31m{}\x1b[0m",
]


def test_a_secret_is_masked_by_what_stands_before_the_message():
    raw = b"api_token='deploy curl: (6) Could not resolve host: hunter2pass99'\n"

    assert failure_of(raw, exit_status=6).message == "api_token='[masked]'"


def split(secret: str) -> str:
    """Put what a terminal does not show inside of a secret."""
    return f"{secret[:6]}\x1b_bk;t=1790000000000\x07\x1b[1m\u200b{secret[6:]}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("disguise", [str, split], ids=["plain", "split"])
def test_no_secret_is_in_a_message(place, disguise):
    for secret in SECRETS:
        found = failure_of(place.format(disguise(secret)).encode(), exit_status=1)

        assert not any(part in found.message for part in HIDDEN), (secret, found)
        if secret in TOKENS:
            parts = re.findall(r"[\w.~+/=-]{12,}", secret.replace("\n", " "))
            assert not any(part in found.message for part in parts), (secret, found)


@pytest.mark.parametrize(
    "label", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"]
)
@pytest.mark.parametrize("skipped", [0, 12, 100, 700])
def test_no_part_of_a_private_key_is_a_message(label, skipped):
    body = "\n".join("MIIEowIBAAKCAQEA" + "q1w2E3r4" * 6 for _ in range(20))
    raw = key(label, body).encode()[skipped:]

    for cut in (len(raw), len(raw) // 2):
        found = failure_of(raw[:cut], exit_status=1)
        assert found is None or "q1w2" not in (found.message or "")
    found = failure_of(raw + b"\nerror: cannot read the key\n", exit_status=1)
    assert found.message == "error: cannot read the key"


def test_without_text_only_the_kind_is_left():
    raw = framed(EXAMPLES[0].output)

    log = read_log([raw], JOB, exit_status=1, text=False)

    assert (log.failure.kind, log.failure.message, log.failure.signature) == ("test", None, None)
