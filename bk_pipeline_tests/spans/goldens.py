"""The golden files: a payload `<situation>.json` beside `<situation>.spans.json`.

Run as a script it writes all `.spans.json` anew, to be reviewed as a diff.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bk_pipeline_tests.builders import make_spans

GOLDEN = Path(__file__).parents[1] / "golden"
# What is not by default, for the situations that are about it.
OPTIONS: dict[str, dict[str, bool]] = {"wait_spans": {"waits": True}}


def situations() -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob("*.json") if not path.stem.endswith(".spans"))


def payload_of(situation: str) -> Any:
    return json.loads((GOLDEN / f"{situation}.json").read_bytes())


def expected_of(situation: str) -> str:
    return (GOLDEN / f"{situation}.spans.json").read_text()


def rendered(situation: str) -> str:
    """Return a situation's spans as readable JSON: common attributes once, times as text."""
    spans = make_spans((GOLDEN / f"{situation}.json").read_bytes(), **OPTIONS.get(situation, {}))
    shared = _shared([span["attributes"] for span in spans]) if len(spans) > 1 else {}
    document = {
        "trace_id": spans[0]["trace_id"],
        "resource": spans[0]["resource"],
        "attributes of all spans": shared,
        "spans": [_span(span, shared) for span in spans],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _shared(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = attributes
    return {key: one for key, one in first.items() if all(o.get(key) == one for o in others)}


def _span(span: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    start, end = span["start_unix_nano"], span["end_unix_nano"]
    own = {key: one for key, one in span["attributes"].items() if key not in shared}
    return {
        "name": span["name"],
        "span_id": span["span_id"],
        "parent_span_id": span.get("parent_span_id"),
        "start": _text(start),
        "end": _text(end),
        "seconds": (end - start) / 1e9,
        "status": span["status"],
        "links": span["links"],
        "attributes": dict(sorted(own.items())),
    }


def _text(ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}"


def main() -> int:
    for situation in situations():
        (GOLDEN / f"{situation}.spans.json").write_text(rendered(situation))
    sys.stdout.write(f"{len(situations())} situations in {GOLDEN}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
