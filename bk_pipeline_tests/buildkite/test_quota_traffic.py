"""The quota under load: many requests, late and lost responses, and several threads."""

from __future__ import annotations

import heapq
import math
import random
import threading
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from bk_pipeline.buildkite.api import QuotaLimiter
from bk_pipeline.buildkite.quota import Family, Quota

PREFIXES = ("RateLimit", "RateLimit-User")


@dataclass
class Service:
    """A rate limiter with fixed windows; `least` is the lowest number that ever remained."""

    limit: int
    period: float = 60.0
    offset: float = 0.0
    rounding: object = math.ceil
    window: float = -1
    count: int = 0
    least: int = 10**9

    def take(self, now: float) -> tuple[int, float]:
        window = (now - self.offset) // self.period
        if window != self.window:
            self.window, self.count = window, 0
        self.count += 1
        remaining = self.limit - self.count
        self.least = min(self.least, remaining)
        left = self.offset + (window + 1) * self.period - now
        return max(remaining, 0), max(self.rounding(left), 0)


@dataclass
class Traffic:
    """Workers that send as often as the quota permits, over a slow and lossy network."""

    quota: Quota
    services: list[Service]
    chance: random.Random
    delays: list[float]
    loss: float
    now: float = 1000.0
    events: list = field(default_factory=list)

    def run(self, workers: int, until: float) -> None:
        for _ in range(workers):
            self.at(0, self.send)
        while self.events and self.now < until:
            self.now, _, act = heapq.heappop(self.events)
            act()

    def at(self, delay: float, act) -> None:
        heapq.heappush(self.events, (self.now + delay, self.chance.random(), act))

    def send(self) -> None:
        permit = self.quota.begin(self.now)
        if permit is None:
            self.at(min(self.quota.pause_s(self.now), 1.0), self.send)
        elif self.chance.random() < self.loss / 2:
            self.at(self.delay(), lambda: self.settle(permit, None))
        else:
            self.at(self.delay(), lambda: self.count(permit))

    def count(self, permit) -> None:
        fields = {}
        for prefix, service in zip(PREFIXES, self.services, strict=True):
            remaining, reset = service.take(self.now)
            fields[f"{prefix}-Remaining"] = str(remaining)
            fields[f"{prefix}-Limit"] = str(service.limit)
            fields[f"{prefix}-Reset"] = str(reset)
        lost = self.chance.random() < self.loss / 2
        self.at(self.delay(), lambda: self.settle(permit, None if lost else fields))

    def settle(self, permit, fields) -> None:
        self.quota.settle(permit, self.now, fields, complete=fields is not None)
        self.at(0, self.send)

    def delay(self) -> float:
        return self.chance.choice(self.delays) * self.chance.random()


@settings(max_examples=80, deadline=None)
@given(
    limits=st.tuples(st.integers(4, 60), st.integers(4, 30)),
    offsets=st.tuples(st.floats(0, 60), st.floats(0, 60)),
    rounding=st.sampled_from([math.ceil, math.floor, float]),
    delays=st.lists(st.sampled_from([0.01, 0.1, 1, 10, 50]), min_size=1, max_size=4),
    loss=st.sampled_from([0, 0, 0.05, 0.5]),
    workers=st.integers(1, 16),
    seed=st.integers(0, 10**9),
)
def test_remaining_never_falls_below_the_reserve(
    *, limits, offsets, rounding, delays, loss, workers, seed
):
    """In any order and window of requests being counted, answered and lost."""
    services = [
        Service(limit, offset=offset, rounding=rounding)
        for limit, offset in zip(limits, offsets, strict=True)
    ]
    quota = Quota()
    traffic = Traffic(quota, services, random.Random(seed), delays, loss=0)
    traffic.count(quota.begin(traffic.now))
    traffic.run(0, until=1050)
    traffic.loss = loss

    traffic.run(workers, until=1300)

    for family, service in zip(quota.families, services, strict=True):
        assert service.least >= family.reserve


def test_threads_that_share_a_quota_never_spend_the_reserve(clock):
    service = Service(12)
    lock = threading.Lock()
    family = Family("user", "RateLimit-User", share=0, least=2)
    quota = Quota((family,))
    limiter = QuotaLimiter(quota, clock=clock, on_wait=lambda _: None)
    done = []

    def work():
        for _ in range(20):
            permit = limiter.acquire()
            with lock:
                remaining, reset = service.take(clock.monotonic())
            fields = {
                "RateLimit-User-Remaining": str(remaining),
                "RateLimit-User-Limit": "12",
                "RateLimit-User-Reset": str(reset),
            }
            quota.settle(permit, clock.monotonic(), fields, complete=True)
            done.append(remaining)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(done) == 160
    assert min(done) == 2
