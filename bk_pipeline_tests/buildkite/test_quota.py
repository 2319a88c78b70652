from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bk_pipeline.buildkite.quota import Quota, read_report
from bk_pipeline.buildkite.shared_quota import SharedQuota

OK = {"complete": True}


def headers(remaining=40, user_remaining=40, reset=30, limit=200, user_limit=50):
    return {
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Limit": str(limit),
        "RateLimit-Reset": str(reset),
        "RateLimit-User-Remaining": str(user_remaining),
        "RateLimit-User-Limit": str(user_limit),
        "RateLimit-User-Reset": str(reset),
    }


def quota_with(**values):
    """A quota that received a response with `values` at time 100."""
    quota = Quota()
    quota.settle(quota.begin(100), 100, headers(**values), complete=True)
    return quota


def test_request_is_permitted_while_there_is_room():
    assert quota_with().pause_s(100) == 0


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ({"remaining": 20}, "organization"),
        ({"remaining": 3, "limit": 20}, None),
        ({"remaining": 2, "limit": 20}, "organization"),
        ({"user_remaining": 3}, None),
        ({"user_remaining": 2}, "user"),
        ({"user_remaining": 0, "remaining": 0}, "organization"),
        ({"user_remaining": 1, "user_limit": 1}, None),
    ],
)
def test_reserve_of_either_family_is_kept(values, family):
    wait = quota_with(**values).wait(100)

    if family is None:
        assert wait is None
    else:
        assert wait.seconds == 31
        assert f"{family} quota is down to its reserve" in wait.why


def test_requests_under_way_count_as_made():
    quota = quota_with(user_remaining=5)
    permits = [quota.begin(100) for _ in range(4)]
    assert [permit is None for permit in permits] == [False, False, False, True]


def test_late_report_does_not_raise_the_remaining_requests():
    quota = quota_with(user_remaining=10)
    slow, fast = quota.begin(100), quota.begin(100)
    quota.settle(fast, 101, headers(user_remaining=3), **OK)
    quota.settle(slow, 102, headers(user_remaining=9), **OK)

    assert quota.begin(102) is not None
    assert quota.begin(102) is None


def test_failed_request_counts_as_made():
    quota = quota_with(user_remaining=3)
    quota.settle(quota.begin(100), 101, None, complete=False)
    assert quota.begin(101) is None


def test_other_requests_wait_for_the_report_of_the_first():
    quota = Quota()
    first = quota.begin(100)
    assert quota.begin(100) is None
    assert 0 < quota.pause_s(100) <= 1
    quota.settle(first, 100, headers(), **OK)
    assert quota.begin(100) is not None


def test_one_request_probes_the_new_window_after_the_reset():
    quota = quota_with(user_remaining=0, reset=30)
    assert quota.begin(130.9) is None
    first = quota.begin(131)
    assert quota.begin(131) is None
    quota.settle(first, 131, headers(user_remaining=49, reset=60), **OK)
    assert quota.begin(131) is not None


def test_next_request_probes_if_the_first_one_was_lost():
    quota = Quota()
    quota.settle(quota.begin(100), 101, None, complete=False)
    assert quota.begin(101) is not None


def test_late_report_of_the_old_window_expires_with_it():
    quota = quota_with(user_remaining=20, reset=30)
    old = quota.begin(100)
    probe = quota.begin(131)
    quota.settle(old, 132, headers(user_remaining=0, reset=1), **OK)
    quota.settle(probe, 132, headers(user_remaining=48, reset=59), **OK)
    assert quota.pause_s(132) == 2
    assert quota.pause_s(134) == 0


def test_requests_are_unlimited_without_rate_limit_headers():
    quota = Quota()
    quota.settle(quota.begin(100), 100, {}, complete=True)
    assert all(quota.begin(100) for _ in range(500))


def test_failure_without_headers_does_not_make_limits_absent():
    quota = Quota()
    quota.settle(quota.begin(100), 100, {}, complete=False)
    assert quota.begin(100)
    assert quota.begin(100) is None


def test_limits_that_appear_later_are_respected():
    quota = Quota()
    quota.settle(quota.begin(100), 100, {}, complete=True)
    quota.settle(quota.begin(101), 101, headers(user_remaining=2), **OK)
    assert quota.pause_s(101) == 31


def test_429_blocks_all_requests_until_its_reset():
    quota = quota_with()
    quota.block(100, 42)
    assert quota.pause_s(100) == 43
    assert quota.begin(142.9) is None
    assert quota.begin(143) is not None


