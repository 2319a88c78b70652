"""Honeycomb's API for boards and what they are made of: list, create, update, delete.

Items are objects as the API has them, each with an `id`. Nothing is paged. Source: Honeycomb's API
description, "Boards", "Columns", "Calculated Fields", "Queries", "Query Annotations", "Triggers",
"SLOs" and "Datasets".
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from bk_pipeline.errors import AccessDenied, NotFound, RequestRefused
from bk_pipeline.honeycomb import account
from bk_pipeline.honeycomb.management import ManagementClient, Purpose

Item = dict[str, Any]
CONFLICT = 409


class Kind(Enum):
    """A kind of items: its name in output, path in the API, and the name of its items' name."""

    DATASET = ("dataset", "/1/datasets", "slug")
    COLUMN = ("column", "/1/columns", "key_name")
    FIELD = ("calculated field", "/1/derived_columns", "alias")
    QUERY = ("query", "/1/queries", "id")
    ANNOTATION = ("query", "/1/query_annotations", "name")
    SLO = ("SLO", "/1/slos", "name")
    TRIGGER = ("trigger", "/1/triggers", "name")
    BOARD = ("board", "/1/boards", "name")

    def __init__(self, label: str, api: str, key: str) -> None:
        self.label, self.api, self.key = label, api, key

    def scope(self, dataset: str) -> str:
        """The dataset in the path; boards and datasets have none."""
        return "" if self in {Kind.BOARD, Kind.DATASET} else dataset


class ResourceClient(ManagementClient):
    """A client for boards, queries, columns, calculated fields, triggers and SLOs."""

    purpose = Purpose(
        subject="Boards need",
        permissions=(account.BOARDS, account.COLUMNS),
        action="manage boards and columns",
        progress="what is done is found",
        missing_dataset="Run bk-pipeline honeycomb apply again, which creates it.",
        refused="check what Honeycomb says about it, and the limits of your plan",
    )

    def require(self, *permissions: str) -> None:
        """Check that the key has permissions.

        Raises:
            AccessDenied: It lacks some, or is an ingest key. The message names them.
        """
        missing = [name for name in permissions if name not in self.account.permissions]
        if missing:
            needed = self.purpose._replace(permissions=tuple(missing))
            plural = "s" if len(missing) > 1 else ""
            raise AccessDenied(
                f"The key in HONEYCOMB_CONFIGURATION_KEY lacks the permission{plural} "
                f"{' and '.join(missing)}. {needed.key}"
            )

    def list_items(self, kind: Kind, dataset: str) -> list[Item]:
        """Return all items of a kind, by anyone.

        Raises:
            NotFound: The dataset does not exist.
        """
        # By default those that were made on a board are left out.
        query = "?include_board_annotations=true" if kind is Kind.ANNOTATION else ""
        return self._call("GET", kind.api, kind.scope(dataset), answer=list[Item], query=query)

    def query(self, dataset: str, query_id: str) -> Item:
        """Return a query; empty if it is in another dataset, or gone."""
        try:
            return self._call("GET", Kind.QUERY.api, dataset, query_id, answer=Item)
        except (NotFound, RequestRefused):
            return {}

    def create(self, kind: Kind, dataset: str, body: Item) -> Item:
        """Create an item and return it.

        If a response is lost, or the item exists, an item of the same name and description is
        taken for it. Queries cannot be listed: one may be left over, which no page shows.
        """
        identity = (kind.key, "description") if kind is not Kind.COLUMN else (kind.key,)

        def find() -> Item | None:
            if kind is Kind.QUERY:
                return None
            listed = self._once("GET", kind.api, kind.scope(dataset), answer=list[Item])
            same = (one for one in listed if all(one.get(k) == body.get(k) for k in identity))
            return next(same, None)

        scope = kind.scope(dataset)
        try:
            return self._create(kind.api, scope, body=body, answer=Item, find=find)
        except RequestRefused as exc:
            found = find() if exc.status == CONFLICT else None
            if found is None:
                raise
            return found

    def update(self, kind: Kind, dataset: str, item_id: str, body: Item) -> None:
        """Replace all of an item by `body`.

        Raises:
            NotFound: It is gone.
        """
        self._call("PUT", kind.api, kind.scope(dataset), item_id, body=body, answer=msgspec.Raw)

    def delete(self, kind: Kind, dataset: str, item_id: str) -> bool:
        """Delete an item; return False if it does not exist.

        Raises:
            RequestRefused: Something else uses it (409).
        """
        return self._exists("DELETE", kind.api, kind.scope(dataset), item_id, answer=msgspec.Raw)
