"""Invalid payloads: values that do not belong where they are put."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

from bk_pipeline_tests.builders import (
    at,
    make_block,
    make_build,
    make_job,
    make_retry,
    make_trigger,
    make_waiter,
    uid,
)

TIMES = st.sampled_from(
    [
        "",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00Z",
        "2015-04-23 16:55:52 UTC",
        "2026-03-02T08:59:59.950Z",
        "2026-03-02T09:00:00Z",
        "2026-03-02T09:00:00.123456789Z",
        "2026-03-02T09:00:05+05:45",
        "2026-03-09T09:00:00.000Z",
        "2262-04-11T23:47:16.854775807Z",
        "2262-04-11T23:47:17Z",
        "9999-12-31T23:59:59.999Z",
        "tomorrow",
    ]
)
IDS = st.sampled_from(
    [
        uid("build 7"),
        uid("job test"),
        uid("job test").upper(),
        "ffffffff" + uid("build 7")[8:],
        "ffffffff" + uid("job test")[8:],
        "00000000-0000-0000-0000-000000000000",
        "",
        "job-1",
        "nul\0nul",
    ]
)
STATES = st.sampled_from(
    ["passed", "failed", "canceled", "expired", "timed_out", "broken", "running", "unblocked", ""]
)
NUMBERS = st.sampled_from([0, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, 10**40, 0.5, 1e300])
TEXTS = st.sampled_from(
    ["", "\0", "\ud800", "a\udfffb", "🛒", "\\ud800", "x" * 70_000, "é" * 40_000]
)
ANYTHING = st.one_of(
    TIMES,
    IDS,
    STATES,
    NUMBERS,
    TEXTS,
    st.sampled_from([None, True, False, [], {}, [None], [[]], {"id": None}, {"": {"\ud800": [1]}}]),
    st.text(st.characters(exclude_categories=()), max_size=5),
)


def everything() -> dict[str, Any]:
    """Return a build with a job of every kind."""
    test = make_job("test", state="failed", group_key="checks")
    again = make_retry(test, made_s=14, kind="automatic")
    late = make_retry(again, made_s=900)
    parallel = [
        make_job(f"p {n}", step=None, step_key=None, parallel_group_index=n, parallel_group_total=2)
        for n in (0, 1)
    ]
    matrix = make_job("m", matrix={"os": "linux"}, state="expired", run_s=None, expired_at=at(99))
    trigger = make_trigger(triggered={"id": uid("other"), "number": 3})
    block_step = make_block(unblocked_s=400)
    return make_build(
        [
            test,
            again,
            late,
            *parallel,
            make_waiter(),
            matrix,
            block_step,
            trigger,
            make_block("Second?"),
        ],
        blocked=True,
        meta_data={"a": "b"},
        merge_queue={"base_branch": "main"},
        pull_request={"id": "12", "base": "main"},
    )


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the path of every value inside a payload."""
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in pairs:
        inner = (*path, key)
        found += places(one, inner) if isinstance(one, dict | list) else [inner]
    return found


PLACES = places(everything())


def put(payload: dict[str, Any], path: tuple, value: Any, *, gone: bool = False) -> None:
    holder: Any = payload
    for key in path[:-1]:
        if not isinstance(holder, dict | list) or (isinstance(holder, dict) and key not in holder):
            return
        if isinstance(holder, list) and (not isinstance(key, int) or key >= len(holder)):
            return
        holder = holder[key]
    value = deepcopy(value)
    if isinstance(holder, dict):
        if gone:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = value
    elif isinstance(holder, list) and isinstance(path[-1], int) and path[-1] < len(holder):
        holder[path[-1]] = value


FITTING = {"id": IDS, "job_id": IDS, "state": STATES, "retried_in_job_id": IDS}
CHANGES = st.lists(
    st.sampled_from(PLACES).flatmap(
        lambda path: st.tuples(
            st.just(path),
            st.one_of(
                FITTING.get(path[-1], TIMES if str(path[-1]).endswith("_at") else ANYTHING),
                ANYTHING,
            ),
            st.booleans(),
        )
    ),
    min_size=1,
    max_size=6,
)
