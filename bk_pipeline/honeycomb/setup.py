"""Compare a design with what Honeycomb has, and make it so.

`plan` finds the steps, `apply` takes them in an order in which each has what it needs, `prune` deletes
what we made and the design does not have. Each step by itself leaves everything usable, and an item
that is made is found the next time: if `apply` stops in the middle, the next one does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bk_pipeline.errors import (
    AccessDenied,
    FatalError,
    NotFound,
    RequestRefused,
    TokenRefused,
)
from bk_pipeline.honeycomb import account, queries
from bk_pipeline.honeycomb.board import board_body, board_differences
from bk_pipeline.honeycomb.comparing import (
    State,
    annotations_of,
    differences,
    made_queries,
    text_of,
)
from bk_pipeline.honeycomb.design import LONGEST_COLUMN, TAG, Design, tagged
from bk_pipeline.honeycomb.resources import CONFLICT, Item, Kind, ResourceClient

# What teams set for themselves in Honeycomb, and we leave as it is.
KEPT_OF_TRIGGERS = (
    *("recipients", "disabled", "alert_type", "tags"),
    *("evaluation_schedule_type", "evaluation_schedule", "baseline_details"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One change: an item to create, to replace, or to delete.

    Attributes:
        action: `create`, `change` or `delete`.
        kind: The kind of item.
        name: Its name.
        detail: What changes.
        body: What is sent; of a query, its annotation. That of the board is made last.
        item_id: The item's id, if it exists.
        query: The query to create before its annotation.
    """

    action: str
    kind: Kind
    name: str
    detail: str = ""
    body: Item = field(default_factory=dict, repr=False)
    item_id: str = ""
    query: Item | None = field(default=None, repr=False)


@dataclass(slots=True)
class Plan:
    """What is to do.

    Attributes:
        steps: The steps of `apply`, in order.
        obsolete: What `prune` deletes, in order.
        unchanged: The number of items that are as they should be.
        board_url: The board's page, if it exists.
    """

    steps: list[Step] = field(default_factory=list)
    obsolete: list[Step] = field(default_factory=list)
    unchanged: int = 0
    board_url: str = ""


def read(client: ResourceClient, wanted: Design) -> State:
    """Ask Honeycomb what there is.

    Raises:
        AccessDenied: The key lacks a permission that the design needs.
        PipelineError: Honeycomb could not be asked.
    """
    client.require(*permissions(wanted))
    boards = client.list_items(Kind.BOARD, wanted.slug)
    state = State(boards=[one for one in boards if _is_made(one, wanted, wanted.board_name)])
    try:
        columns = client.list_items(Kind.COLUMN, wanted.slug)
    except NotFound:
        client.require(account.DATASETS)
        return state
    state.has_dataset = True
    state.columns = {text_of(one, "key_name"): one for one in columns}
    fields = client.list_items(Kind.FIELD, wanted.slug)
    state.fields = {text_of(one, "alias"): one for one in fields}
    # A copy of our board has copies of its queries' names, which are not ours.
    copied = {id_ for one in boards if one not in state.boards for id_ in annotations_of(one)}
    state.annotations = [
        one
        for one in client.list_items(Kind.ANNOTATION, wanted.slug)
        if f"{wanted.tag[:-1]}#" in text_of(one, "description") and one["id"] not in copied
    ]
    names = {one.name for one in queries.TRIGGERS}
    state.triggers = _alerts(client, wanted, Kind.TRIGGER, names, asked=bool(wanted.triggers))
    state.slos = _alerts(client, wanted, Kind.SLO, {queries.SLO.name}, asked=wanted.slo is not None)
    return state


def permissions(wanted: Design) -> list[str]:
    """Return the permissions that the design needs, if its dataset exists."""
    return [
        *(account.BOARDS, account.COLUMNS),
        *([account.TRIGGERS] if wanted.triggers else []),
        *([account.SLOS] if wanted.slo else []),
    ]


def _alerts(
    client: ResourceClient, wanted: Design, kind: Kind, names: set[str], *, asked: bool
) -> list[Item]:
    """Return our triggers or SLOs. Unless they are asked for, the key need not be able to."""
    try:
        listed = client.list_items(kind, wanted.slug) if asked or _may_manage(client, kind) else []
    except (AccessDenied, NotFound, TokenRefused):
        if asked:
            raise
        return []
    found = [one for one in listed if _is_made(one, wanted, *names)]
    for one in found:
        if "query" not in one and "query_id" in one:
            one["query"] = client.query(wanted.slug, one["query_id"])
    return found


def _may_manage(client: ResourceClient, kind: Kind) -> bool:
    permission = account.TRIGGERS if kind is Kind.TRIGGER else account.SLOS
    return permission in client.account.permissions


