"""`examples/alerts.py`, with a webhook and a Slack on loopback, and a Dagster instance."""

from __future__ import annotations

import importlib.util
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from bk_pipeline_tests.conftest import self_signed
from bk_pipeline_tests.test_docs import PROJECT


class Receiver:
    """Takes messages as a webhook does, and as Slack's API does behind a proxy; answers with `status`."""

    def __init__(self, tls=None):
        self.messages, self.tokens, self.status = [], set(), 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self):
                assert self.path == "slack.com:443"
                self.send_response(200)
                self.end_headers()
                self.connection = tls.wrap_socket(self.connection, server_side=True)
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)
                self.close_connection = False

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.messages.append(json.loads(body))
                receiver.tokens.add(self.headers["Authorization"])
                answer = {"ok": receiver.status == 200, "error": "channel_not_found"}
                self.send_response(200 if tls else receiver.status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())
                self.close_connection = True

            def finish(self):
                super().finish()
                self.connection.close()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def texts(self):
        return [one["text"] for one in self.messages]


@contextmanager
def serving(made):
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def webhook(monkeypatch):
    with serving(Receiver()) as made:
        monkeypatch.setenv("ALERT_WEBHOOK_URL", f"{made.url}/T000/secret")
        yield made


@pytest.fixture
def slack(monkeypatch, tmp_path):
    """Slack's API under its own name, as Slack's package reaches it: through a proxy and by TLS."""
    certificate, key = tmp_path / "slack.pem", tmp_path / "slack.key"
    self_signed(certificate, key, "DNS:slack.com")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(Receiver(tls)) as made:
        monkeypatch.setenv("HTTPS_PROXY", made.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-secret")
        monkeypatch.setenv("SLACK_CHANNEL", "#ci")
        monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example")
        yield made


def loaded():
    spec = importlib.util.spec_from_file_location("alerts", PROJECT / "examples" / "alerts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alerts():
    return loaded()


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@dg.asset(check_specs=[dg.AssetCheckSpec("small", asset="numbers")])
def numbers(context):
    fine = "fine" in context.run.tags
    check = dg.AssetCheckResult(
        passed=fine, check_name="small", severity=dg.AssetCheckSeverity.WARN, description="7 is not"
    )
    return dg.MaterializeResult(check_results=[check])


@dg.asset
def broken():
    raise dg.Failure("The token is refused.")


def failed_run(instance):
    done = dg.materialize([broken], instance=instance, raise_on_error=False)
    assert not done.success
    return done


def tick(alerts, sensor, instance, cursor):
    """The new cursor, as Dagster's daemon would keep it."""
    repository = alerts.defs.get_repository_def()
    context = dg.build_sensor_context(instance, cursor, repository_def=repository)
    done = repository.get_sensor_def(sensor).evaluate_tick(context)
    if errors := [one.error for one in done.dagster_run_reactions or [] if one.error]:
        raise AssertionError(errors)
    return done.cursor


CHECKS, RUNS = "alert_on_failed_checks", "alert_on_failed_runs"


def test_each_failed_run_is_told_once(alerts, webhook, instance):
    failed_run(instance)
    begun = tick(alerts, RUNS, instance, None)
    assert webhook.texts == []  # what was before is no news
    done = failed_run(instance)
    after = tick(alerts, RUNS, instance, begun)
    [text] = webhook.texts
    assert text.startswith(f"Run {done.run_id[:8]} of ")
    assert " failed: " in text
    tick(alerts, RUNS, instance, after)
    assert len(webhook.texts) == 1


def test_each_failed_check_is_told_once(alerts, webhook, instance):
    dg.materialize([numbers], instance=instance)
    begun = tick(alerts, CHECKS, instance, None)
    assert webhook.texts == []  # what was before is no news
    dg.materialize([numbers], instance=instance, tags={"fine": "1"})
    dg.materialize([numbers], instance=instance)
    after = tick(alerts, CHECKS, instance, begun)
    assert webhook.texts == ["Check small of numbers failed: 7 is not"]
    tick(alerts, CHECKS, instance, after)
    assert len(webhook.texts) == 1


@pytest.mark.parametrize(("sensor", "asset"), [(CHECKS, numbers), (RUNS, broken)])
def test_alert_that_is_not_accepted_is_tried_again_and_names_no_secret(
    alerts, webhook, instance, sensor, asset
):
    begun = tick(alerts, sensor, instance, None)
    dg.materialize([asset], instance=instance, raise_on_error=False)
    webhook.status = 503
    with pytest.raises(dg.Failure, match="HTTP 503") as failed:
        tick(alerts, sensor, instance, begun)
    assert "secret" not in str(failed.value)
    webhook.status = 200
    tick(alerts, sensor, instance, begun)
    assert len(webhook.texts) == 1


def test_webhook_that_cannot_be_reached_is_no_secret_either(alerts, webhook, monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "http://127.0.0.1:1/T000/secret")
    with pytest.raises(dg.Failure, match="ConnectionError") as failed:
        alerts.post("text")
    assert "secret" not in str(failed.value)


def test_slack_is_told_of_a_failed_run_with_a_link_to_it(slack, instance):
    alerts = loaded()
    begun = tick(alerts, RUNS, instance, None)
    done = failed_run(instance)
    tick(alerts, RUNS, instance, begun)
    [message] = slack.messages
    assert message["channel"] == "#ci"
    assert message["text"].startswith("Failed: ")
    assert f"https://dagster.example/runs/{done.run_id}" in json.dumps(message["blocks"])
    assert slack.tokens == {"Bearer xoxb-secret"}


def test_slack_is_told_of_a_failed_check(slack, instance):
    alerts = loaded()
    begun = tick(alerts, CHECKS, instance, None)
    dg.materialize([numbers], instance=instance)
    slack.status = 404
    with pytest.raises(dg.Failure, match="Slack says channel_not_found") as failed:
        tick(alerts, CHECKS, instance, begun)
    assert "secret" not in str(failed.value)
    slack.status = 200
    tick(alerts, CHECKS, instance, begun)
    assert slack.texts == ["Check small of numbers failed: 7 is not"]
