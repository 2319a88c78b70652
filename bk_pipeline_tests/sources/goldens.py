"""The golden logs: `logs/<situation>.log` beside `logs/<situation>.json`.

Run as a script it writes all `.json` anew, to be reviewed as a diff.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bk_pipeline.sources.log import read_log
from bk_pipeline.sources.model import JobTimes
from bk_pipeline.units import NS_PER_MS

LOGS = Path(__file__).with_name("logs")
START_MS = 1_790_000_000_000
JOB = JobTimes("job", START_MS * NS_PER_MS, (START_MS + 60_000) * NS_PER_MS)
# What read_log is given besides the log; header times in milliseconds from the job's start.
OPTIONS: dict[str, dict[str, Any]] = {
    "fewer_header_times": {"header_times": (900, 2_000)},
    "header_times": {"header_times": (900, 2_000, 2_100, 30_000, 59_000)},
    "set_x": {"commands": True},
    "spare_header_times": {"header_times": (900, 2_000, 2_100, 2_100, 30_000, 59_000)},
    "without_text": {"commands": True, "text": False, "exit_status": 1},
}


def situations() -> list[str]:
    return sorted(path.stem for path in LOGS.glob("*.log"))


def options_of(situation: str) -> dict[str, Any]:
    options = dict(OPTIONS.get(situation, {}))
    times = options.get("header_times", ())
    options["header_times"] = [(START_MS + one) * NS_PER_MS for one in times]
    return options


def rendered(situation: str) -> str:
    """Return what is read from a log as readable JSON; times are in milliseconds from the start."""
    log = read_log([(LOGS / f"{situation}.log").read_bytes()], JOB, **options_of(situation))
    spans = [
        {
            "kind": str(span.kind),
            "identity": list(span.identity),
            "parent": span.parent,
            "ms": [(at - JOB.start_ns) / NS_PER_MS for at in (span.start_ns, span.end_ns)],
            "guessed": span.guessed,
            "status": str(span.status),
            "attributes": span.attributes,
        }
        for span in log.spans
    ]
    document = {"bytes": log.bytes, "lines": log.lines, "sections": log.sections, "spans": spans}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for situation in situations():
        (LOGS / f"{situation}.json").write_text(rendered(situation), encoding="utf-8")
        sys.stdout.write(f"{situation}\n")


if __name__ == "__main__":
    main()
