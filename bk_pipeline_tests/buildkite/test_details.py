"""The client of logs, artifacts and test results, against responses of a test's own."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from itertools import chain

import pytest

from bk_pipeline.buildkite import streams
from bk_pipeline.buildkite.artifact_stores import store_url
from bk_pipeline.buildkite.budget import ByteBudget
from bk_pipeline.buildkite.details import Artifact, JobRef
from bk_pipeline.buildkite.paging import Paging
from bk_pipeline.buildkite.quota import Quota
from bk_pipeline.errors import (
    AccessDenied,
    AnswerTooLarge,
    BudgetSpent,
    Gone,
    QuotaSpent,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.session import Response
from bk_pipeline_tests.buildkite.conftest import TOKEN
from bk_pipeline_tests.http.scripted import Answer, Hang, Raw, as_json, scripted_server

JOB = JobRef("web app", 7, "0190a5a8-1111-4222-8333-000000000001")
PATH = f"/v2/organizations/acme/pipelines/web%20app/builds/7/jobs/{JOB.job_id}"
FILE = Artifact("aaaa-1", JOB, "out/junit.xml", "finished", size=1000)
BODY = bytes(range(256)) * 400
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def store():
    with scripted_server() as running:
        yield running


@pytest.fixture
def details(connect, server):
    with connect(server.url, paging=Paging(links=True)).details(Quota()) as client:
        yield client


def cut(body, *, length, headers="", status=200):
    """A response that announces `length` bytes and ends after `body`."""
    head = f"HTTP/1.1 {status} Cut\r\nContent-Length: {length}\r\n{headers}\r\n"
    return Raw(head.encode() + body)


def redirect_to(url, status=302, body=b"{}"):
    return Answer(status, body, {"Location": url})


def read(block):
    with block as chunks:
        return b"".join(chunks)


def test_log_is_streamed_as_plain_text_from_a_quoted_path(server, details):
    server.replies.append(Answer(body=BODY, headers=TEXT))
    assert read(details.log(JOB)) == BODY
    [request] = server.requests
    assert request.path == f"{PATH}/log"
    assert request.headers["Accept"] == "text/plain"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_memory_of_a_streamed_log_is_bounded_by_its_pieces(server, details):
    server.replies.append(
        Answer(body=gzip.compress(b"0" * 30_000_000), headers={"Content-Encoding": "gzip"})
    )
    with details.log(JOB) as chunks:
        sizes = [len(chunk) for chunk in chunks]
    assert sum(sizes) == 30_000_000
    assert max(sizes) <= 64 * 1024


def test_block_may_be_left_before_the_end_and_the_next_request_works(server, details):
    server.replies.append(cut(BODY[:500], length=10**9))
    with details.log(JOB) as chunks:
        next(chunks)
    server.replies.append(Answer(body=b"whole", headers=TEXT))
    assert read(details.log(JOB)) == b"whole"


def test_cut_log_is_resumed_by_a_suffix_of_what_is_missing(server, details):
    at, size = 70_000, len(BODY)
    server.replies.append(cut(BODY[:at], length=size))
    rest = {"Content-Range": f"bytes {at}-{size - 1}/{size}", **TEXT}
    server.replies.append(Answer(206, BODY[at:], rest))
    assert read(details.log(JOB)) == BODY
    assert server.requests[1].headers["Range"] == f"bytes=-{size - at}"
    assert server.requests[1].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([Answer(body=BODY)], id="range ignored"),
        pytest.param([as_json({"message": "no"}, 400), Answer(body=BODY)], id="range refused"),
        pytest.param([as_json({}, 416), Answer(body=BODY)], id="not satisfiable"),
        pytest.param(
            [
                Answer(206, b"?", {"Content-Range": "bytes 8-8/9"}),
                Answer(body=BODY),
            ],
            id="other size",
        ),
        pytest.param([Answer(206, b"?"), Answer(body=BODY)], id="no Content-Range"),
    ],
)
def test_log_that_cannot_be_resumed_is_read_again_and_the_start_skipped(server, details, answers):
    server.replies.append(cut(BODY[:70_000], length=len(BODY)))
    server.replies.extend(answers)
    assert read(details.log(JOB)) == BODY


def test_compressed_log_that_was_cut_is_read_again(server, details):
    packed = gzip.compress(BODY)
    half = cut(packed[: len(packed) // 2], length=len(packed), headers="Content-Encoding: gzip\r\n")
    server.replies.extend([half, Answer(body=packed, headers={"Content-Encoding": "gzip"})])
    assert read(details.log(JOB)) == BODY
    assert "Range" not in server.requests[1].headers


def test_log_of_unknown_size_that_was_cut_is_read_again(server, details):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.replies.append(Raw(head + b"%x\r\n%s\r\n" % (70_000, BODY[:70_000])))
    server.replies.append(Answer(body=BODY))
    assert read(details.log(JOB)) == BODY
    assert "Range" not in server.requests[1].headers


def test_log_that_became_shorter_is_an_error(server, details):
    server.replies.append(cut(BODY[:70_000], length=len(BODY)))
    server.replies.append(Answer(body=BODY[:10]))
    with pytest.raises(UnexpectedAnswer, match="70,000 bytes were read, and now it has only 10"):
        read(details.log(JOB))


def test_log_that_is_cut_each_time_is_given_up(server, details):
    server.otherwise = cut(BODY[:1000], length=len(BODY))
    with pytest.raises(ServiceUnavailable, match="broke off 6 times"):
        read(details.log(JOB))
    assert len(server.requests) == streams.MAX_CUTS + 1


def test_stalled_log_ends_by_the_timeout(server, connect):
    server.otherwise = Hang()
    client = connect(server.url, read_s=0.2, retry_policy=None)
    with pytest.raises(ServiceUnavailable), client.details(Quota()).log(JOB):
        pass


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    "call",
    [
        lambda details: read(details.log(JOB)),
        lambda details: details.log_size(JOB),
        lambda details: details.log_tail(JOB),
        lambda details: details.header_times(JOB),
        lambda details: list(details.artifacts("web", 7)),
        lambda details: list(details.artifacts("web", 7, job_id="j")),
        lambda details: read(details.download(FILE)),
        lambda details: list(details.tests("b")),
    ],
)
def test_what_is_no_longer_there_is_gone(server, details, call, status):
    server.otherwise = as_json({"message": "No log"}, status)
    with pytest.raises(Gone, match=r"Buildkite does not have the (log|artifact|tests)"):
        call(details)


@pytest.mark.parametrize(
    ("call", "scope"),
    [
        (lambda details: details.log_size(JOB), "read_build_logs"),
        (lambda details: read(details.log(JOB)), "read_build_logs"),
        (lambda details: details.log_tail(JOB), "read_build_logs"),
        (lambda details: details.header_times(JOB), "read_build_logs"),
        (lambda details: list(details.artifacts("web", 7)), "read_artifacts"),
        (lambda details: read(details.download(FILE)), "read_artifacts"),
        (lambda details: list(details.tests("b")), "read_suites"),
    ],
)
def test_refusal_names_the_scope(server, details, call, scope):
    server.otherwise = as_json({"message": "nope"}, 403)
    with pytest.raises(AccessDenied, match=f"Give it the scope {scope} and access"):
        call(details)


def test_throttled_stream_waits_for_the_reset_and_goes_on(server, details, clock):
    server.replies.append(as_json({"scope": "rest_user", "limit": 50, "reset": 9}, 429))
    server.replies.append(as_json({"message": "down"}, 502))
    server.replies.append(Answer(body=BODY))
    assert read(details.log(JOB)) == BODY
    assert sum(clock.slept) >= 9


def test_size_is_that_of_the_stored_bytes(server, details):
    server.replies.append(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"))
    assert details.log_size(JOB) == 1234
    assert (server.requests[0].method, server.requests[0].path) == ("HEAD", f"{PATH}/log")
    server.replies.append(Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
    assert details.log_size(JOB) is None


def test_tail_is_requested_as_a_suffix(server, details):
    server.replies.append(Answer(206, BODY[-100:], {"Content-Range": "bytes 900-999/1000"}))
    tail = details.log_tail(JOB, 100)
    assert (tail.content, tail.size, tail.whole) == (BODY[-100:], 1000, False)
    assert server.requests[0].headers["Range"] == "bytes=-100"
    assert server.requests[0].headers["Accept-Encoding"] == "identity"
    assert server.requests[0].headers["Accept"] == "text/plain"


def test_tail_of_an_empty_log_is_empty(server, details):
    server.replies.append(as_json({"message": "empty"}, 416))
    assert (details.log_tail(JOB).content, details.log_tail(JOB).size) == (b"", 2)


@pytest.mark.parametrize("count", [1, 99, 65_536, len(BODY), 10**9])
def test_tail_without_ranges_is_the_end_of_the_whole(server, details, count):
    server.replies.append(Answer(body=BODY))
    tail = details.log_tail(JOB, count)
    assert tail.content == BODY[-count:]
    assert tail.size == len(BODY)


def test_cut_tail_is_requested_again(server, details):
    ranged = {"Content-Range": "bytes 0-3/4"}
    server.replies.append(
        cut(b"ab", length=4, headers="Content-Range: bytes 0-3/4\r\n", status=206)
    )
    server.replies.append(Answer(206, b"abcd", ranged))
    assert details.log_tail(JOB).content == b"abcd"


TIMES = [1563337899810051000, 1563337899811015000]


@pytest.mark.parametrize(
    "content",
    ["", "a", 'quote " and \\ and \n', "\x1b_bk;t=1\x07" * 20_000, '{"header_times": [1]}' * 9],
)
def test_header_times_are_read_beside_any_text(server, details, content):
    log = {"url": "u", "content": content, "size": 3, "header_times": TIMES}
    server.replies.append(as_json(log))
    assert details.header_times(JOB) == TIMES
    assert server.requests[0].headers["Accept"] == "application/json"


def test_header_times_that_are_not_numbers_are_left_out(server, details):
    server.replies.append(as_json({"content": "", "header_times": [1, None, "2", 3.5, True, 4]}))
    assert details.header_times(JOB) == [1, 4]
    server.replies.append(as_json({"content": ""}))
    assert details.header_times(JOB) == []


@pytest.mark.parametrize("body", [b"[]", b"<html>", b'{"content": "abc', b'{"a": "\\'])
def test_other_bodies_than_a_log_are_an_error(server, details, body):
    server.otherwise = Answer(body=body)
    with pytest.raises(UnexpectedAnswer, match="with header_times"):
        details.header_times(JOB)


def element(number, **fields):
    return {
        "id": f"artifact-{number}",
        "job_id": JOB.job_id,
        "path": f"out/{number}.xml",
        "filename": f"{number}.xml",
        "mime_type": "application/xml",
        "file_size": number,
        "sha1sum": "aa",
        "state": "finished",
        "download_url": "https://evil.example/",
        **fields,
    }


def test_artifacts_are_listed_by_page(server, details):
    link = f'<{server.url}/v2/organizations/acme/pipelines/web/builds/7/artifacts?per_page=100&page=2>; rel="next"'
    pages = [[element(n) for n in range(100)], [element(n) for n in range(100, 130)]]
    server.replies.extend([as_json(pages[0], headers={"Link": link}), as_json(pages[1])])
    found = list(details.artifacts("web", 7))
    assert [one.id for one in found] == [one["id"] for one in chain(*pages)]
    assert found[3] == Artifact(
        id="artifact-3",
        job=JobRef("web", 7, JOB.job_id),
        path="out/3.xml",
        state="finished",
        filename="3.xml",
        mime_type="application/xml",
        size=3,
        sha1="aa",
    )
    assert len(server.requests) == 2


def test_link_to_another_host_is_not_followed_and_the_listing_is_whole(server, store, details):
    link = f'<{store.url}/v2/organizations/acme/pipelines/web/builds/7/artifacts?per_page=100&page=2>; rel="next"'
    pages = [[element(n) for n in range(100)], [element(n) for n in range(100, 130)]]
    server.replies.extend([as_json(pages[0], headers={"Link": link}), as_json(pages[1])])
    assert len(list(details.artifacts("web", 7))) == 130
    assert not store.requests
    assert server.requests[1].path.endswith("artifacts?per_page=100&page=2")


def test_artifacts_with_unexpected_fields_are_read_as_far_as_possible(server, details):
    server.replies.append(
        as_json(
            [
                element(1, file_size=None, mime_type=5, sha1sum=None, more={"x": 1}),
                element(2, file_size=-5),
                element(3, path=None),
                {"id": "only an id"},
                element(4, state="expired"),
            ]
        )
    )
    found = list(details.artifacts("web", 7))
    assert [(one.id, one.size, one.mime_type, one.state) for one in found] == [
        ("artifact-1", None, None, "finished"),
        ("artifact-2", None, "application/xml", "finished"),
        ("artifact-4", 4, "application/xml", "expired"),
    ]


def test_artifact_comes_from_its_store_without_the_token(server, store, details):
    server.replies.append(redirect_to(f"{store.url}/bucket/out.xml?Signature=s3cret"))
    store.replies.append(Answer(body=BODY))
    assert read(details.download(FILE)) == BODY
    assert server.requests[0].path == f"{PATH}/artifacts/aaaa-1/download"
    [request] = store.requests
    assert request.path == "/bucket/out.xml?Signature=s3cret"
    assert "Authorization" not in request.headers
    assert TOKEN not in str(request.headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_token_goes_nowhere_however_often_the_store_redirects(server, store, details, status):
    with scripted_server() as third:
        server.replies.append(redirect_to(f"{store.url}/a", status))
        store.replies.append(redirect_to(f"{third.url}/b", status))
        third.replies.append(redirect_to("/c", status))
        third.replies.append(Answer(body=b"content"))
        assert read(details.download(FILE)) == b"content"
        for request in [*store.requests, *third.requests]:
            assert TOKEN not in str(request.headers)


def test_address_on_the_api_itself_does_not_get_the_token(server, details):
    server.replies.append(redirect_to("/files/1?sig=1"))
    server.replies.append(Answer(body=b"content"))
    assert read(details.download(FILE)) == b"content"
    assert "Authorization" not in server.requests[1].headers


def test_address_in_the_body_is_used_if_there_is_no_header(server, store, details):
    server.replies.append(as_json({"url": f"{store.url}/x"}, 302))
    store.replies.append(Answer(body=b"content"))
    assert read(details.download(FILE)) == b"content"


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http://user:secret@host/x",
        "http://host:99999/x",
        "http://ho st/x",
        "http://[::1/x",
        "gopher:x",
        "http://h\u00f6st/",
    ],
)
def test_address_that_is_not_plain_http_is_refused_and_not_shown(server, details, target):
    server.replies.append(as_json({"url": target}, 302))
    with pytest.raises(UnexpectedAnswer) as caught:
        read(details.download(FILE))
    assert target not in str(caught.value)
    assert len(server.requests) == 1


def test_encrypted_download_is_not_continued_unencrypted():
    response = Response(302, {}, b"", "GET api.example/x", "https://api.example/x?sig=s3cret")
    assert store_url(response, "https://store.example/a") == "https://store.example/a"
    with pytest.raises(UnexpectedAnswer, match=r"from https to http at store\.example"):
        store_url(response, "http://store.example/a")


def test_endless_redirects_end(server, store, details):
    server.replies.append(redirect_to(f"{store.url}/a"))
    store.otherwise = redirect_to("/a")
    with pytest.raises(UnexpectedAnswer, match="more than 3 times"):
        read(details.download(FILE))


@pytest.mark.parametrize("body", [b"<xml/>", b"{}"])
def test_answer_without_a_redirect_is_an_error(server, details, body):
    server.replies.append(Answer(body=body))
    with pytest.raises(UnexpectedAnswer, match="expected a redirect to the artifact, got 200"):
        read(details.download(FILE))


def test_cut_artifact_is_resumed_at_the_same_address(server, store, details):
    server.replies.append(redirect_to(f"{store.url}/a?sig=1"))
    store.replies.append(cut(BODY[:5000], length=len(BODY)))
    rest = {"Content-Range": f"bytes 5000-{len(BODY) - 1}/{len(BODY)}"}
    store.replies.append(Answer(206, BODY[5000:], rest))
    assert read(details.download(FILE)) == BODY
    assert store.requests[1].headers["Range"] == "bytes=5000-"
    assert len(server.requests) == 1


def test_cut_artifact_without_ranges_is_read_again(server, store, details):
    server.replies.append(redirect_to(f"{store.url}/a?sig=1"))
    store.replies.extend([cut(BODY[:5000], length=len(BODY)), Answer(body=BODY)])
    assert read(details.download(FILE)) == BODY


def test_address_that_expired_is_requested_again_once(server, store, details):
    server.otherwise = redirect_to(f"{store.url}/a?sig=1")
    store.replies.extend([Answer(403, b"<Expired/>"), Answer(body=BODY)])
    assert read(details.download(FILE)) == BODY
    assert len(server.requests) == 2

    store.otherwise = Answer(403, b"<AccessDenied/>")
    with pytest.raises(AccessDenied, match="a bucket of your own"):
        read(details.download(FILE))
    assert len(server.requests) == 4


def test_slow_store_is_retried_and_an_empty_one_is_gone(server, store, details, clock):
    server.otherwise = redirect_to(f"{store.url}/a?sig=1")
    store.replies.extend([Answer(503, b"Slow Down", {"Retry-After": "7"}), Answer(body=BODY)])
    assert read(details.download(FILE)) == BODY
    assert clock.slept == [7]
    store.otherwise = Answer(404, b"<NoSuchKey/>")
    with pytest.raises(Gone, match="the store does not have the artifact aaaa-1"):
        read(details.download(FILE))


@pytest.mark.parametrize("state", ["new", "error", "deleted", "expired", "something"])
def test_artifact_in_another_state_takes_no_request(server, details, state):
    with pytest.raises(Gone, match=f"its state is '{state}'"):
        read(details.download(Artifact("a", JOB, "p", state)))
    assert not server.requests


def test_size_limit_holds_for_what_is_announced_and_what_arrives(server, store, details):
    with pytest.raises(AnswerTooLarge, match="has 1,000 bytes, more than 999"):
        read(details.download(FILE, max_bytes=999))
    assert not server.requests

    server.otherwise = redirect_to(f"{store.url}/a")
    store.otherwise = Answer(body=BODY)
    with pytest.raises(AnswerTooLarge, match="larger than 1,000 bytes"):
        read(details.download(FILE, max_bytes=1000))
    server.otherwise = Answer(body=BODY)
    with pytest.raises(AnswerTooLarge, match="larger than 10 bytes"):
        read(details.log(JOB, max_bytes=10))


def test_secret_address_is_not_in_messages(server, store, details):
    server.otherwise = redirect_to(f"{store.url}/a?Signature=s3cretsignature")
    for answer in (Answer(404), Answer(400), Raw(b""), Raw(b"HTTP/1.1 200 OK\r\n")):
        store.otherwise = answer
        with pytest.raises(Exception) as caught:  # noqa: PT011  # each has its own class
            read(details.download(FILE))
        assert "s3cretsignature" not in repr(caught.value)


def test_tests_of_a_build_are_listed(server, details):
    found = [{"id": "t1", "name": "a", "reliability": None}, {"id": "t2", "extra": [1]}]
    server.replies.append(as_json([*found, 7, "x"]))
    assert list(details.tests("0190-b")) == found
    assert server.requests[0].path == (
        "/v2/analytics/organizations/acme/builds/0190-b/tests?per_page=100"
    )


@pytest.mark.parametrize("bad", ["..", ".", ""])
def test_id_that_would_change_the_path_is_refused(server, details, bad):
    with pytest.raises(UnexpectedAnswer, match="cannot be a slug or an id"):
        details.log_size(JobRef("web", 1, bad))
    with pytest.raises(UnexpectedAnswer, match="cannot be a slug or an id"):
        list(details.artifacts(bad, 1))
    assert not server.requests


def test_bytes_of_a_day_are_shared_and_end_requests(server, connect, clock, tmp_path):
    def budget():
        return ByteBudget(
            tmp_path / "data" / "bytes.json", bytes_per_day=len(BODY) + 1, clock=clock
        )

    client = connect(server.url)
    server.otherwise = Answer(body=BODY)
    one, other = (client.details(Quota(), budget=budget()) for _ in range(2))
    assert read(one.log(JOB)) == BODY
    assert budget().left == 1
    assert read(other.log(JOB)) == BODY  # a body is read to its end
    requests = len(server.requests)
    for call in (one.log_tail, one.header_times, lambda job: read(one.log(job))):
        with pytest.raises(BudgetSpent, match="102,401 bytes") as caught:
            call(JOB)
        assert caught.value.retry_in_s == 12 * 3600
    assert len(server.requests) == requests
    clock.moment = datetime(2026, 11, 21, tzinfo=UTC)
    assert read(one.log(JOB)) == BODY


@pytest.mark.parametrize("content", [b"", b"{", b'{"day": 1}', b"\xff", b"[]"])
def test_damaged_count_of_bytes_starts_again(clock, tmp_path, content):
    path = tmp_path / "bytes.json"
    path.write_bytes(content)
    budget = ByteBudget(path, bytes_per_day=10, clock=clock)
    budget.spend(3)
    assert budget.left == 7
    assert json.loads(path.read_bytes()) == {"day": "2026-11-20", "bytes": 3}


def test_quota_without_room_is_an_error_if_the_wait_is_limited(server, connect):
    quota = Quota(background=0.5)
    details = connect(server.url).details(quota, max_wait_s=1)
    rate = {"RateLimit-User-Remaining": "20", "RateLimit-User-Limit": "50"}
    server.otherwise = Answer(body=BODY, headers={**rate, "RateLimit-User-Reset": "30"})
    assert read(details.log(JOB)) == BODY
    with pytest.raises(QuotaSpent):
        details.log_size(JOB)
