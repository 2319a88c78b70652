"""Audit the stored data: complete compared with Buildkite, and consistent in itself.

Read-only. The asset checks in `defs` call these functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.records import BuildRecord
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.timing import to_ns
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.spans import SpanStore
from bk_pipeline.window import Window

ID_COLUMNS = ("trace_id", "span_id", "parent_span_id", "name", "start", "end")
SEPARATOR = "/"
SHOWN = Privacy()


@dataclass(frozen=True, slots=True)
class Completeness:
    """Buildkite's listing of a day compared with the stored builds.

    Attributes:
        listed: Number of builds that had finished when the day was last read.
        missing: Descriptions of builds that are not stored, or only in an older revision.
    """

    listed: int
    missing: list[str]


@dataclass(slots=True)
class Soundness:
    """Inconsistencies of a day's spans, each described as `trace/span, a <name>`.

    Attributes:
        spans: Number of spans.
        orphans: Spans whose parent is not in the same trace.
        negative: Spans that end before they start.
    """

    spans: int = 0
    orphans: list[str] = field(default_factory=list)
    negative: list[str] = field(default_factory=list)


def completeness(
    day: str, window: Window, *, client: BuildkiteClient, raw: RawStore, privacy: Privacy = SHOWN
) -> Completeness | None:
    """Compare Buildkite's listing of `day` with the store; None if the day was never read.

    Costs one request per 100 builds. Builds that finished after the day was last read do not
    count: the next run fetches them.

    Raises:
        PipelineError: From the client or the store.
    """
    watermark = raw.watermark(day)
    if watermark is None:
        return None
    read_ns = to_ns(watermark)
    stored = {(revision.build_id, revision.finished_ns) for revision in raw.revisions(day)}
    finished = [
        build
        for page in client.iter_builds(window, jobs=False)
        for build in page.builds
        if build.finished_ns is not None and build.finished_ns < read_ns
    ]
    missing = [
        _named(build, privacy) for build in finished if (build.id, build.finished_ns) not in stored
    ]
    return Completeness(len(finished), missing)


def read_to_its_end(day: str, window: Window, *, raw: RawStore) -> bool:
    """Return whether `day` was read after it ended."""
    watermark = raw.watermark(day)
    return watermark is not None and watermark >= window.end


def _named(build: BuildRecord, privacy: Privacy) -> str:
    """Return `web#12 (<id>, failed)`, with hidden values according to the privacy settings."""
    known = (
        ("pipeline.slug", build.pipeline),
        ("build.number", build.number),
        ("build.id", build.id),
        ("build.state", build.state),
    )
    slug, number, id_, state = (
        privacy.shown(f"buildkite.{name}", one) or "?" for name, one in known
    )
    return f"{slug}#{number} ({id_}, {state})"


def soundness(day: str, *, spans: SpanStore) -> Soundness:
    """Find inconsistencies in the spans of `day`, using the newest revision of each build.

    Raises:
        StorageError: The store cannot be read.
    """
    found = Soundness()
    for table in spans.newest(day, columns=ID_COLUMNS):
        found.spans += len(table)
        trace = table["trace_id"].cast(pa.string())
        own = pc.binary_join_element_wise(trace, table["span_id"], SEPARATOR)
        # Null on roots, and null is in no set of ids.
        above = pc.binary_join_element_wise(trace, table["parent_span_id"], SEPARATOR)
        present = pc.is_in(above, value_set=own.combine_chunks())
        found.orphans += _shown(table, own, pc.and_(pc.is_valid(above), pc.invert(present)))
        found.negative += _shown(table, own, pc.less(table["end"], table["start"]))
    return found


def _shown(table: pa.Table, ids: pa.ChunkedArray, which: pa.ChunkedArray) -> Iterator[str]:
    names = table["name"].cast(pa.string()).filter(which).to_pylist()
    pairs = zip(ids.filter(which).to_pylist(), names, strict=True)
    return (f"{span_id}, a {name}" for span_id, name in pairs)
