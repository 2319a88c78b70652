from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.sources import log_scan as module
from bk_pipeline.sources.headers import header_text, is_expansion
from bk_pipeline.sources.log import read_log
from bk_pipeline.sources.log_scan import FIRST_SECTIONS, LAST_SECTIONS, MOST_COMMANDS
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.spans.fields import DETAIL_FIELDS
from bk_pipeline.spans.model import SpanKind
from bk_pipeline_tests.sources.goldens import JOB, LOGS, START_MS, options_of, rendered, situations
from bk_pipeline_tests.spans.test_secrets import SAMPLES

QUICK = settings(deadline=None, max_examples=100)
NAME, INDEX = "buildkite.job.section.name", "buildkite.job.section.index"
BYTES, LINES = "buildkite.job.section.bytes", "buildkite.job.section.lines"


def marked(ms: int, text: str, end: str = "\r\n") -> bytes:
    return f"\x1b_bk;t={START_MS + ms}\x07{text}{end}".encode()


def sections(raw: bytes, **options):
    return [one for one in read_log([raw], JOB, **options).spans if one.kind is SpanKind.SECTION]


def names(raw: bytes) -> list[str | None]:
    return [one.attributes.get(NAME) for one in sections(raw)]


@pytest.mark.parametrize("situation", situations())
def test_logs_are_read_as_in_the_golden_files(situation):
    assert rendered(situation) == (LOGS / f"{situation}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("situation", situations())
@pytest.mark.parametrize("size", [1, 7, 64])
def test_chunks_of_any_size_give_the_same(situation, size, monkeypatch):
    raw = (LOGS / f"{situation}.log").read_bytes()
    options = options_of(situation)
    whole = read_log([raw], JOB, **options)

    chunks = [raw[at : at + size] for at in range(0, len(raw), size)]

    assert read_log(chunks, JOB, **options) == whole
    monkeypatch.setattr(module, "_BLOCK_BYTES", 100 * size)
    assert read_log(chunks, JOB, **options).spans == whole.spans


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"--- a", b"a"),
        (b"+++ a\r\r\n", b"a"),
        (b"~~~ a", b"a"),
        (b"---\ta", b"a"),
        (b"--- ", b""),
        (b"\x1b[33m--- \x1b[1ma\x1b[0m", b"a"),
        (b"\x1b[K\x1b_bk;t=1\x07+\x1b[0m++ a", b"a"),
        (b"--- " + b"a" * 495, b"a" * 495),
        (b"--- " + b"a" * 496, None),
        (b"---", None),
        (b"---\r", None),
        (b"----", None),
        (b"---- a", None),
        (b"--+ a", None),
        (b" --- a", None),
        (b"\x1b[1;1H--- a", None),
        (b"x\r--- a", None),
        (b"^^^ +++", None),
    ],
)
def test_a_header_is_what_the_agent_takes_for_one(line, text):
    assert header_text(line) == text
    found = names(b"before\n" + line + b"\n")
    assert len(found) == (1 if text is None else 2)


@pytest.mark.parametrize(
    "line", [b"^^^ +++", b"^^^ +++\r\r", b"^^^  +++ ", b"\x1b_bk;t=1\x07^^^ +++\r"]
)
def test_an_expansion_opens_no_section(line):
    assert is_expansion(line)
    assert names(b"--- a\n" + line + b"\nb\n") == ["a"]


def test_sections_have_phases_of_the_agent():
    headers = {
        "~~~ Running agent environment hook": "environment",
        "~~~ Running plugin docker environment hook": "plugins",
        "~~~ Preparing working directory": "checkout",
        "--- user text in between": "checkout",
        "~~~ Running repository pre-command hook": "command",
        "~~~ Running plugin docker command hook": "command",
        "+++ Uploading artifacts": "command",
        "~~~ Uploading artifacts": "artifacts",
        "~~~ Running global pre-exit hook": "other",
    }

    found = sections("\n".join(headers).encode())

    assert [one.attributes["buildkite.job.section.phase"] for one in found] == [*headers.values()]


def test_markers_take_precedence_over_header_times():
    raw = marked(1_000, "--- a") + marked(2_000, "--- b")

    found = sections(raw, header_times=[JOB.start_ns + 5 * 10**9, JOB.start_ns + 6 * 10**9])

    assert [one.start_ns - JOB.start_ns for one in found] == [10**9, 2 * 10**9]
    assert not any(one.guessed for one in found)


def test_a_failure_without_a_line_is_in_the_opened_section_of_the_command():
    raw = b"~~~ Running commands\n--- a\nx\n^^^ +++\n--- b\n~~~ Running global pre-exit hook\n"

    found = sections(raw, exit_status=-1, signal_reason="agent_stop")

    assert [one.status for one in found] == ["unset", "error", "unset", "unset"]
    plain = sections(raw.replace(b"^^^ +++\n", b""), exit_status=-1, signal_reason="agent_stop")
    assert [one.status for one in plain] == ["unset", "unset", "error", "unset"]
    assert plain[2].error_type == "failed"


def test_header_times_are_requested_only_for_a_log_without_times():
    asked = []

    def header_times():
        asked.append(1)
        return [JOB.start_ns + 10**9]

    assert not sections(b"no headers\n", header_times=header_times)[0].attributes.get(NAME)
    assert sections(marked(2_000, "--- a"), header_times=header_times)[0].start_ns
    assert asked == []
    found = sections(b"--- a\n", header_times=header_times)
    assert ([one.start_ns - JOB.start_ns for one in found], asked) == ([10**9], [1])


