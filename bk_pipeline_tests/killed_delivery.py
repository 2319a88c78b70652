"""Delivers a day (its deployments, if there are rules) and exits at a given moment: `<day> <method> <before|after> <nth call>`.

`method` is one that writes to the ledger or to the delivery records.
"""

from __future__ import annotations

import os
import sys

from bk_pipeline.app import App
from bk_pipeline.clock import SystemClock
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline import deliver_day, deliver_deployments
from bk_pipeline.settings import Settings
from bk_pipeline.store.delivery_records import DeliveryRecords

DIED = 9


def die_at(method: str, when: str, nth: int) -> None:
    owner = DeliveryRecords if hasattr(DeliveryRecords, method) else Ledger
    real = getattr(owner, method)
    calls = 0

    def dying(self, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os._exit(DIED)
        result = real(self, *arguments, **options)
        if calls == nth:
            os._exit(DIED)
        return result

    setattr(owner, method, dying)


def main() -> None:
    day, method, when, nth = sys.argv[1:]
    services = App(Settings.load(), retries=0)
    [found] = services.destinations()
    die_at(method, when, int(nth))
    deliver, options, to = deliver_day, {}, found
    if services.settings.deployments is not None:
        deliver, options = deliver_deployments, {"stats": services.stats()}
        [to] = services.deployment_metrics()
    deliver(
        day,
        spans=services.spans(),
        destination=to.open(SystemClock()),
        ledger=services.ledger(),
        clock=SystemClock(),
        policy=services.delivery_policy(),
        **options,
    )


if __name__ == "__main__":
    main()
