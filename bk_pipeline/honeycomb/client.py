"""Honeycomb's markers API: list, create, update, delete; the colours of types.

Source: Honeycomb's API description, "Markers" and "Marker Settings". There is no idempotency
key: after an answer that never came, the list says whether the marker was made.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from bk_pipeline.errors import AccessDenied, NotFound
from bk_pipeline.honeycomb.management import ManagementClient, Purpose
from bk_pipeline.honeycomb.rules import ListedMarker, Marker

MARKERS = "/1/markers"
MARKER_SETTINGS = "/1/marker_settings"


class Color(msgspec.Struct, frozen=True):
    """A marker setting: the colour of a type's markers in a dataset."""

    id: str
    type: str
    color: str


class MarkerClient(ManagementClient):
    """A client for markers and the colours of their types."""

    purpose = Purpose(
        subject="Markers need",
        permissions=("Manage Markers",),
        action="manage markers",
        progress="markers placed so far are found",
        missing_dataset="The first events create it: materialize honeycomb_events first, or name "
        "another dataset, or __all__ for the whole environment, in the rules file.",
        refused="check the rule's type, message and url",
    )

    @property
    def name(self) -> str:
        """`markers:<host>/<team>/<environment>`, the place's id in the ledger. Requested once.

        Raises:
            AccessDenied: The key is an ingest key, or may not manage markers.
        """
        account = self.account
        if not account.may_place_markers:
            raise AccessDenied(
                f"The key in HONEYCOMB_CONFIGURATION_KEY may not manage markers. {self.purpose.key}"
            )
        parts = [part for part in (account.team, account.environment) if part]
        return f"markers:{self._host}/{'/'.join(parts)}"

    def list_markers(self, dataset: str) -> list[ListedMarker]:
        """Return all markers of the dataset, by anyone; none if the dataset does not exist."""
        try:
            return self._call("GET", MARKERS, dataset, answer=list[ListedMarker])
        except NotFound:
            return []

    def create(self, dataset: str, marker: Marker, *, others: Collection[str]) -> tuple[str, bool]:
        """Create a marker, without duplicating it if a response is lost.

        If there is no response, the marker may have been created. Before another attempt, the list
        is therefore searched for it.

        Args:
            dataset: The dataset of the marker.
            marker: The marker.
            others: The ids of markers that existed before.

        Returns:
            The id of the marker, and whether it was found in the list.
        """
        found = False

        def find() -> ListedMarker | None:
            nonlocal found
            listed = self._once("GET", MARKERS, dataset, answer=list[ListedMarker])
            mine = (one for one in listed if one.id not in others and one.equals(marker))
            one = next(mine, None)
            found = one is not None
            return one

        created = self._create(MARKERS, dataset, body=marker, answer=ListedMarker, find=find)
        return created.id, found

    def update(self, dataset: str, marker_id: str, marker: Marker) -> bool:
        """Replace all of a marker by `marker`; return False if it does not exist."""
        return self._exists("PUT", MARKERS, dataset, marker_id, body=marker, answer=ListedMarker)

    def delete(self, dataset: str, marker_id: str) -> bool:
        """Delete a marker; return False if it does not exist."""
        return self._exists("DELETE", MARKERS, dataset, marker_id, answer=msgspec.Raw)

    def colors(self, dataset: str) -> list[Color]:
        """Return the colours of types in the dataset."""
        return self._call("GET", MARKER_SETTINGS, dataset, answer=list[Color])

    def set_color(self, dataset: str, setting: Color) -> None:
        """Set a type's colour: change the setting with `id`, or create one if that is empty."""
        body = {"type": setting.type, "color": setting.color}
        method = "PUT" if setting.id else "POST"
        item = [setting.id] if setting.id else []
        self._call(method, MARKER_SETTINGS, dataset, *item, body=body, answer=msgspec.Raw)