@pytest.mark.parametrize("bad", ["", "x", "nan", "inf", "-inf", "1e999", "12;13", None])
def test_malformed_remaining_counts_as_missing(bad):
    fields = {"RateLimit-Limit": "200"} | ({} if bad is None else {"RateLimit-Remaining": bad})
    assert read_report(fields, "RateLimit") is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Remaining": "500", "Limit": "200", "Reset": "9"}, (200, 200, 9)),
        ({"Remaining": "-3", "Limit": "200", "Reset": "9"}, (200, 0, 9)),
        ({"Remaining": "5", "Limit": "0", "Reset": "9"}, (None, 5, 9)),
        ({"Remaining": "5", "Limit": "-1", "Reset": "-9"}, (None, 5, 0)),
        ({"Remaining": "5"}, (None, 5, 60)),
        ({"Remaining": "5.0", "Limit": "50.0", "Reset": "1.5"}, (50, 5, 1.5)),
        ({"Remaining": "5", "Reset": "1795046400"}, (None, 5, 300)),
    ],
    ids=["over limit", "negative", "no limit", "all negative", "alone", "fractions", "epoch reset"],
)
def test_impossible_values_are_clamped(fields, expected):
    report = read_report({f"X-{name}": value for name, value in fields.items()}, "X")
    assert (report.limit, report.remaining, report.reset_s) == expected


@given(
    st.dictionaries(
        st.sampled_from(list(headers())),
        st.text("0123456789.-einfa ", max_size=8) | st.floats().map(str),
        max_size=6,
    ),
    st.lists(st.floats(0, 1e4), max_size=5),
)
def test_no_headers_block_requests_forever(lies, gaps):
    quota, now = Quota(), 100.0
    for gap in gaps:
        now += gap
        if permit := quota.begin(now):
            quota.settle(permit, now, lies, complete=True)

    pause = quota.pause_s(now)

    assert 0 <= pause <= 301
    assert quota.begin(now + pause) is not None


@pytest.mark.parametrize(("share", "permits"), [(1.0, 47), (0.5, 24), (0.1, 4), (0.0, 1)])
def test_requests_in_the_background_use_their_share_of_a_window(share, permits):
    quota = Quota(background=share)
    quota.settle(quota.begin(100), 100, headers(200, user_remaining=50), complete=True)
    made = 0
    while made < 60 and (permit := quota.begin(100)):
        made += 1
        rest = headers(200 - made, 50 - made)
        quota.settle(permit, 100, rest, complete=True)
    assert abs(made - permits) <= 1
    assert quota.wait(100).seconds == 31
    expected = "down to its reserve" if share == 1 else "left to extraction"
    assert f"quota is {expected} (" in quota.wait(100).why


def test_requests_in_the_background_stop_while_others_make_many(tmp_path):
    path = tmp_path / "quota.json"
    extraction, details = SharedQuota(path), SharedQuota(path, background=0.5)
    for number in range(40):
        permit = extraction.begin(100)
        extraction.settle(permit, 100, headers(199 - number, 49 - number), complete=True)
    assert details.begin(100) is None
    # In the next window there may be as many again, which are left to the others.
    assert details.wait(100).seconds == 31
    probe = details.begin(132)
    details.settle(probe, 132, headers(199, 49, reset=60), complete=True)
    made = 0
    while permit := details.begin(133):
        made += 1
        details.settle(permit, 133, headers(199 - made, 49 - made, reset=60), complete=True)
    assert made <= 4
    # When their requests are a minute old, the share is that of the whole rest.
    assert details.wait(133).seconds == pytest.approx(27)
    assert extraction.begin(133) is not None


def test_requests_in_the_background_do_not_count_as_those_of_others(tmp_path):
    path = tmp_path / "quota.json"
    details = SharedQuota(path, background=0.5)
    for number in range(10):
        permit = details.begin(100)
        details.settle(permit, 100, headers(199, 49 - number), complete=True)
    assert SharedQuota(path, background=0.5).begin(100) is not None


def test_file_of_an_older_version_is_read(tmp_path):
    path = tmp_path / "quota.json"
    quota = SharedQuota(path)
    quota.settle(quota.begin(100), 100, headers(user_remaining=2), complete=True)
    stored = json.loads(path.read_bytes())
    del stored["recent"]
    path.write_text(json.dumps(stored))
    assert SharedQuota(path).wait(100).seconds == 31


@given(
    share=st.floats(0, 1),
    limit=st.integers(1, 300),
    remaining=st.integers(0, 300),
    recent=st.integers(0, 100),
)
def test_background_never_goes_where_extraction_may_not(share, limit, remaining, recent):
    extraction, details = Quota(), Quota(background=share, recent=[100.0] * recent)
    report = headers(user_remaining=remaining, user_limit=limit)
    for quota in (extraction, details):
        quota.settle(quota.begin(100), 100, report, complete=True)
    if details.wait(100) is None:
        assert extraction.wait(100) is None
    # It is never shut out for good.
    assert details.wait(161) is None or recent
