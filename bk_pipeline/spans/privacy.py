"""What must not leave: attributes dropped or hashed by name, secrets masked inside values.

Works on the finished table, column by column, and looks at each distinct value once. What
is taken out here is in neither the span table nor anything made of it: destinations,
markers, statistics, reports, previews, `bk-pipeline trace`. The raw store has it still.

A value goes by its own name and by those of the attributes that it shows (`Field.holds`,
`may_be`, `entries`); inside a map, a list of `key=value` or a JSON text each member has a
name too, its path with dots. A setting that matches any of these names applies.
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
from bk_pipeline.spans.fields import FIELDS, Field, FieldType
from bk_pipeline.spans.ids import trace_id
from bk_pipeline.spans.secrets import MASK, SUSPICIOUS, is_secret, mask_secrets
from bk_pipeline.text import compact_json, matches

__all__ = ["MASK", "Privacy", "hashed"]

Change = Callable[[str, bool], str | None]
# By which array, in which of its values something may have to be masked.
Suspects = dict[tuple[int, int, int], list[bool | None]]
NUMERIC = {FieldType.INT, FieldType.BOOL}
# What a link is made of; a link to the attempt that was replaced stays within its trace.
LINKED_BUILDS = (
    "buildkite.build.triggered_from.build_id",
    "buildkite.build.rebuilt_from.id",
    "buildkite.job.triggered_build.id",
)
# Whose values are filled in for `{{matrix}}` in these.
MATRIX = "buildkite.job.matrix"
MATRIX_LABELS = ("buildkite.job.label", "buildkite.step.label", "cicd.pipeline.task.name")
LINKED_JOBS = ("buildkite.job.retry_source.job_id", "buildkite.job.retried_in_job_id")


class Fate(Enum):
    """What becomes of a value, before anything inside it is masked."""

    KEPT = "kept"
    HASHED = "hashed"
    DROPPED = "dropped"


class PrivacySettings(Protocol):
    """The settings that say what must not leave."""

    @property
    def spans_drop(self) -> tuple[str, ...]: ...
    @property
    def spans_hash(self) -> tuple[str, ...]: ...
    @property
    def spans_mask(self) -> str: ...
    @property
    def spans_mask_secrets(self) -> bool: ...


class _Gone:
    """In place of a member that was dropped; None is a value of JSON's."""


