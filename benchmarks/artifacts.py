"""Test results and profiles as spans: JUnit XML of 200,000 cases, and a profile of 512 MiB.

Both are generated on the fly, in pieces as a download gives them, and read in a process of their
own. A case in twenty failed. Of the profile's events most are short, as of a build's actions, and
one in five begins inside of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from benchmarks.figures import Bound, Figure, Report
from benchmarks.measured import Work, measured
from bk_pipeline.sources.junit import read_junit
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.sources.profile import EventPolicy, read_profile
from bk_pipeline.sources.results import CasePolicy

MIB = 1024 * 1024
CASES, CASES_EACH = 200_000, 100
PROFILE_MIB, MOST_MIB = 512, 512
BLOCK_EVENTS = 20_000
SEED = 1
START_NS = 1_795_176_000_000_000_000  # 2026-11-20T12:00:00Z
JOB = JobTimes("0193a1b2-0000-4000-8000-000000000001", START_NS, START_NS + 3_600_000_000_000)
PLACEHOLDER = b"@@@@@@"


def run(_: Path) -> Report:
    """Run the benchmark and return its report."""
    junit = measured("benchmarks.artifacts:junit")
    profile = measured("benchmarks.artifacts:profile")
    cases_per_s = junit.counts["cases"] / junit.cpu_seconds
    mib_per_s = profile.counts["bytes"] / MIB / profile.cpu_seconds
    return Report(
        title="artifacts: test results and profiles as spans",
        columns=("", "size", "spans", "seconds", "MiB, at most"),
        rows=[
            (
                "JUnit XML",
                f"{junit.counts['cases']:,.0f} cases",
                f"{junit.counts['spans']:,.0f}",
                f"{junit.cpu_seconds:.1f}",
                f"{junit.rss_bytes / MIB:.0f}",
            ),
            (
                "profile",
                f"{profile.counts['events']:,.0f} events",
                f"{profile.counts['spans']:,.0f}",
                f"{profile.cpu_seconds:.1f}",
                f"{profile.rss_bytes / MIB:.0f}",
            ),
        ],
        figures=[
            Figure("insides.junit_cases_per_s", cases_per_s),
            Figure("insides.junit_peak_rss_mib", junit.rss_bytes / MIB),
            Figure("insides.profile_mib_per_s", mib_per_s),
            Figure("insides.profile_peak_rss_mib", profile.rss_bytes / MIB, Bound(most=MOST_MIB)),
        ],
        notes=["CPU time of one core, with the generation of the files. Memory includes Python."],
    )


def junit() -> Work:
    """Return the work: read a JUnit XML file of `CASES` cases."""

    def work() -> dict[str, float]:
        tests = read_junit(_report(), JOB, path="junit.xml", cases=CasePolicy())
        return {"cases": sum(tests.cases.values()), "spans": len(tests.spans)}

    return work


def profile() -> Work:
    """Return the work: read a profile of `PROFILE_MIB`."""
    block = _events()
    blocks = PROFILE_MIB * MIB // len(block)

    def work() -> dict[str, float]:
        found = read_profile(_profile(block, blocks), JOB, path="p.json", events=EventPolicy())
        return {"bytes": len(block) * blocks, "events": found.events, "spans": len(found.spans)}

    return work


def _report() -> Iterator[bytes]:
    yield b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites>\n"
    for suite in range(CASES // CASES_EACH):
        name = f"tests.shop.test_cart_{suite}"
        moment = f"2026-11-20T12:{suite // 60 % 60:02}:{suite % 60:02}Z"
        rows = [f'<testsuite name="{name}" tests="{CASES_EACH}" time="2.5" timestamp="{moment}">\n']
        for case in range(CASES_EACH):
            rows.append(
                f'<testcase classname="{name}.TestTotal" name="test_adds[{case}]" time="0.0{case}"'
            )
            if case % 20 == 0:
                rows.append(
                    f'><failure message="assert {case} == {suite}">def test_adds():\n'
                    f">       assert {case} == {suite}\nE       AssertionError</failure></testcase>\n".replace(
                        "\n>", "\n&gt;"
                    )
                )
            else:
                rows.append("/>\n")
        rows.append("</testsuite>\n")
        yield "".join(rows).encode()
    yield b"</testsuites>\n"


def _events() -> bytes:
    """Return rows of events; what begins their times is a placeholder of the same length."""
    random = Random(SEED)  # noqa: S311  # repeatable numbers
    rows = []
    at_us = length_us = 0
    for number in range(BLOCK_EVENTS):
        at_us += 1 if random.random() < 0.2 else length_us  # noqa: PLR2004
        length_us = int(10 ** random.uniform(1, 5.5))
        rows.append(
            f'    {{"cat":"action processing","name":"Compiling shop/cart/total_{number}.cc","ph":"X",'
            f'"ts":{PLACEHOLDER.decode()}{at_us % 10_000:04},"dur":{length_us},"pid":1,"tid":{number % 32},'
            f'"args":{{"target":"//shop/cart:total_{number}","mnemonic":"CppCompile"}}}},\n'
        )
    return "".join(rows).encode()


def _profile(block: bytes, blocks: int) -> Iterator[bytes]:
    yield b'{"otherData":{"profile_start_ts":1795176000000},"traceEvents":[\n'
    for number in range(blocks):
        # Numbers of fixed length that begin with 1: JSON has no leading zeros.
        yield block.replace(PLACEHOLDER, str(100_000 + number).encode())
    yield b'    {"name":"end","ph":"i","ts":1000000000,"pid":1,"tid":0}\n  ]\n}\n'