def board_url(client: ResourceClient, wanted: Design) -> str | None:
    """Return the page of the board that `apply` made, if there is one.

    Raises:
        PipelineError: Honeycomb could not be asked, or the key may not list boards.
    """
    boards = client.list_items(Kind.BOARD, wanted.slug)
    made = (one for one in boards if _is_made(one, wanted, wanted.board_name))
    return _url(next(made, None)) or None


def plan(state: State, wanted: Design, *, query_of: Callable[[str], Item] | None = None) -> Plan:
    """Compare the design with what there is.

    Args:
        state: What Honeycomb has.
        wanted: The design.
        query_of: Returns a query by its id, to say what was changed in it.

    Raises:
        FatalError: A calculated field of another meaning has a name that we need.
    """
    found = Plan()
    if not state.has_dataset:
        found.steps.append(Step("create", Kind.DATASET, wanted.slug, body={"name": wanted.dataset}))
    for steps in (_columns, _fields, _annotations, _slo, _triggers):
        for step in steps(state, wanted):
            _note(found, step)
    _note(found, _board_step(state, wanted, query_of))
    found.steps += _replaced_annotations(state, wanted)
    found.obsolete = list(_obsolete(state, wanted))
    found.board_url = _url(state.board)
    return found


def apply(
    planned: Plan,
    state: State,
    wanted: Design,
    *,
    client: ResourceClient,
    on_step: Callable[[Step], None],
) -> str:
    """Take the steps of a plan, and return the URL of the board.

    Raises:
        PipelineError: A step failed. The next `plan` has it and those after it.
    """
    url = planned.board_url
    for step in planned.steps:
        if step.action == "delete":
            client.delete(step.kind, wanted.slug, step.item_id)
        else:
            body = step.body if step.kind is not Kind.BOARD else board_body(wanted, state)
            if step.action == "change":
                client.update(step.kind, wanted.slug, step.item_id, body)
            else:
                made = _create(step, body, state, wanted, client)
                url = url or _url(made)
        on_step(step)
    return url


def _create(step: Step, body: Item, state: State, wanted: Design, client: ResourceClient) -> Item:
    """Create an item, and note in `state` what the board refers to."""
    if step.query is not None:
        body |= {"query_id": client.create(Kind.QUERY, wanted.slug, step.query)["id"]}
    made = body | client.create(step.kind, wanted.slug, body)
    if step.kind is Kind.ANNOTATION:
        state.annotations.append(made)
    elif step.kind is Kind.SLO:
        state.slos.append(made)
    return made


def everything(state: State) -> list[Step]:
    """Return the deletion of all that we made, in order. Columns and the dataset hold data."""
    steps = [_delete(Kind.BOARD, one) for one in state.boards]
    steps += [_delete(Kind.TRIGGER, one) for one in state.triggers]
    steps += [_delete(Kind.SLO, one) for one in state.slos]
    steps += [_delete(Kind.ANNOTATION, one) for one in state.annotations]
    return steps + [_delete(Kind.FIELD, one) for one in state.fields.values() if _is_ours(one)]


def prune(steps: list[Step], wanted: Design, *, client: ResourceClient) -> list[Step]:
    """Delete items, and return those that are left because something else uses them."""
    used = []
    for step in steps:
        try:
            client.delete(step.kind, wanted.slug, step.item_id)
        except RequestRefused as exc:
            if exc.status != CONFLICT:
                raise
            used.append(step)
    return used


def _note(found: Plan, step: Step | None) -> None:
    if step is None:
        found.unchanged += 1
    else:
        found.steps.append(step)


def _columns(state: State, wanted: Design) -> Iterator[Step | None]:
    """Create the columns that queries need; describe those that exist, unless others have."""
    needed = set(wanted.needed)
    for name in sorted(needed | state.columns.keys()):
        present, column = state.columns.get(name), wanted.column(name)
        if column is None:
            continue
        description = tagged(column.description, TAG, LONGEST_COLUMN)
        if present is None:
            new = {"key_name": name, "type": column.type, "description": description}
            yield Step("create", Kind.COLUMN, name, column.type, new)
        elif not text_of(present, "description") or _is_ours(present):
            body = {"type": column.type or present.get("type"), "description": description}
            kept = {"hidden": bool(present.get("hidden"))}
            yield _changed(Kind.COLUMN, name, present, body, kept)


def _fields(state: State, wanted: Design) -> Iterator[Step | None]:
    for one in wanted.fields:
        description = tagged(one.description, TAG, LONGEST_COLUMN)
        body = {"alias": one.alias, "expression": one.formula, "description": description}
        present = state.fields.get(one.alias)
        if present is None:
            yield Step("create", Kind.FIELD, one.alias, one.formula, body)
        elif _is_ours(present):
            yield _changed(Kind.FIELD, one.alias, present, body)
        elif text_of(present, "expression").split() != one.formula.split():
            raise FatalError(
                f"The dataset {wanted.slug} has a calculated field {one.alias} that bk-pipeline did "
                "not make, with another formula. Rename it in Honeycomb, under the dataset's "
                "settings > Schema; nothing was changed."
            )


