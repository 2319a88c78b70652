"""Applies the privacy settings: drops or hashes attributes by name, masks secrets in values.

It works on the finished table, column by column, and processes each distinct value once. What
is removed here is neither in the span table nor in anything derived from it: destinations,
markers, statistics, reports, previews, `bk-pipeline trace`. The raw store still has it.

A value is matched by its attribute's name and by those of the attributes that it contains
(`Field.holds`, `may_be`, `entries`). Members of a map, of a list of `key=value` or of a JSON
text have names too: their dotted paths. A setting applies if it matches any of these names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.errors import UNNAMED, RecordError
from bk_pipeline.spans.fields import FIELDS, NUMERIC, Field, FieldType
from bk_pipeline.spans.ids import trace_id
from bk_pipeline.spans.secrets import MASK, SUSPICIOUS, is_secret, mask_secrets
from bk_pipeline.text import compact_json, matches

__all__ = ["MASK", "Privacy", "hashed"]

Change = Callable[[str, bool], str | None]
# Array identity -> for each of its values, whether it may contain a secret.
Suspects = dict[tuple[int, int, int], list[bool | None]]
# Attributes whose values links are built from. `LINKED_JOBS` are jobs of the same trace.
LINKED_BUILDS = (
    "buildkite.build.triggered_from.build_id",
    "buildkite.build.rebuilt_from.id",
    "buildkite.job.triggered_build.id",
)
# The labels in which `{{matrix}}` is replaced by values of the job's matrix.
MATRIX = "buildkite.job.matrix"
MATRIX_LABELS = ("buildkite.job.label", "buildkite.step.label", "cicd.pipeline.task.name")
LINKED_JOBS = ("buildkite.job.retry_source.job_id", "buildkite.job.retried_in_job_id")


class Treatment(Enum):
    """How a value is treated, before anything inside it is masked."""

    KEPT = "kept"
    HASHED = "hashed"
    DROPPED = "dropped"


class PrivacySettings(Protocol):
    """The settings that `Privacy` is created from."""

    @property
    def spans_drop(self) -> tuple[str, ...]: ...
    @property
    def spans_hash(self) -> tuple[str, ...]: ...
    @property
    def spans_mask(self) -> str: ...
    @property
    def spans_mask_secrets(self) -> bool: ...


class _Dropped:
    """Marks a dropped member, because None is a JSON value."""


@dataclass(frozen=True)
class Privacy:
    """What to drop, hash and mask.

    Attributes:
        drop: Names or globs of attributes to drop.
        hash: Names or globs of attributes whose strings are replaced by 16 hex digits of their
            SHA-256: they can be grouped by, but not read. Numbers and booleans are dropped,
            because their columns cannot hold text.
        mask: A regular expression; its matches inside strings become `[masked]`.
        mask_secrets: Whether text that looks like a secret (`secrets.py`) is masked too.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    mask: str = ""
    mask_secrets: bool = True

    @classmethod
    def from_settings(cls, settings: PrivacySettings) -> Privacy:
        """Return the privacy rules of the settings."""
        return cls(
            settings.spans_drop,
            settings.spans_hash,
            settings.spans_mask,
            settings.spans_mask_secrets,
        )

    def apply(self, table: pa.Table) -> pa.Table:
        """Return the table with all rules applied; same schema, same rows."""
        changed = table
        suspects = self._suspects(table)
        for at, name in enumerate(table.column_names):
            field = _BY_NAME.get(name)
            if field is None:
                continue
            column = self._column(field, table[name], suspects)
            column = self._treat_equal_values(field, column, table)
            if column is not table[name]:
                changed = changed.set_column(at, table.schema.field(at), column)
        changed = self._without_hidden_matrix_values(changed, table)
        return self._without_hidden_links(changed, table)

    def shown(self, name: str, value: str | int | None) -> str | None:
        """Return one value of the attribute `name` with all rules applied; None if dropped."""
        field = _BY_NAME[name]
        treatment = self._treatment(_names(field))
        if (
            value is None
            or treatment is Treatment.DROPPED
            or (treatment is Treatment.HASHED and field.type in NUMERIC)
        ):
            return None
        return (
            hashed(str(value))
            if treatment is Treatment.HASHED
            else self._masked_text(str(value), self.mask_secrets)
        )

    def describe(self, error: RecordError) -> str:
        """Return the message of `error` with its record id, if the rules allow to show the id."""
        return f"{self.shown('buildkite.build.id', error.record_id) or UNNAMED}: {error.reason}"

    def _treatment(self, names: tuple[str, ...]) -> Treatment:
        return _treatment(names, self.drop, self.hash)

    def _suspects(self, table: pa.Table) -> Suspects:
        """Find the values that may contain a secret, with one search of all distinct values.

        Compiling the expression takes longer than searching a column, and columns that are
        copies of each other share a dictionary.
        """
        if not self.mask_secrets:
            return {}
        fields = [_BY_NAME[name] for name in table.column_names if name in _BY_NAME]
        found = {
            _identity(values): values
            for field in fields
            if field.type not in NUMERIC and not field.distinct
            for values in map(_distinct_values, table[field.name].chunks)
            if len(values)
        }
        if not found:
            return {}
        everything = pa.concat_arrays(found.values())  # one call compiles the expression once
        matched = pc.match_substring_regex(everything, SUSPICIOUS)
        suspects, start = {}, 0
        for identity, values in found.items():
            part = matched.slice(start, len(values))
            start += len(values)
            if pc.any(part).as_py():
                suspects[identity] = part.to_pylist()
        return suspects

    def _column(self, field: Field, column: pa.ChunkedArray, suspects: Suspects) -> pa.ChunkedArray:
        treatment = self._treatment(_names(field))
        if treatment is Treatment.DROPPED or (
            treatment is Treatment.HASHED and field.type in NUMERIC
        ):
            return pa.chunked_array([pa.nulls(len(column), column.type)], column.type)
        if field.type in NUMERIC:
            return column
        affects_all = (
            treatment is Treatment.HASHED or bool(self.mask) or self._may_match_members(field)
        )
        change = self._change_for(field, treatment)
        chunks = [
            one
            if not affects_all and _identity(_distinct_values(one)) not in suspects
            else self._changed(one, change, suspects, every=affects_all)
            for one in column.chunks
        ]
        if all(new is old for new, old in zip(chunks, column.chunks, strict=True)):
            return column
        return pa.chunked_array(chunks, column.type)

    def _treat_equal_values(
        self, field: Field, column: pa.ChunkedArray, table: pa.Table
    ) -> pa.ChunkedArray:
        """Return `column` with values equal to those of a `may_be` attribute treated like it."""
        for other in field.may_be:
            treatment = self._treatment(_names(_BY_NAME[other]))
            if treatment is Treatment.KEPT:
                continue
            values = table[field.name].cast(pa.string())
            same = pc.fill_null(pc.equal(values, table[other].cast(pa.string())), False)  # noqa: FBT003
            replacement = pa.nulls(len(values), pa.string())
            if treatment is Treatment.HASHED:
                replacement = self._changed(values.combine_chunks(), _hashed_text, {}, every=True)
            column = pc.if_else(same, replacement, column.cast(pa.string()))
            if pa.types.is_dictionary(table[field.name].type):
                column = column.dictionary_encode()
        return column

    def _changed(
        self, array: pa.Array, change: Change, suspects: Suspects, *, every: bool
    ) -> pa.Array:
        """Return `array` with `change` applied to every value, or to those that are suspects."""
        values = _distinct_values(array)
        old = values.to_pylist()
        suspect = suspects.get(_identity(values)) or [False] * len(values)
        new = [
            change(one, bool(masks)) if one is not None and (every or masks) else one
            for one, masks in zip(old, suspect, strict=True)
        ]
        if new == old:
            return array
        if values is array:
            return pa.array(new, array.type)
        # Encoded again, because values may have become equal or null.
        return pa.array(new, pa.string()).take(array.indices).dictionary_encode()

    def _change_for(self, field: Field, treatment: Treatment) -> Change:
        """Return the function that changes the texts of a column that is not dropped."""
        if field.type is FieldType.STRING:
            return _hashed_text if treatment is Treatment.HASHED else self._masked_text
        if treatment is Treatment.HASHED and field.type is not FieldType.MAP:
            return _hashed_json
        return lambda text, masks: self._json(field, text, masks=masks)

    def _may_match_members(self, field: Field) -> bool:
        """Return whether a rule may match a member inside the field's values."""
        if field.type not in {FieldType.MAP, FieldType.JSON, FieldType.STRINGS}:
            return False
        prefixes = [f"{_stem(field)}.", *(one.format(key="") for one in field.entries)]
        globs = (*self.drop, *self.hash)
        return any(_may_match_prefix(glob, prefix) for glob in globs for prefix in prefixes)

    def _json(self, field: Field, text: str, *, masks: bool) -> str | None:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            # Truncated JSON: its members can no longer be found.
            return None if self._may_match_members(field) else self._masked_text(text, masks)
        result: Any
        if field.type is FieldType.STRINGS:
            result = self._list(field, value, masks=masks)
        elif field.type is FieldType.MAP:
            entries = (*field.entries, *_names(field))
            result = self._members(_stem(field), value, masks=masks, entries=entries)
        else:
            name = _stem(field)
            if isinstance(value, str):  # old payloads have a string in place of a person
                name += ".email" if "@" in value else ".name"
            result = self._member((name,), "", value, masks=masks)
        return None if result is _Dropped or result in ({}, []) else compact_json(result)

    def _list(self, field: Field, values: Iterable[str], *, masks: bool) -> list[str]:
        """Return a list of texts, most of the form `key=value`, with the rules applied."""
        kept = []
        for one in values:
            key, equals, value = one.partition("=")
            if not equals:
                kept.append(self._masked_text(one, masks))
                continue
            names = tuple(name.format(key=key) for name in field.entries)
            result = self._member(names, key, value, masks=masks)
            if result is not _Dropped:
                kept.append(f"{self._masked_text(key, masks)}={result}")
        return kept

    def _member(self, names: tuple[str, ...], key: str, value: Any, *, masks: bool) -> Any:
        """Return the value of the member `key` with the rules applied; `_Dropped` if dropped."""
        treatment = self._treatment(names)
        number = isinstance(value, bool | int | float)
        if treatment is Treatment.DROPPED or (treatment is Treatment.HASHED and number):
            return _Dropped
        if treatment is Treatment.HASHED and value is not None:
            return hashed(value if isinstance(value, str) else compact_json(value))
        match value:
            case dict():
                return self._members(names[0], value, masks=masks)
            case list():
                result = [self._member(names, key, one, masks=masks) for one in value]
                return [one for one in result if one is not _Dropped]
            case str():
                return self._text(names, key, value, masks=masks)
        return value

    def _text(self, names: tuple[str, ...], key: str, text: str, *, masks: bool) -> Any:
        """Return a member's text with the rules applied, also inside it if it is JSON."""
        if masks and is_secret(key, text):
            return MASK
        value = _embedded(text)
        result = value if value is None else self._member(names, key, value, masks=masks)
        if result is _Dropped:
            return _Dropped
        return self._masked_text(text if result == value else compact_json(result), masks)

    def _members(
        self, path: str, values: dict[str, Any], *, masks: bool, entries: Sequence[str] = ()
    ) -> Any:
        kept = {}
        for key, one in values.items():
            names = (f"{path}.{key}", *(name.format(key=key) for name in entries))
            if key in {"graphql_id", "uuid"}:  # the first contains the id in base64
                names += (f"{path}.id", f"{path}.uuid")
            result = self._member(names, key, one, masks=masks)
            if result is not _Dropped:
                kept[self._masked_text(key, masks)] = result
        return kept if kept or not values else _Dropped

    def _masked_text(self, text: str, masks: bool) -> str:  # noqa: FBT001  # a Change
        """Return `text` with `mask` applied, and with secrets masked if `masks` is true."""
        if masks:
            text = mask_secrets(text)
        return re.sub(self.mask, MASK, text) if self.mask else text

    def _without_hidden_matrix_values(self, changed: pa.Table, table: pa.Table) -> pa.Table:
        """Return `changed` with hidden matrix values removed from labels too.

        Labels contain the values in place of `{{matrix}}`, where only the job's matrix tells
        which words they are. A step may have the label of one of its jobs.
        """
        if MATRIX not in table.column_names or changed[MATRIX].equals(table[MATRIX]):
            return changed
        labels = [
            one
            for one in MATRIX_LABELS
            if one in table.column_names
            and self._treatment(_names(_BY_NAME[one])) is Treatment.KEPT
        ]
        jobs = changed.select(["trace_id", *labels]).append_column(MATRIX, table[MATRIX])
        replacement: dict[tuple[str, str | None], str] = {}
        for job in jobs.filter(pc.is_valid(table[MATRIX])).to_pylist():
            hidden = self._hidden_matrix_values(job[MATRIX])
            for text in {job[name] for name in labels} - {None}:
                replacement[job["trace_id"], text] = _replaced(text, hidden)
        traces = changed["trace_id"].to_pylist()
        for name in labels:
            texts = zip(traces, changed[name].to_pylist(), strict=True)
            column = pa.array([replacement.get(one, one[1]) for one in texts], pa.string())
            at = changed.schema.get_field_index(name)
            field = changed.schema.field(at)
            if pa.types.is_dictionary(field.type):
                column = column.dictionary_encode()
            changed = changed.set_column(at, field, column)
        return changed

    def _hidden_matrix_values(self, text: str) -> dict[str, str] | None:
        """Return the values of a job's matrix that must not be shown, with their replacements.

        None if they are unknown, because the matrix was truncated.
        """
        treatment = self._treatment(_names(_BY_NAME[MATRIX]))
        hidden: dict[str, str] = {}

        def collect(names: tuple[str, ...], key: str, value: Any) -> None:
            shown = value if isinstance(value, str) else compact_json(value)
            result = self._member(names, key, value, masks=self.mask_secrets)
            if treatment is Treatment.DROPPED or result is _Dropped:
                hidden[shown] = MASK
            elif treatment is Treatment.HASHED:
                hidden[shown] = hashed(shown)
            elif result != value:
                hidden[shown] = result if isinstance(result, str) else compact_json(result)
            for each, one in value.items() if isinstance(value, dict) else ():
                collect((f"{names[0]}.{each}",), each, one)
            for one in value if isinstance(value, list) else ():
                collect(names, key, one)

        try:
            collect((MATRIX,), "", msgspec.json.decode(text))
        except msgspec.DecodeError:
            return None
        return hidden

    def _without_hidden_links(self, changed: pa.Table, table: pa.Table) -> pa.Table:
        """Return `changed` without the links that contain dropped or hashed ids."""
        names = [one for one in (*LINKED_BUILDS, *LINKED_JOBS) if one in table.column_names]
        hidden = [name for name in names if self._treatment((name,)) is not Treatment.KEPT]
        if not hidden or "links" not in table.column_names:
            return changed
        builds = [table[name].to_pylist() for name in hidden if name in LINKED_BUILDS]
        traces = {trace_id(one) for column in builds for one in column if one is not None}
        own = table["trace_id"].to_pylist()
        inside = any(name in LINKED_JOBS for name in hidden)
        kept = [
            [
                link
                for link in links or ()
                if link["trace_id"] not in traces and not (inside and link["trace_id"] == trace)
            ]
            for links, trace in zip(table["links"].to_pylist(), own, strict=True)
        ]
        at = table.schema.get_field_index("links")
        return changed.set_column(at, table.schema.field(at), pa.array(kept, table["links"].type))


