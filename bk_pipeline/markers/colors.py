"""The colours of markers, by type: what the rules file says is what Honeycomb shall have."""

from __future__ import annotations

from collections.abc import Mapping

from bk_pipeline.errors import RequestRefused
from bk_pipeline.markers.client import Color, MarkerClient


def unlike(dataset: str, colors: Mapping[str, str], *, client: MarkerClient) -> dict[str, Color]:
    """What is to be set: each type whose colour in `dataset` is another one, or none.

    A type that has none yet has an empty `id`.
    """
    present = {one.type: one for one in client.colors(dataset)} if colors else {}
    return {
        kind: Color(present[kind].id if kind in present else "", kind, color)
        for kind, color in colors.items()
        if kind not in present or present[kind].color.lower() != color
    }


def paint(dataset: str, colors: Mapping[str, str], *, client: MarkerClient) -> int:
    """Give the types in `dataset` their colours; how many had another one or none.

    Types that `colors` does not name keep theirs. Two runs may do this at once: whoever comes
    second is refused, and content if the colour is there.
    """
    todo = unlike(dataset, colors, client=client)
    for kind, setting in todo.items():
        try:
            client.set_color(dataset, setting)
        except RequestRefused:
            if unlike(dataset, {kind: setting.color}, client=client):
                raise
    return len(todo)
