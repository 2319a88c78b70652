from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor

import pytest

from bk_pipeline.errors import (
    AnswerTooLarge,
    ConfigError,
    UnexpectedAnswer,
)
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.session import HttpSession
from bk_pipeline_tests.http.scripted import Answer

TOKEN = "s3cret-token-0001"
GZIPPED = gzip.compress(b"[1, 2, 3]" * 100)


@pytest.mark.parametrize("status", [200, 404, 429, 500])
def test_any_complete_answer_is_returned(server, session, status):
    server.otherwise = Answer(status, b'{"message": "no"}', {"X-Reason": "because"})

    response = session.send("GET", "/v2/builds", params={"page": "2"})

    assert (response.status, response.body) == (status, b'{"message": "no"}')
    assert response.headers["x-reason"] == "because"
    assert response.url.endswith("/v2/builds?page=2")
    assert server.requests[0].path == "/v2/builds?page=2"


def test_body_and_headers_reach_the_service_as_given(server, session):
    body = gzip.compress(b"[]")
    session.send("POST", "/1/batch/x", body=body, headers={"Content-Encoding": "gzip"})

    [request] = server.requests
    assert request.body == body
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["User-Agent"].startswith("bk_pipeline/0.")
    assert request.headers["Accept-Encoding"] == "gzip"


def test_gzip_answer_is_decompressed(server, session):
    server.otherwise = Answer(body=GZIPPED, headers={"Content-Encoding": "gzip"})
    assert session.send("GET", "/").body == b"[1, 2, 3]" * 100


def test_empty_answer_with_a_content_length_is_complete(server, session):
    server.otherwise = Answer(body=b"")
    assert session.send("POST", "/v1/traces", body=b"x").body == b""


def test_connection_is_reused(server, session):
    for _ in range(3):
        session.send("GET", "/")
    assert len({request.connection for request in server.requests}) == 1


def test_session_can_be_shared_by_threads(server, session):
    server.otherwise = lambda request: Answer(body=request.path.encode())
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda n: session.send("GET", f"/{n}").body, range(40)))
    assert bodies == [f"/{n}".encode() for n in range(40)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_an_error_that_names_the_setting(server, session, status):
    where = "https://login.example.com/in?ticket=abc"
    server.otherwise = Answer(status, b"", {"Location": where})

    with pytest.raises(UnexpectedAnswer, match="Set BUILDKITE_API_URL") as caught:
        session.send("POST", "/v2/builds", body=b"{}")

    assert "https://login.example.com" in str(caught.value)
    assert "ticket" not in str(caught.value)
    assert len(server.requests) == 1


FOREIGN = {
    "other host": "http://localhost:{port}/v2",
    "other port": "http://127.0.0.1:1/v2",
    "other scheme": "https://127.0.0.1:{port}/v2",
    "origin as user name": "http://127.0.0.1:{port}@evil.test/v2",
    "user and password": "http://me:pw@127.0.0.1:{port}/v2",
    "backslash": "http://evil.test\\@127.0.0.1:{port}/v2",
    "relative": "v2/builds",
    "port is not a number": "http://127.0.0.1:x/v2",
    "line break": "http://127.0.0.1:{port}/v2\r\nX: y",
    "empty": "",
}


@pytest.mark.parametrize("url", FOREIGN.values(), ids=FOREIGN.keys())
def test_credentials_are_not_sent_to_another_origin(server, session, url):
    with pytest.raises(UnexpectedAnswer, match="must not go there"):
        session.send("GET", url.format(port=server.server_port))
    assert server.requests == []


OWN = ["http://127.0.0.1:{port}/v2?page=2", "HTTP://127.0.0.1:{port}/v2", "//evil.test/v2"]


@pytest.mark.parametrize("url", OWN)
def test_url_of_the_same_origin_is_requested(server, session, url):
    session.send("GET", url.format(port=server.server_port))
    assert server.requests[0].path.endswith(("/v2", "/v2?page=2"))


def test_default_port_is_part_of_the_origin(clock):
    with HttpSession("https://api.example.com", setting="X_URL", clock=clock) as session:
        assert session.is_same_origin("https://API.example.com:443/v2")
        assert not session.is_same_origin("http://api.example.com/v2")


def test_netrc_does_not_replace_the_credentials(server, session, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))

    session.send("GET", "/")

    assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_proxy_of_the_environment_is_used_except_for_loopback(server, monkeypatch, clock):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    with HttpSession("http://api.example.com", setting="X_URL", clock=clock) as far:
        far.send("GET", "/far")
    with HttpSession(server.url, setting="X_URL", clock=clock) as near:
        near.send("GET", "/near")

    assert [r.path for r in server.requests] == ["http://api.example.com/far", "/near"]