@dataclass(frozen=True)
class Privacy:
    """What to take out.

    Attributes:
        drop: Names or globs of attributes that are left out.
        hash: Names or globs of attributes whose strings become 16 hex digits of SHA-256: still
            to be grouped by, no longer to be read. Numbers and truths, which no text can
            stand for, are left out.
        mask: A regular expression; what it matches inside a string becomes `[masked]`.
        mask_secrets: Whether what looks like a secret (`secrets.py`) is masked too.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    mask: str = ""
    mask_secrets: bool = True

    @classmethod
    def from_settings(cls, given: PrivacySettings) -> Privacy:
        """What must not leave, as the settings say."""
        return cls(given.spans_drop, given.spans_hash, given.spans_mask, given.spans_mask_secrets)

    def apply(self, table: pa.Table) -> pa.Table:
        """The table without what must not leave; same schema, same rows."""
        changed = table
        suspects = self._suspects(table)
        for at, name in enumerate(table.column_names):
            field = _BY_NAME.get(name)
            if field is None:
                continue
            column = self._column(field, table[name], suspects)
            column = self._where_same(field, column, table)
            if column is not table[name]:
                changed = changed.set_column(at, table.schema.field(at), column)
        changed = self._without_matrix_values(changed, table)
        return self._without_links(changed, table)

    def shown(self, name: str, value: str | int | None) -> str | None:
        """What may be shown of an attribute where there is no table: None if it is dropped."""
        field = _BY_NAME[name]
        fate = self._fate(_names(field))
        if value is None or fate is Fate.DROPPED or (fate is Fate.HASHED and field.type in NUMERIC):
            return None
        return (
            hashed(str(value))
            if fate is Fate.HASHED
            else self._masked_text(str(value), self.mask_secrets)
        )

    def told(self, error: RecordError) -> str:
        """Why a build cannot be used, with its id if that may be shown."""
        return f"{self.shown('buildkite.build.id', error.record_id) or UNNAMED}: {error.reason}"

    def _fate(self, names: tuple[str, ...]) -> Fate:
        return _fate(names, self.drop, self.hash)

    def _suspects(self, table: pa.Table) -> Suspects:
        """In which values something may have to be masked: all of a table's are asked at once.

        To compile the expression takes longer than to look at a column; and columns that are
        copies of each other have one dictionary.
        """
        if not self.mask_secrets:
            return {}
        fields = [_BY_NAME[name] for name in table.column_names if name in _BY_NAME]
        found = {
            _identity(words): words
            for field in fields
            if field.type not in NUMERIC and not field.distinct
            for words in map(_words, table[field.name].chunks)
            if len(words)
        }
        if not found:
            return {}
        everything = pa.concat_arrays(found.values())  # else it is compiled anew for each
        matched = pc.match_substring_regex(everything, SUSPICIOUS)
        suspects, start = {}, 0
        for identity, words in found.items():
            part = matched.slice(start, len(words))
            start += len(words)
            if pc.any(part).as_py():
                suspects[identity] = part.to_pylist()
        return suspects

    def _column(self, field: Field, column: pa.ChunkedArray, suspects: Suspects) -> pa.ChunkedArray:
        fate = self._fate(_names(field))
        if fate is Fate.DROPPED or (fate is Fate.HASHED and field.type in NUMERIC):
            return pa.chunked_array([pa.nulls(len(column), column.type)], column.type)
        if field.type in NUMERIC:
            return column
        reached = fate is Fate.HASHED or bool(self.mask) or self._reaches_into(field)
        change = self._changes(field, fate)
        chunks = [
            one
            if not reached and _identity(_words(one)) not in suspects
            else self._changed(one, change, suspects, every=reached)
            for one in column.chunks
        ]
        if all(new is old for new, old in zip(chunks, column.chunks, strict=True)):
            return column
        return pa.chunked_array(chunks, column.type)

    def _where_same(
        self, field: Field, column: pa.ChunkedArray, table: pa.Table
    ) -> pa.ChunkedArray:
        """`column`, where it has the value of another attribute treated as that is."""
        for other in field.may_be:
            fate = self._fate(_names(_BY_NAME[other]))
            if fate is Fate.KEPT:
                continue
            values = table[field.name].cast(pa.string())
            same = pc.fill_null(pc.equal(values, table[other].cast(pa.string())), False)  # noqa: FBT003
            instead = pa.nulls(len(values), pa.string())
            if fate is Fate.HASHED:
                instead = self._changed(values.combine_chunks(), _hashed_text, {}, every=True)
            column = pc.if_else(same, instead, column.cast(pa.string()))
            if pa.types.is_dictionary(table[field.name].type):
                column = column.dictionary_encode()
        return column

    def _changed(
        self, array: pa.Array, change: Change, suspects: Suspects, *, every: bool
    ) -> pa.Array:
        """`array` with its values changed: all, or those in which something may be to be masked."""
        words = _words(array)
        old = words.to_pylist()
        suspect = suspects.get(_identity(words)) or [False] * len(words)
        new = [
            change(one, bool(masks)) if one is not None and (every or masks) else one
            for one, masks in zip(old, suspect, strict=True)
        ]
        if new == old:
            return array
        if words is array:
            return pa.array(new, array.type)
        # Through plain strings: two words may have become one, and one may be gone.
        return pa.array(new, pa.string()).take(array.indices).dictionary_encode()

    def _changes(self, field: Field, fate: Fate) -> Change:
        """What becomes of the texts of a column whose values are not dropped as wholes."""
        if field.type is FieldType.STRING:
            return _hashed_text if fate is Fate.HASHED else self._masked_text
        if fate is Fate.HASHED and field.type is not FieldType.MAP:
            return _hashed_json
        return lambda text, masks: self._json(field, text, masks=masks)

    def _reaches_into(self, field: Field) -> bool:
        """Whether a setting may name something inside the field's values."""
        if field.type not in {FieldType.MAP, FieldType.JSON, FieldType.STRINGS}:
            return False
        prefixes = [f"{_stem(field)}.", *(one.format(key="") for one in field.entries)]
        globs = (*self.drop, *self.hash)
        return any(_may_reach(glob, prefix) for glob in globs for prefix in prefixes)

    def _json(self, field: Field, text: str, *, masks: bool) -> str | None:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            # Truncated. What stands where in it cannot be told any more.
            return None if self._reaches_into(field) else self._masked_text(text, masks)
        made: Any
        if field.type is FieldType.STRINGS:
            made = self._list(field, value, masks=masks)
        elif field.type is FieldType.MAP:
            entries = (*field.entries, *_names(field))
            made = self._members(_stem(field), value, masks=masks, entries=entries)
        else:
            name = _stem(field)
            if isinstance(value, str):  # in old payloads, in place of a person
                name += ".email" if "@" in value else ".name"
            made = self._member((name,), "", value, masks=masks)
        return None if made is _Gone or made in ({}, []) else compact_json(made)

    def _list(self, field: Field, values: Iterable[str], *, masks: bool) -> list[str]:
        """Of a list of texts, many like `key=value`, what is left."""
        kept = []
        for one in values:
            key, equals, value = one.partition("=")
            if not equals:
                kept.append(self._masked_text(one, masks))
                continue
            names = tuple(name.format(key=key) for name in field.entries)
            made = self._member(names, key, value, masks=masks)
            if made is not _Gone:
                kept.append(f"{self._masked_text(key, masks)}={made}")
        return kept

    def _member(self, names: tuple[str, ...], key: str, value: Any, *, masks: bool) -> Any:
        """What is left of a value inside another one, found under `key`; `_Gone` if nothing."""
        fate = self._fate(names)
        number = isinstance(value, bool | int | float)
        if fate is Fate.DROPPED or (fate is Fate.HASHED and number):
            return _Gone
        if fate is Fate.HASHED and value is not None:
            return hashed(value if isinstance(value, str) else compact_json(value))
        match value:
            case dict():
                return self._members(names[0], value, masks=masks)
            case list():
                made = [self._member(names, key, one, masks=masks) for one in value]
                return [one for one in made if one is not _Gone]
            case str():
                return MASK if masks and is_secret(key, value) else self._masked_text(value, masks)
        return value

    def _members(
        self, path: str, values: dict[str, Any], *, masks: bool, entries: Sequence[str] = ()
    ) -> Any:
        kept = {}
        for key, one in values.items():
            names = (f"{path}.{key}", *(name.format(key=key) for name in entries))
            if key == "graphql_id":  # the id once more, in base64
                names += (f"{path}.id",)
            made = self._member(names, key, one, masks=masks)
            if made is not _Gone:
                kept[self._masked_text(key, masks)] = made
        return kept if kept or not values else _Gone

    def _masked_text(self, text: str, masks: bool) -> str:  # noqa: FBT001  # a Change
        """`text` masked as the user wants it, and where `masks` also without secrets."""
        if masks:
            text = mask_secrets(text)
        return re.sub(self.mask, MASK, text) if self.mask else text

    def _without_matrix_values(self, changed: pa.Table, table: pa.Table) -> pa.Table:
        """`changed` with the matrix values that are not kept taken out of labels too.

        The values stand in labels in place of `{{matrix}}`, where only the job's matrix tells
        them from other words. A step may have the label of one of its jobs.
        """
        if MATRIX not in table.column_names or changed[MATRIX].equals(table[MATRIX]):
            return changed
        labels = [
            one
            for one in MATRIX_LABELS
            if one in table.column_names and self._fate(_names(_BY_NAME[one])) is Fate.KEPT
        ]
        jobs = changed.select(["trace_id", *labels]).append_column(MATRIX, table[MATRIX])
        instead: dict[tuple[str, str | None], str] = {}
        for job in jobs.filter(pc.is_valid(table[MATRIX])).to_pylist():
            hidden = self._hidden_in_matrix(job[MATRIX])
            for text in {job[name] for name in labels} - {None}:
                instead[job["trace_id"], text] = _replaced(text, hidden)
        traces = changed["trace_id"].to_pylist()
        for name in labels:
            texts = zip(traces, changed[name].to_pylist(), strict=True)
            column = pa.array([instead.get(one, one[1]) for one in texts], pa.string())
            at = changed.schema.get_field_index(name)
            field = changed.schema.field(at)
            if pa.types.is_dictionary(field.type):
                column = column.dictionary_encode()
            changed = changed.set_column(at, field, column)
        return changed

    def _hidden_in_matrix(self, text: str) -> dict[str, str] | None:
        """The values of a job's matrix that are not kept, each with what stands in its place.

        None if that cannot be told any more, because the matrix was truncated.
        """
        fate = self._fate(_names(_BY_NAME[MATRIX]))
        hidden: dict[str, str] = {}

        def look(names: tuple[str, ...], key: str, value: Any) -> None:
            shown = value if isinstance(value, str) else compact_json(value)
            made = self._member(names, key, value, masks=self.mask_secrets)
            if fate is Fate.DROPPED or made is _Gone:
                hidden[shown] = MASK
            elif fate is Fate.HASHED:
                hidden[shown] = hashed(shown)
            elif made != value:
                hidden[shown] = made if isinstance(made, str) else compact_json(made)
            for each, one in value.items() if isinstance(value, dict) else ():
                look((f"{names[0]}.{each}",), each, one)
            for one in value if isinstance(value, list) else ():
                look(names, key, one)

        try:
            look((MATRIX,), "", msgspec.json.decode(text))
        except msgspec.DecodeError:
            return None
        return hidden

    def _without_links(self, changed: pa.Table, table: pa.Table) -> pa.Table:
        """`changed` without the links that show ids which are not kept."""
        names = [one for one in (*LINKED_BUILDS, *LINKED_JOBS) if one in table.column_names]
        hidden = [name for name in names if self._fate((name,)) is not Fate.KEPT]
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


