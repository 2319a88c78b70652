"""`bk-pipeline honeycomb`: plan, apply and prune the board and what it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from bk_pipeline.app import App
from bk_pipeline.cli.output import echo, line_of, sentence, tell
from bk_pipeline.errors import NotFound
from bk_pipeline.honeycomb import setup
from bk_pipeline.honeycomb.client import MarkerClient
from bk_pipeline.honeycomb.comparing import State
from bk_pipeline.honeycomb.design import Design
from bk_pipeline.honeycomb.placing import color_changes, set_colors
from bk_pipeline.honeycomb.resources import ResourceClient
from bk_pipeline.honeycomb.rules import Rules
from bk_pipeline.honeycomb.setup import Plan, Step
from bk_pipeline.http.retry import report_pauses_to
from bk_pipeline.lines import Lines
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted

ACTIONS = {"create": "to create", "change": "to change", "delete": "to delete"}
DONE = {"create": "created", "change": "changed", "delete": "deleted"}


def plan() -> None:
    """Show what apply would create and change, and prune delete. Changes nothing."""
    total: Counter[str] = Counter()
    with _opened() as (app, client, wanted):
        _, planned = _planned(client, wanted)
        for step in planned.steps:
            _show(step)
            total[ACTIONS[step.action]] += 1
        for step in planned.obsolete:
            _show(step, "prune")
            total["to delete (prune)"] += 1
        with _colored(app) as colored:
            for dataset, rules, markers in colored:
                for one in wrong_colors(dataset, rules, markers):
                    line_of(("color", "marker type", one, dataset))
                    total["to color"] += 1
        _tell_left_out(wanted)
    total["as they should be"] = planned.unchanged
    echo(sentence(total))


def apply() -> None:
    """Create and change what the plan says, and set the colors of marker types."""
    total: Counter[str] = Counter()

    def done(step: Step) -> None:
        _show(step)
        total[DONE[step.action]] += 1

    with _opened() as (app, client, wanted):
        state, planned = _planned(client, wanted)
        url = setup.apply(planned, state, wanted, client=client, on_step=done)
        with _colored(app) as colored:
            total["colors set"] = sum(paint(*one) for one in colored)
        _tell_left_out(wanted)
    total["unchanged"] = planned.unchanged
    echo(sentence(total))
    if url:
        echo(f"Board: {url}")


def prune(everything: bool, yes: bool) -> None:
    """Delete what we made: all of it, or what the settings do not require any more."""
    with _opened() as (_, client, wanted):
        state, planned = _planned(client, wanted)
        doomed = setup.everything(state) if everything else planned.obsolete
        if not doomed:
            more = "" if everything else " To delete all that apply made: prune --all."
            echo(f"Nothing to delete.{more}")
            return
        for step in doomed:
            _show(step)
        if not yes:
            which = "this" if len(doomed) == 1 else "these"
            click.confirm(f"Delete {which} {counted(len(doomed), 'item')}?", abort=True)
        used = setup.prune(doomed, wanted, client=client)
        for step in used:
            tell(f"{step.kind.label} {step.name} stays: something else uses it.")
    echo(f"{counted(len(doomed) - len(used), 'item')} deleted.")


def wrong_colors(dataset: str, rules: Rules, client: MarkerClient) -> list[str]:
    """Return the types whose color would be set; empty if the dataset does not exist yet."""
    try:
        found = color_changes(dataset, rules.colors_in(dataset), client=client)
    except NotFound:
        return []
    return [f"{one.type} {one.color}" for one in found.values()]


def paint(dataset: str, rules: Rules, client: MarkerClient) -> int:
    """Set the colors of types, and return how many were set."""
    try:
        return set_colors(dataset, rules.colors_in(dataset), client=client)
    except NotFound:
        return 0


@contextmanager
def _opened() -> Iterator[tuple[App, ResourceClient, Design]]:
    """Open what the commands use, according to the settings."""
    app = App(Settings.load())
    wanted = app.honeycomb_design()
    with (
        closing(Lines(tell)) as lines,
        report_pauses_to(lines.wait),
        app.resource_client(lines.wait) as client,
    ):
        yield app, client, wanted


@contextmanager
def _colored(app: App) -> Iterator[list[tuple[str, Rules, MarkerClient]]]:
    """Open a client for the colors of marker types, for each dataset of the marker rules."""
    if app.settings.markers is None:
        yield []
        return
    rules = app.marker_rules()
    with app.marker_client() as client:
        yield [(dataset, rules, client) for dataset in sorted(rules.datasets)]


def _planned(client: ResourceClient, wanted: Design) -> tuple[State, Plan]:
    state = setup.read(client, wanted)
    return state, setup.plan(state, wanted, query_of=lambda id_: client.query(wanted.slug, id_))


def _show(step: Step, action: str = "") -> None:
    fields = (action or step.action, step.kind.label, step.name, step.detail)
    line_of(one for one in fields if one)


def _tell_left_out(wanted: Design) -> None:
    for name, column in wanted.left_out.items():
        tell(f"{name!r} is left out: with these settings, {column} is not sent, or hashed.")
