"""Destinations: do they answer, and would they take our spans?"""

from __future__ import annotations

from bk_pipeline.deliver.destinations import Configured
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.metrics.destination import OtlpMetrics
from bk_pipeline.deliver.otlp.destination import Otlp
from bk_pipeline.doctor.findings import Answer, fine, remark
from bk_pipeline.doctor.installation import Installation
from bk_pipeline.http.honeycomb import INGEST
from bk_pipeline.http.retry import retry
from bk_pipeline.markers.client import MarkerClient
from bk_pipeline.markers.rules_file import load_rules


def destination(configured: Configured, it: Installation) -> Answer:
    """Whether a destination answers us, and what our key may do there. Sends no span."""
    opened = configured.open(it.clock)
    it.destination_names.append(opened.name)
    match opened:
        case Honeycomb():
            return _honeycomb(opened)
        case Otlp() | OtlpMetrics():
            # An export without anything in it is a valid request, and stores nothing.
            answer = retry(lambda: opened.send([]), policy=opened.retry, clock=it.clock)
            words = f"{opened.name} takes exports. {opened.max_age_sentence}"
            return remark(f"{words} {answer.remark}") if answer.remark else fine(words)
        case _:
            return fine(f"{opened.name} answers.")


def markers(it: Installation) -> Answer:
    """Whether the rules can be read, and the key may place what they name."""
    rules = load_rules(it.settings.require_markers(), dataset=it.settings.honeycomb_dataset)
    client = MarkerClient.from_settings(it.settings, clock=it.clock)
    count = len(rules.rules)
    return fine(
        f"{count} rule{'' if count == 1 else 's'}; the key may place markers at {client.name}."
    )


def _honeycomb(opened: Honeycomb) -> Answer:
    name = opened.name
    account = opened.describe()
    kind = "an ingest key" if account.key_kind == INGEST else f"a {account.key_kind} key"
    if not account.may_create_datasets:
        return remark(
            f"{kind} of {name}. It may not create datasets: create that one in Honeycomb first, "
            "unless it is there, or give the key the permission Create Datasets."
        )
    return fine(
        f"{kind} of {name}; it may send events and create datasets. {opened.max_age_sentence}"
    )