_BY_NAME = {field.name: field for field in FIELDS}


def _distinct_values(array: pa.Array) -> pa.Array:
    """Return the dictionary of a dictionary-encoded array, or else the array itself."""
    return array.dictionary if pa.types.is_dictionary(array.type) else array


def _identity(values: pa.Array) -> tuple[int, int, int]:
    """Return a key that is equal for arrays that share the same memory."""
    buffer = values.buffers()[2]
    return (buffer.address if buffer else 0, values.offset, len(values))


def _stem(field: Field) -> str:
    """Return the name of a field, without the `.*` of a map."""
    return field.name.removesuffix(".*")


def _names(field: Field) -> tuple[str, ...]:
    return (field.name, _stem(field), *field.holds)


@lru_cache(maxsize=65_536)
def _treatment(names: tuple[str, ...], drop: tuple[str, ...], hash_: tuple[str, ...]) -> Treatment:
    if _match(names, drop):
        return Treatment.DROPPED
    return Treatment.HASHED if _match(names, hash_) else Treatment.KEPT


def _match(names: tuple[str, ...], globs: tuple[str, ...]) -> bool:
    return any(matches(name, globs) for name in names)


def hashed(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of `text`."""
    return sha256(text.encode()).hexdigest()[:16]


def _embedded(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or array that `text` is; None for any other text."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        found: dict[str, Any] | list[Any] = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found


def _replaced(text: str, replacements: dict[str, str] | None) -> str:
    """Return `text` with the keys of `replacements` replaced; the mask if it is None."""
    if replacements is None:
        return MASK
    longest_first = sorted(filter(None, replacements), key=len, reverse=True)
    if not longest_first:
        return text
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(pattern, lambda found: replacements[found[0]], text)


def _hashed_text(text: str, masks: bool) -> str:  # noqa: ARG001, FBT001  # a Change
    return hashed(text)


def _hashed_json(text: str, masks: bool) -> str:  # noqa: ARG001, FBT001  # a Change
    """Hash the elements of a list, or anything else as a whole."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, list):
        return compact_json([hashed(str(one)) for one in value])
    return compact_json(hashed(text))


def _may_match_prefix(glob: str, prefix: str) -> bool:
    """Return whether `glob` can match a name that starts with `prefix`."""
    literal = re.split(r"[*?\[]", glob, maxsplit=1)[0]
    return literal.startswith(prefix) or prefix.startswith(literal)