def _words(array: pa.Array) -> pa.Array:
    """The distinct values of a dictionary-encoded array; of another one all."""
    return array.dictionary if pa.types.is_dictionary(array.type) else array


def _identity(words: pa.Array) -> tuple[int, int, int]:
    """What two arrays of strings share only if they are the same."""
    buffer = words.buffers()[2]
    return (buffer.address if buffer else 0, words.offset, len(words))


def _stem(field: Field) -> str:
    """The name of a map without its keys, and of anything else as it is."""
    return field.name.removesuffix(".*")


def _names(field: Field) -> tuple[str, ...]:
    return (field.name, _stem(field), *field.holds)


@lru_cache(maxsize=65_536)
def _fate(names: tuple[str, ...], drop: tuple[str, ...], hash_: tuple[str, ...]) -> Fate:
    if _match(names, drop):
        return Fate.DROPPED
    return Fate.HASHED if _match(names, hash_) else Fate.KEPT


def _match(names: tuple[str, ...], globs: tuple[str, ...]) -> bool:
    return any(matches(name, globs) for name in names)


def hashed(text: str) -> str:
    """16 hex digits that stand for `text`: the same for the same text, everywhere."""
    return sha256(text.encode()).hexdigest()[:16]


def _replaced(text: str, others: dict[str, str] | None) -> str:
    """`text` with others in place of the words that are keys of `others`; None: masked whole."""
    if others is None:
        return MASK
    words = sorted(filter(None, others), key=len, reverse=True)
    if not words:
        return text
    return re.sub("|".join(map(re.escape, words)), lambda found: others[found[0]], text)


def _hashed_text(text: str, masks: bool) -> str:  # noqa: ARG001, FBT001  # a Change
    return hashed(text)


def _hashed_json(text: str, masks: bool) -> str:  # noqa: ARG001, FBT001  # a Change
    """A list keeps its length; anything else becomes one string."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, list):
        return compact_json([hashed(str(one)) for one in value])
    return compact_json(hashed(text))


def _may_reach(glob: str, prefix: str) -> bool:
    """Whether `glob` can match a name that begins with `prefix`."""
    literal = re.split(r"[*?\[]", glob, maxsplit=1)[0]
    return literal.startswith(prefix) or prefix.startswith(literal)
