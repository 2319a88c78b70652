"""Concurrent requests."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import requests

from bk_pipeline.sandbox.listing import ListingFilters


def test_concurrent_batches_are_all_counted_once(client, event):
    def send(number):
        events = [event(10 * number + one) for one in range(10)]
        headers = {
            "X-Honeycomb-Team": client.sandbox.honeycomb_key,
            "Content-Type": "application/json",
        }
        url = client.url + "/1/batch/ci"
        response = requests.post(url, data=json.dumps(events), headers=headers, timeout=20)
        return response.json()

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(send, range(40)))
    assert all(response == [{"status": 202}] * 10 for response in responses)
    honeycomb = client.sandbox.honeycomb
    assert (honeycomb.event_count, honeycomb.duplicate_count) == (400, 0)
    assert honeycomb.request_count == 40


def test_world_can_be_read_while_builds_are_added(start_sandbox):
    client = start_sandbox(limits=False)
    world = client.sandbox.world

    def read(_):
        return len(list(world.find(ListingFilters(), world.now_ms())))

    def add(_):
        return requests.post(client.url + "/_sandbox/builds", timeout=20).json()["number"]

    with ThreadPoolExecutor(8) as pool:
        counts = pool.map(read, range(40))
        numbers = list(pool.map(add, range(20)))
        assert sorted(numbers) == list(range(1, 21))
        assert min(counts) > 100
    assert len(client.builds("/v2/organizations/acme/pipelines/playground/builds")) == 20
