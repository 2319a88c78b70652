"""`examples/alerts.py`, with a webhook on loopback and a Dagster instance."""

from __future__ import annotations

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from bk_pipeline_tests.test_docs import PROJECT


class Webhook:
    """Takes messages; answers with `status`."""

    def __init__(self):
        self.texts, self.status = [], 200
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if webhook.status == 200:
                    webhook.texts.append(json.loads(body)["text"])
                self.send_response(webhook.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/T000/secret"


@pytest.fixture
def webhook(monkeypatch):
    made = Webhook()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("ALERT_WEBHOOK_URL", made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def alerts():
    spec = importlib.util.spec_from_file_location("alerts", PROJECT / "examples" / "alerts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def tick(alerts, instance, cursor):
    return alerts.alert_on_failed_checks(dg.build_sensor_context(instance=instance, cursor=cursor))


def test_failed_run_is_told(alerts, webhook, instance):
    done = failed_run(instance)
    context = dg.build_run_status_sensor_context(
        sensor_name="alert_on_failed_runs",
        dagster_event=done.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=done.dagster_run,
    ).for_run_failure()
    alerts.alert_on_failed_runs(context)
    [text] = webhook.texts
    assert text.startswith(f"Run {done.run_id[:8]} of ")
    assert " failed: " in text


def test_each_failed_check_is_told_once(alerts, webhook, instance):
    dg.materialize([numbers], instance=instance)
    begun = tick(alerts, instance, None)
    assert webhook.texts == []  # what was before is no news
    dg.materialize([numbers], instance=instance, tags={"fine": "1"})
    dg.materialize([numbers], instance=instance)
    after = tick(alerts, instance, begun.cursor)
    assert webhook.texts == ["Check small of numbers failed: 7 is not"]
    assert isinstance(tick(alerts, instance, after.cursor), dg.SkipReason)
    assert len(webhook.texts) == 1


def test_alert_that_is_not_accepted_is_tried_again_and_names_no_secret(alerts, webhook, instance):
    begun = tick(alerts, instance, None)
    dg.materialize([numbers], instance=instance)
    webhook.status = 503
    with pytest.raises(dg.Failure, match="HTTP 503") as failed:
        tick(alerts, instance, begun.cursor)
    assert "secret" not in str(failed.value)
    webhook.status = 200
    tick(alerts, instance, begun.cursor)
    assert len(webhook.texts) == 1


def test_webhook_that_cannot_be_reached_is_no_secret_either(alerts, webhook, monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_URL", "http://127.0.0.1:1/T000/secret")
    with pytest.raises(dg.Failure, match="ConnectionError") as failed:
        alerts.post("text")
    assert "secret" not in str(failed.value)