def test_of_many_sections_the_first_and_the_last_are_kept():
    count = 100_000

    log = read_log((b"--- %d\n" % at for at in range(count)), JOB)

    assert (log.sections, log.lines) == (count, count)
    assert log.omitted_sections == count - FIRST_SECTIONS - LAST_SECTIONS
    assert [one.attributes[INDEX] for one in log.spans] == [
        *range(FIRST_SECTIONS),
        *range(count - LAST_SECTIONS, count),
    ]


def test_commands_above_the_limit_are_counted():
    raw = b"--- a\n" + b"+ true\n" * (MOST_COMMANDS + 5)

    log = read_log([raw], JOB, commands=True)

    assert (len(log.spans), log.omitted_commands) == (MOST_COMMANDS + 1, 5)


def test_a_line_without_end_takes_no_memory_and_hides_no_section(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 50_000)
    line = b"Receiving 1%\r" * 100_000

    log = read_log([b"--- a\n", line, b"--- b\n", marked(5_000, "--- c")], JOB)

    assert [one.attributes[NAME] for one in log.spans] == ["a", "c"]
    assert log.bytes == 6 + len(line) + 6 + len(marked(5_000, "--- c"))


@pytest.mark.parametrize("family", SAMPLES)
def test_no_secret_is_in_a_name_or_a_command(family):
    for secret in SAMPLES[family]:
        line = secret.replace("\n", "")
        raw = f"--- deploy {line}\n+ deploy {line}\n--- {line[:9]}\x1b[0m{line[9:]}\n".encode()
        for span in read_log([raw], JOB, commands=True).spans:
            for name in (NAME, "buildkite.job.section.command"):
                assert line not in str(span.attributes.get(name)), family


PIECES = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"--- ", b"+++ ", b"~~~ ", b"^^^ +++", b"-", b"+ ", b"$ ", b" "),
        *(
            b"\x1b",
            b"\x1b[33m",
            b"\x1b[K",
            b"\x1b_bk;t=",
            b"\x07",
            b"\x1b_bk;t=9\x07",
            b"\xff",
            b"\x00",
        ),
        *(b"Running commands", b"error: x", "\U0001f6a8 Error: exited with status 1".encode()),
        *(b"[2026-09-21T14:13:25Z] ", b"[2026-99-99T14:13:25Z] ", b"[20", b"x" * 500, b"y" * 5_000),
        *(b"\n\x1b_bk;t=%d\x07" % (START_MS + ms) for ms in (-9_000, 0, 1_000, 30_000, 99_000)),
        *(b"\n--- ", b"\n--- a\n", b"\n~~~ Running commands\n", b"\n+ make\n"),
    ]
)
HOSTILE = st.lists(PIECES | st.binary(max_size=20), max_size=60).map(b"".join)
TIMES = st.lists(
    st.integers(-(10**18), 2**63)
    | st.integers(0, 60_000).map(lambda ms: JOB.start_ns + ms * 10**6),
    max_size=9,
)


@QUICK
@given(HOSTILE, TIMES, st.lists(st.integers(0, 20_000), max_size=5), st.integers(0, 90_000))
def test_any_log_gives_spans_that_hold_together(raw, header_times, cuts, length_ms):
    job = JobTimes("job", JOB.start_ns, JOB.start_ns + length_ms * 10**6)
    options = {"header_times": header_times, "commands": True, "exit_status": 1}

    log = read_log([raw], job, **options)

    ends = sorted({0, *(min(cut, len(raw)) for cut in cuts), len(raw)})
    assert read_log([raw[a:b] for a, b in pairwise(ends)], job, **options) == log
    found = [one for one in log.spans if one.kind is SpanKind.SECTION]
    assert log.bytes == len(raw)
    assert log.lines == raw.count(b"\n") + (not raw.endswith(b"\n") and bool(raw))
    if found and found[0].attributes[BYTES] and log.sections:
        shown = sum(one.attributes[BYTES] for one in found)
        assert shown <= log.bytes
        assert sum(one.attributes[LINES] for one in found) <= log.lines
    assert len({(one.kind, one.identity) for one in log.spans}) == len(log.spans)
    names = {field.name for field in DETAIL_FIELDS}
    for at, one in enumerate(log.spans):
        assert job.start_ns <= one.start_ns <= one.end_ns <= job.end_ns
        assert one.attributes.keys() <= names
        assert (one.parent is None) == (one.kind is SpanKind.SECTION)
        if one.parent is not None:
            above = log.spans[one.parent]
            assert one.parent < at
            assert above.kind is SpanKind.SECTION
            assert above.start_ns <= one.start_ns <= one.end_ns <= above.end_ns
    assert [one.end_ns for one in found[:-1]] == [one.start_ns for one in found[1:]]
    assert not found or found[-1].end_ns == job.end_ns


@settings(deadline=None, max_examples=50)
@given(HOSTILE, st.sampled_from([200, 300, 1_000]), st.sampled_from([1, 50, 500]))
def test_where_blocks_begin_does_not_matter(raw, block_bytes, size):
    with patch.object(module, "LONGEST_LINE_BYTES", 64):
        whole = read_log([raw], JOB, commands=True)
        with patch.object(module, "_BLOCK_BYTES", block_bytes):
            chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
            assert read_log(chunks, JOB, commands=True) == whole


@QUICK
@given(st.lists(st.integers(0, 59_999), min_size=1, max_size=30))
def test_times_of_markers_in_order_are_kept_exactly(times):
    times = sorted(times)
    raw = b"".join(marked(ms, f"--- {at}") for at, ms in enumerate(times))

    found = sections(raw)

    assert [(one.start_ns - JOB.start_ns) // 10**6 for one in found] == times
    assert not any(one.guessed for one in found)
