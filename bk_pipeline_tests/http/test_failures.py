from __future__ import annotations

import gc
import gzip
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress

import pytest

from bk_pipeline.clock import Stop, SystemClock, stopped_by
from bk_pipeline.errors import (
    ConfigError,
    FatalError,
    PipelineError,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from bk_pipeline.http.exchange import CHUNK_BYTES, MAX_BODY_BYTES, MAX_ERROR_BODY_BYTES
from bk_pipeline.http.network import Timeouts
from bk_pipeline.http.session import HttpSession
from bk_pipeline_tests.http.scripted import Answer, Hang, Raw
from bk_pipeline_tests.programs import missing

TOKEN = "s3cret-token-0001"
GZIPPED = gzip.compress(b"[1, 2, 3]" * 100)


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


BROKEN = {
    "closed without a response": Raw(b""),
    "not http": Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "head truncated": Raw(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "body truncated": Raw(Answer(body=b"[1, 2", length=9).bytes()),
    "no body at all": Raw(Answer(body=b"", length=9).bytes()),
    "gzip truncated, length agrees": Answer(
        body=GZIPPED[:-12], headers={"Content-Encoding": "gzip"}
    ),
    "gzip corrupt": Answer(
        body=GZIPPED[:14] + b"\xff\xff\xff" + GZIPPED[17:], headers={"Content-Encoding": "gzip"}
    ),
    "gzip only by name": Answer(body=b"[1, 2, 3]", headers={"Content-Encoding": "gzip"}),
    "broken chunk size": Raw(head("Transfer-Encoding: chunked") + b"zz\r\n[1, 2]\r\n0\r\n\r\n"),
    "chunk truncated": Raw(head("Transfer-Encoding: chunked") + b"20\r\n[1, 2"),
    "last chunk missing": Raw(head("Transfer-Encoding: chunked") + b"6\r\n[1, 2]\r\n"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
def test_broken_answer_is_service_unavailable_and_maybe_processed(server, session, reply):
    server.otherwise = reply

    with pytest.raises(ServiceUnavailable) as caught:
        session.send("POST", "/v2/builds", params={"page": "7"}, body=b"{}")

    assert caught.value.maybe_processed
    assert "POST 127.0.0.1" in str(caught.value)
    assert "page=7" not in str(caught.value)


def test_session_is_usable_after_a_broken_answer(server, session):
    server.replies.extend([BROKEN["body truncated"], Answer(body=b"[4]")])
    with pytest.raises(ServiceUnavailable):
        session.send("GET", "/v2/builds")

    assert session.send("GET", "/v2/builds").body == b"[4]"


def test_refused_connection_was_not_processed(connect):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        session = connect(url)
        with pytest.raises(ServiceUnavailable) as caught:
            session.send("POST", "/1/batch/x", body=b"[]")

    assert not caught.value.maybe_processed
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.request is None


def test_failure_of_another_request_is_not_taken_for_this_ones(server, session, clock):
    """The error's context is a connection that another service refused; this request was sent."""
    server.otherwise = Hang()
    refused = None
    with HttpSession("http://127.0.0.1:9", setting="X_URL", clock=clock) as elsewhere:
        try:
            elsewhere.send("GET", "/")
        except ServiceUnavailable as caught:
            refused = caught
            with pytest.raises(ServiceUnavailable) as here:
                session.send("POST", "/", timeout_s=1)

    assert not refused.maybe_processed
    assert here.value.maybe_processed


def test_timeout_of_a_request_is_maybe_processed(server, session):
    server.otherwise = Hang()
    with pytest.raises(ServiceUnavailable, match="no answer came in time") as caught:
        session.send("POST", "/", timeout_s=1)
    assert caught.value.maybe_processed


@contextmanager
def listening(serve):
    """The address of a server whose one connection is handled by `serve`."""
    ended = threading.Event()

    def accept():
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                serve(connection, ended)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def drip(*head: bytes, forever: bytes = b"x"):
    def serve(connection, ended):
        connection.sendall(b"".join(head))
        while not ended.wait(0.05):
            connection.sendall(forever)

    return serve


def deaf(connection, ended):
    """Reads nothing, so that a large request fills all buffers."""
    ended.wait(60)


DRIPPING = {
    "status line": drip(b"HTTP/1.1 200 OK"),
    "headers": drip(b"HTTP/1.1 200 OK\r\nX-Padding: "),
    "many headers": drip(b"HTTP/1.1 200 OK\r\n", forever=b"X: y\r\n"),
    "interim answers": drip(forever=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": drip(head("Content-Length: 1000")),
    "gzip": drip(head("Content-Encoding: gzip", "Content-Length: 999"), b"\x1f\x8b\x08\x00"),
    "empty gzip members": drip(
        head("Content-Encoding: gzip", "Content-Length: 99999"), forever=gzip.compress(b"")
    ),
    "chunks": drip(head("Transfer-Encoding: chunked"), forever=b"1\r\n[\r\n"),
    "a chunk's extension": drip(head("Transfer-Encoding: chunked"), b"1;x="),
    "trailers": drip(head("Transfer-Encoding: chunked"), b"0\r\n", forever=b"X: y\r\n"),
    "nothing is read": deaf,
}


@pytest.mark.parametrize("serve", DRIPPING.values(), ids=DRIPPING.keys())
def test_slow_server_cannot_exceed_the_deadline_of_the_whole_request(serve, connect):
    with listening(serve) as place:
        session = connect(f"http://{place}", timeouts=Timeouts(60, 60, 1))
        session._clock = SystemClock()
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable) as caught:
            session.send("POST", "/", body=b"x" * 50_000_000 if serve is deaf else b"[]")
        assert time.monotonic() - began < 30  # endless without the deadline
        assert caught.value.maybe_processed
        # The connection was shut down, so its thread ends too.
        assert not remaining_threads()


def remaining_threads() -> list[threading.Thread]:
    """Request threads that do not end within 30 s."""
    deadline = time.monotonic() + 30
    while threads := [one for one in threading.enumerate() if one.name == "bk-http"]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return threads


def test_request_without_an_answer_is_abandoned_when_the_program_stops(connect):
    """Also in a thread that no signal interrupts, and long before the deadline."""
    stop = Stop()
    with listening(DRIPPING["headers"]) as place, stopped_by(stop):
        session = connect(f"http://{place}", timeouts=Timeouts(60, 60, 30))
        session._clock = SystemClock()
        threading.Timer(0.3, stop.request).start()
        with pytest.raises(ServiceUnavailable, match="asked to stop") as caught:
            session.send("POST", "/", body=b"[]")
        assert caught.value.maybe_processed
        with pytest.raises(ServiceUnavailable, match="asked to stop") as caught:
            session.send("POST", "/", body=b"[]")
        assert not caught.value.maybe_processed


def test_hanging_tls_handshake_was_not_processed(connect):
    with listening(deaf) as place:
        session = connect(f"https://{place}", timeouts=Timeouts(60, 60, 1))
        session._clock = SystemClock()
        with pytest.raises(ServiceUnavailable, match="in time") as caught:
            session.send("POST", "/", body=b"[]")
        assert not caught.value.maybe_processed


def test_hanging_dns_lookup_is_abandoned_and_sends_nothing_later(server, connect, monkeypatch):
    lookup, slow = socket.getaddrinfo, threading.Event()

    def hang(host, *rest, **named):
        slow.wait(30)
        return lookup("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    session = connect(f"http://far.test:{server.server_port}", timeouts=Timeouts(60, 60, 0.5))
    session._clock = SystemClock()
    with pytest.raises(ServiceUnavailable, match="in time") as caught:
        session.send("POST", "/", body=b"[]")
    assert not caught.value.maybe_processed
    slow.set()
    assert not remaining_threads()
    assert server.requests == []


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("status", [401, 429, 503])
def test_error_response_is_returned_even_with_a_broken_body(server, session, status, encoding):
    body = gzip.compress(b"x" * 5_000_000)[:-9]
    server.otherwise = Answer(status, body, {"Content-Encoding": encoding, "Retry-After": "7"})
    found = session.send("GET", "/")
    assert (found.status, found.headers["Retry-After"]) == (status, "7")
    assert len(found.body) == (MAX_ERROR_BODY_BYTES if encoding == "gzip" else 0)


def test_decompression_bomb_is_never_held_in_memory(server, session):
    """A quarter of a mebibyte that expands to a quarter of a gibibyte."""
    packer = zlib.compressobj(wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    server.otherwise = Answer(body=bomb, headers={"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(UnexpectedAnswer, match=rf"larger than {MAX_BODY_BYTES:,} bytes"):
            session.send("POST", "/")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MAX_BODY_BYTES


def test_gzip_body_of_whole_chunks_is_complete(server, session):
    body = bytes(4 * CHUNK_BYTES)
    server.otherwise = Answer(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert session.send("GET", "/").body == body


def test_encoding_that_was_not_requested_is_rejected(server, session):
    server.otherwise = Answer(headers={"Content-Encoding": "br"})
    with pytest.raises(UnexpectedAnswer, match="encoding other than gzip, the only one requested"):
        session.send("GET", "/")


def test_no_connection_is_left_open(server, clock):
    with HttpSession(server.url, setting="X_URL", clock=clock) as session:
        server.replies.extend(
            [Answer(), Answer(302), BROKEN["chunk truncated"], BROKEN["body truncated"]]
        )
        session.send("GET", "/")
        for _ in range(3):
            with pytest.raises(PipelineError):
                session.send("GET", "/")
    gc.collect()  # an unclosed socket raises a ResourceWarning, which fails the test


def test_token_appears_in_no_repr_error_or_log(server, session, caplog):
    caplog.set_level(logging.DEBUG)
    shown = [repr(session), str(session), repr(session._redact)]
    for reply in [*BROKEN.values(), Answer(302, b"", {"Location": "/x"})]:
        server.replies.append(reply)
        with pytest.raises(PipelineError) as caught:
            session.send("GET", "/v2/builds")
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__
    shown.append(repr(session.send("GET", "/")))

    assert TOKEN not in "\n".join(shown) + caplog.text


def test_missing_ca_bundle_is_a_configuration_error(clock, tmp_path):
    with (
        HttpSession(
            "https://127.0.0.1:9", setting="X_URL", ca_file=str(tmp_path / "no.pem"), clock=clock
        ) as session,
        pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"),
    ):
        session.send("GET", "/")


def test_https_url_of_a_plain_http_server_is_a_configuration_error(server, connect):
    url = server.url.replace("http:", "https:")
    session = connect(url)
    with pytest.raises(ConfigError, match=r"does not speak TLS .* use http:// in X_URL"):
        session.send("GET", "/")


ALERT = Raw(b"\x15\x03\x03\x00\x02\x02\x32")
REJECTIONS = (
    b"Client sent an HTTP request to an HTTPS server.",
    b"<center>The plain HTTP request was sent to HTTPS port</center>",
    b"Reason: You're speaking plain HTTP to an SSL-enabled server port.",
)


@pytest.mark.parametrize("reply", [ALERT, *(Answer(400, body) for body in REJECTIONS)])
def test_http_url_of_an_https_server_is_a_configuration_error(server, session, reply):
    server.otherwise = reply
    with pytest.raises(ConfigError, match="speaks TLS: use https:// in BUILDKITE_API_URL"):
        session.send("POST", "/", body=b"[]")


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "https_proxy"])
@pytest.mark.parametrize("scheme", ["socks5h", "socks5", "socks4", "socks"])
def test_socks_proxy_without_pysocks_is_a_configuration_error(
    monkeypatch, connect, variable, scheme
):
    monkeypatch.setenv(variable, f"{scheme}://me:s3cret-proxy@127.0.0.1:1080")
    session = connect("https://api.example.com")
    message = r"SOCKS proxies need PySocks|socks:// does not say"
    with pytest.raises(ConfigError, match=message) as caught:
        session.send("GET", "/")
    assert variable.upper() in str(caught.value)
    assert "s3cret" not in str(caught.value) + str(caught.value.__cause__)


@pytest.fixture
def self_signed(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "openssl")
    path = tmp_path / "self.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=self"
    command = [openssl, *request.split(), "-keyout", path, "-out", tmp_path / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


def test_untrusted_certificate_is_fatal_and_names_the_setting(self_signed, connect):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        session = connect(url)
        with pytest.raises(FatalError, match="REQUESTS_CA_BUNDLE"):
            session.send("GET", "/")
        thread.join()


def test_unreachable_proxy_was_not_processed_and_its_password_is_not_shown(monkeypatch, connect):
    monkeypatch.setenv("https_proxy", "http://me:s3cret-proxy@127.0.0.1:9")
    session = connect("https://api.example.com")
    with pytest.raises(ServiceUnavailable, match="the proxy could not be reached") as caught:
        session.send("GET", "/")

    assert not caught.value.maybe_processed
    assert "s3cret" not in str(caught.value) + str(caught.value.__cause__)


def test_malformed_proxy_is_a_configuration_error_without_its_password(monkeypatch, connect):
    monkeypatch.setenv("https_proxy", "http://me:s3cret-proxy@127.0.0.1:port")
    session = connect("https://api.example.com")
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        session.send("GET", "/")

    assert caught.value.__cause__ is None
    assert "s3cret" not in str(caught.value)
