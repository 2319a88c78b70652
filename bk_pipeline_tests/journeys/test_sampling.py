"""A sampled day at every kind of destination: whole builds, right weights, and what comes later."""

from __future__ import annotations

from collections import Counter
from datetime import date

import dagster as dg
import pytest

from bk_pipeline.cli.sampling import sampling
from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.defs.runs import materialize_days
from bk_pipeline.errors import ConfigError
from bk_pipeline.pipeline import deliver_day, extract_day, transform_day
from bk_pipeline_tests.test_pipeline import finish_one_more
from bk_pipeline_tests.worlds import stage

ROOT = "buildkite.build"
LOADERS = ("honeycomb_events", "otlp_traces", "otlp_metrics")
RULES = """
[[rule]]
id = "web"
pipeline = "web*"
rate = {web}

[[rule]]
id = "rest"
rate = {rest}
"""


class Journey:
    """Deliveries of one day to Honeycomb, to an OTLP endpoint, and as metrics."""

    def __init__(self, scene, rules) -> None:
        self.scene, self.rules = scene, rules
        self.services = scene.services
        [self.day] = scene.days

    def extract(self) -> None:
        raw = self.services.raw()
        with self.services.buildkite(on_wait=print) as client:
            day = day_of(self.day, self.services.settings)
            extract_day(day, client=client, raw=raw, clock=self.scene.clock)
        transform_day(self.day, raw=raw, spans=self.services.spans())

    def deliver(self, **rates) -> dict:
        """Deliver with these rates; without any, without sampling."""
        self.rules.write_text(RULES.format(**rates) if rates else "")
        found = {}
        with self.services.ledger() as ledger:
            for name in LOADERS:
                with self.services.destination(self.services.configured(name)) as to:
                    found[name] = deliver_day(
                        self.day,
                        spans=self.services.spans(),
                        destination=to,
                        ledger=ledger,
                        clock=self.scene.clock,
                        sampling=self.services.sampling() if rates else None,
                    )
        return found

    def spans(self) -> Counter:
        """The number of spans of each build, from the span table."""
        tables = self.services.spans().newest(self.day, columns=["trace_id"])
        return Counter(one for table in tables for one in table["trace_id"].to_pylist())

    def events(self) -> list:
        return [one for one in self.scene.sandbox.honeycomb.events if "trace.span_id" in one.data]

    def assert_whole(self) -> set[str]:
        """Return the builds that were sent, the same ones to both routes, each whole and once."""
        whole = self.spans()
        events = Counter(one.data["trace.trace_id"] for one in self.events())
        spans = Counter(one.trace_id for one in self.scene.sandbox.otlp.spans)
        assert events == spans == {trace: whole[trace] for trace in events}
        assert self.scene.sandbox.honeycomb.duplicate_count == 0
        assert self.scene.sandbox.otlp.duplicate_count == 0
        return set(events)


@pytest.fixture
def journey(tmp_path):
    rules = tmp_path / "sampling.toml"
    rules.touch()
    named = {"BK_PIPELINE_SAMPLING": str(rules)}
    with stage(tmp_path / "data", builds_per_day=80, otlp=True, **named) as scene:
        made = Journey(scene, rules)
        made.extract()
        yield made


def test_a_sampled_day_is_sent_in_whole_builds_and_raised_rates_send_the_rest(journey):
    first = journey.deliver(web=3, rest=6)
    builds = journey.spans()
    kept = journey.assert_whole()
    failed = {one.data["trace.trace_id"] for one in journey.events() if _failed(one)}

    for name in LOADERS[:2]:
        assert first[name].sampled_out_builds == len(builds) - len(kept) > 0
        assert first[name].sampled_out == sum(builds[one] for one in builds.keys() - kept)
    assert failed
    for event in journey.scene.sandbox.honeycomb.events:
        web = event.data["buildkite.pipeline.slug"].startswith("web")
        rate = 1 if event.data["trace.trace_id"] in failed else 3 if web else 6
        assert event.samplerate == rate
    states = {(one.trace_id in failed, one.trace_state) for one in journey.scene.sandbox.otlp.spans}
    assert {state for is_failed, state in states if is_failed} == {""}
    assert {state for is_failed, state in states if not is_failed} == {
        "ot=th:aaaaaaaaaaaaab",
        "ot=th:d5555555555555",
    }
    # Metrics count what is not sent too.
    assert first["otlp_metrics"].sampled_out == 0
    totals = journey.scene.sandbox.otlp.metrics.totals
    assert totals["buildkite.builds.count"] == len(builds)

    again = journey.deliver(web=3, rest=6)
    assert {one.batches for one in again.values()} == {0}
    for name in LOADERS:
        assert again[name].sampled_out_builds == first[name].sampled_out_builds
        assert again[name].sampled_out == first[name].sampled_out

    raised = journey.deliver(web=1, rest=2)
    more = journey.assert_whole()
    assert kept < more < builds.keys()
    assert raised["otlp_traces"].sampled_out_builds == len(builds) - len(more)
    assert raised["otlp_metrics"].batches == 0
    assert {one.data["trace.trace_id"] for one in journey.events() if one.samplerate > 2} <= kept

    # Lowered again, nothing is taken back, and nothing is sent.
    assert {one.batches for one in journey.deliver(web=100, rest=100).values()} == {0}

    last = journey.deliver()
    assert journey.assert_whole() == builds.keys()
    assert {one.sampled_out_builds for one in last.values()} == {0}
    assert totals["buildkite.builds.count"] == len(builds)


