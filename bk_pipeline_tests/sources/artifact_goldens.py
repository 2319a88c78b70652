"""The golden files of artifacts: `junit/<dialect>.xml`, `profiles/<tool>.json`, each with a `.txt`.

Run as a script it writes all `.txt` anew, to be reviewed as a diff.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bk_pipeline.sources.junit import read_junit
from bk_pipeline.sources.model import DetailSpan, JobTimes
from bk_pipeline.sources.profile import read_profile
from bk_pipeline.sources.profile_events import EventPolicy
from bk_pipeline.sources.results import CasePolicy

FOLDER = Path(__file__).parent
SECOND_NS = 1_000_000_000
NOON_NS = 1_795_176_000 * SECOND_NS  # 2026-11-20T12:00:00Z
JOB = JobTimes("0193a1b2-0000-4000-8000-000000000001", NOON_NS, NOON_NS + 300 * SECOND_NS)
ALL_CASES = CasePolicy(which="all", max_results=10_000)
EVENTS = EventPolicy(min_ms=200, max_depth=2, max_events=5)


def samples() -> list[Path]:
    return sorted([*FOLDER.glob("junit/*.xml"), *FOLDER.glob("profiles/*.json")])


def rendered(sample: Path) -> str:
    """Return the spans of a sample, one on a line, and what was counted."""
    content = sample.read_bytes()
    if sample.suffix == ".xml":
        tests = read_junit([content], JOB, path=sample.name, cases=ALL_CASES)
        spans, problem = tests.spans, tests.problem
        counts = f"cases {tests.cases}, suites {tests.suites}"
    else:
        profile = read_profile([content], JOB, path=sample.name, events=EVENTS)
        spans, problem = profile.spans, profile.problem
        names = ("events", "too_short", "too_deep", "outside", "left_out", "unreadable")
        counts = ", ".join(f"{name} {getattr(profile, name)}" for name in names)
    lines = [f"{counts}, problem: {problem}", *(_line(spans, span) for span in spans)]
    return "\n".join(lines) + "\n"


def _line(spans: list[DetailSpan], span: DetailSpan) -> str:
    depth, above = 0, span.parent
    while above is not None:
        depth, above = depth + 1, spans[above].parent
    start_s = (span.start_ns - JOB.start_ns) / SECOND_NS
    length_s = (span.end_ns - span.start_ns) / SECOND_NS
    attributes = json.dumps(dict(sorted(span.attributes.items())), ensure_ascii=False)
    guessed = " guessed" if span.guessed else ""
    identity = " ".join(span.identity[1:])
    return (
        f"{'  ' * depth}{span.kind} [{identity}] at {start_s:.9f} for {length_s:.9f}{guessed}"
        f" {span.status} {span.error_type or ''} {attributes}"
    )


def main() -> int:
    for sample in samples():
        sample.with_suffix(".txt").write_text(rendered(sample))
    sys.stdout.write(f"{len(samples())} samples in {FOLDER}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