def test_cookies_are_not_kept(server, session):
    server.replies.append(Answer(headers={"Set-Cookie": "session=abc; Path=/"}))
    session.send("GET", "/")
    session.send("GET", "/")
    assert "Cookie" not in server.requests[1].headers


@pytest.mark.parametrize("value", ["Bearer a\nb", "Bearer tökén", " Bearer a", "Bearer \u2019a"])
def test_error_about_an_unsendable_header_does_not_show_its_value(value):
    with pytest.raises(ConfigError, match="header Authorization") as caught:
        HttpSession("http://127.0.0.1", setting="X_URL", headers={"Authorization": value})
    assert value.strip() not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://host", "host", "http://", "http://host:port"])
def test_malformed_base_url_names_the_setting(url):
    with pytest.raises(ConfigError, match="X_URL is malformed"):
        HttpSession(url, setting="X_URL")


def test_quoted_text_is_one_short_line_without_secrets(session):
    text = f"no such token:\r\n\t{TOKEN} \x1b[31m" + "x" * 300

    quoted = session.quote(text, limit=40)

    assert quoted == "no such token: [redacted] [31mxxxxxxxxxx…"


def test_each_timeout_is_capped():
    assert Timeouts().within(5) == Timeouts(5, 5, 5)
    assert Timeouts().within(30) == Timeouts(10, 30, 30)
    assert Timeouts().within(None) == Timeouts()


@pytest.mark.parametrize("where", ["http://[", "/only/a/path", ""])
def test_redirect_without_a_host_is_the_same_error(server, session, where):
    server.otherwise = Answer(302, b"", {"Location": where})
    with pytest.raises(UnexpectedAnswer, match=r"was redirected \(302\)"):
        session.send("GET", "/v2/builds")


def test_key_in_the_base_urls_path_is_not_shown(server, connect):
    session = connect(f"{server.url}/otlp/s3cret-key")
    server.otherwise = Answer(302)

    with pytest.raises(UnexpectedAnswer) as caught:
        session.send("POST", "/v1/traces")

    assert server.requests[0].path == "/otlp/s3cret-key/v1/traces"
    assert "/v1/traces was redirected" in str(caught.value)
    assert "s3cret" not in str(caught.value) + repr(session)


def test_base_url_with_a_password_is_rejected_without_showing_it():
    with pytest.raises(ConfigError, match="X_URL holds a user name or password") as caught:
        HttpSession("https://me:s3cret@host", setting="X_URL")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_answer_larger_than_allowed_is_rejected(server, session, zipped):
    body, headers = b"x" * 5_000_000, {}
    if zipped:
        body, headers = gzip.compress(body), {"Content-Encoding": "gzip"}
    server.otherwise = Answer(body=body, headers=headers)

    assert len(session.send("GET", "/", max_bytes=5_000_000).body) == 5_000_000
    with pytest.raises(AnswerTooLarge, match=r"larger than 4,999,999 bytes"):
        session.send("GET", "/", max_bytes=4_999_999)
    assert len(session.send("GET", "/").body) == 5_000_000


def test_gzip_members_are_concatenated(server, session):
    body = gzip.compress(b"[1,") + gzip.compress(b"2]") + b"\0\0"
    server.otherwise = Answer(body=body, headers={"Content-Encoding": "gzip"})
    assert session.send("GET", "/").body == b"[1,2]"