def _failed(event) -> bool:
    return event.name == ROOT and event.data.get("error") is True


def test_preview_is_what_is_sent_afterwards(journey, monkeypatch, capsys):
    journey.rules.write_text(RULES.format(web=3, rest=6))
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", journey.services.settings.data_dir)
    monkeypatch.setenv("BK_PIPELINE_SAMPLING", str(journey.rules))

    sampling(None, None)

    rules, *_, total, sentence = _table(capsys.readouterr().out)
    assert journey.scene.sandbox.honeycomb.event_count == 0
    done = journey.deliver(web=3, rest=6)
    builds, kept, spans, kept_spans, events, kept_events = total
    assert (builds, spans) == (len(journey.spans()), journey.spans().total())
    assert kept == len(journey.assert_whole()) < builds
    assert kept_spans == done["otlp_traces"].accepted
    assert kept_events == done["honeycomb_events"].accepted < events
    assert rules == ["web", "rest", "(no rule)", "total"]
    assert f"{kept_events:,} of {events:,} events would be sent" in sentence


def _table(shown: str) -> list:
    """The names of the rules, the numbers of each, and the sentence that follows."""
    _, *lines, sentence = shown.splitlines()
    names = [line.rsplit(None, 7 if line.split()[0] != "total" else 6)[0] for line in lines]
    numbers = [[int(one.replace(",", "")) for one in line.split()[-6:]] for line in lines]
    return [[name.strip() for name in names], *numbers, sentence]


def test_preview_needs_rules_and_spans(journey, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"BK_PIPELINE_SAMPLING is not set.*docs/sampling\.md"):
        sampling(None, None)
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", journey.services.settings.data_dir)
    monkeypatch.setenv("BK_PIPELINE_SAMPLING", str(journey.rules))
    sampling(date(2001, 1, 1), date(2001, 1, 2))
    assert capsys.readouterr().out.startswith("There are no spans of these days")


def test_late_build_is_decided_alone_and_earlier_ones_stay_counted(journey):
    first = journey.deliver(web=3, rest=6)["otlp_traces"]
    kept = journey.assert_whole()
    finish_one_more(journey.scene, 9_000_001)
    journey.extract()

    second = journey.deliver(web=3, rest=6)["otlp_traces"]

    assert journey.assert_whole() >= kept
    assert second.already_settled == 0
    assert second.sampled_out_builds - first.sampled_out_builds in {0, 1}


def test_the_assets_sample_by_the_file_of_the_setting(tmp_path):
    rules = tmp_path / "sampling.toml"
    rules.write_text(RULES.format(web=5, rest=5))
    named = {"BK_PIPELINE_SAMPLING": str(rules)}
    with (
        stage(tmp_path / "data", builds_per_day=30, otlp=True, **named) as scene,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        [run] = materialize_days(scene.services, scene.days, instance=instance)

        assert run.error is None
        done = run.results["honeycomb_events"]
        assert done.sampled_out_builds > 0
        assert done.accepted == scene.sandbox.honeycomb.event_count
        assert run.results["otlp_metrics"].sampled_out == 0
        [shown] = instance.fetch_materializations(dg.AssetKey("honeycomb_events"), limit=1).records
        values = shown.asset_materialization.metadata
        assert values["builds left out by sampling rules"].value == done.sampled_out_builds

        rules.write_text("[[rule]]\n")
        [refused] = materialize_days(scene.services, scene.days, instance=instance)
        assert f"{rules} line 1: rule 1, id: is missing." in refused.error