def _annotations(state: State, wanted: Design) -> Iterator[Step | None]:
    """Create queries with their annotations; a query with our tag is as it was made."""
    made = made_queries(state, wanted)
    for query in wanted.queries:
        tag = wanted.query_tag(query)
        body = {"name": query.name, "description": tagged(query.description, tag)}
        one = made.get(tag)
        if one is None:
            spec = wanted.definition(query)
            yield Step("create", Kind.ANNOTATION, query.name, body=body, query=spec)
        else:
            kept = {"query_id": one.get("query_id")}
            yield _changed(Kind.ANNOTATION, query.name, one, body, kept)


def _replaced_annotations(state: State, wanted: Design) -> list[Step]:
    """Return the deletion of names of queries that the board does not have."""
    used = {one["id"] for one in made_queries(state, wanted).values()}
    return [
        _delete(Kind.ANNOTATION, one, "unused")
        for one in state.annotations
        if one["id"] not in used
    ]


def _triggers(state: State, wanted: Design) -> Iterator[Step | None]:
    present = {text_of(one, "name"): one for one in reversed(state.triggers)}
    for one in wanted.triggers:
        body: Item = {
            "name": one.name,
            "description": tagged(one.description, wanted.tag),
            "query": wanted.trigger_query(one),
            "threshold": {"op": one.op, "value": one.value},
            "frequency": one.every_s,
        }
        old = present.get(one.name)
        if old is None:
            yield Step("create", Kind.TRIGGER, one.name, f"{one.op} {one.value:g}", body)
            continue
        # Honeycomb may add to the query, and teams say how often the threshold must be met.
        query = old.get("query") or {}
        now = old | {"query": {name: query.get(name) for name in body["query"]}}
        body["threshold"] = (old.get("threshold") or {}) | body["threshold"]
        kept = {name: old[name] for name in KEPT_OF_TRIGGERS if name in old}
        yield _changed(Kind.TRIGGER, one.name, now, body, kept)


def _slo(state: State, wanted: Design) -> Iterator[Step | None]:
    if (one := wanted.slo) is None:
        return
    body: Item = {
        "name": one.name,
        "description": tagged(one.description, wanted.tag),
        "sli": {"alias": one.sli.alias},
        "target_per_million": one.target_per_million,
        "time_period_days": one.days,
    }
    present = next((old for old in state.slos if old.get("name") == one.name), None)
    if present is None:
        yield Step("create", Kind.SLO, one.name, one.description, body)
    else:
        kept = {"tags": present["tags"]} if "tags" in present else {}
        yield _changed(Kind.SLO, one.name, present, body, kept)


def _obsolete(state: State, wanted: Design) -> Iterator[Step]:
    names = {one.name for one in wanted.triggers}
    needed = {one.alias for one in wanted.fields}
    yield from (_delete(Kind.BOARD, one, "a duplicate") for one in state.boards[1:])
    yield from (_delete(Kind.TRIGGER, one) for one in state.triggers if one["name"] not in names)
    yield from (_delete(Kind.SLO, one) for one in state.slos if wanted.slo is None)
    for alias, one in state.fields.items():
        if _is_ours(one) and alias not in needed:
            yield _delete(Kind.FIELD, one)


def _board_step(
    state: State, wanted: Design, query_of: Callable[[str], Item] | None
) -> Step | None:
    """Return what to do about the board. Panels of queries that do not exist yet are new."""
    present = state.board
    if present is None:
        return Step("create", Kind.BOARD, wanted.board_name, f"{len(wanted.panels)} panels")
    made = made_queries(state, wanted)
    names = [one.name for one in wanted.queries if wanted.query_tag(one) not in made]
    changes = [f"query {name!r} is new" for name in names]
    changes += board_differences(wanted, state, query_of)
    if not changes:
        return None
    return Step("change", Kind.BOARD, wanted.board_name, "; ".join(changes), item_id=present["id"])


def _changed(
    kind: Kind, name: str, present: Item, body: Item, kept: Item | None = None
) -> Step | None:
    """Return the change of an item if it is not as it should be; `kept` stays as it is."""
    changes = list(differences(present, body))
    if not changes:
        return None
    detail = "; ".join(changes)
    return Step("change", kind, name, detail, body | (kept or {}), str(present["id"]))


def _delete(kind: Kind, one: Item, detail: str = "") -> Step:
    return Step("delete", kind, text_of(one, kind.key), detail, item_id=one["id"])


def _is_made(one: Item, wanted: Design, *names: str) -> bool:
    """Return whether an item outside of the dataset has our tag, and still one of our names."""
    return one.get("name") in names and wanted.tag in text_of(one, "description")


def _is_ours(one: Item) -> bool:
    """Return whether a column or calculated field has our tag."""
    return text_of(one, "description").endswith(TAG)


def _url(board: Item | None) -> str:
    links = (board or {}).get("links") or {}
    return str(links.get("board_url") or "")
