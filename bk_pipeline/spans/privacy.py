"""What must not leave: attributes dropped or hashed by name, secrets masked inside values.

Works on the finished table, column by column, and looks at each distinct value once. What
is masked here is in neither the span table nor any destination; the raw store has it still.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.fields import FIELDS, Field, FieldType

MASK = "[masked]"

# The usual kinds, by the prefixes that their makers gave them so that they can be found.
SECRETS: tuple[str, ...] = (
    r"\bbk[a-z]{2,4}_[A-Za-z0-9]{20,}",  # Buildkite: bkua_, bkct_, …
    r"\bgh[oprsu]_[A-Za-z0-9]{30,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS key ids, and secrets where they are assigned
    r"(?i:(?<=aws_secret_access_key)\W{1,6}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))",
    r"\bxox[abceoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}",  # Slack
    r"\bxapp-[A-Za-z0-9-]{10,}",
    r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}",
    r"\bhc[a-z][a-z]{2}_[a-z0-9]{58}\b",  # Honeycomb
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"\bpypi-[A-Za-z0-9_-]{40,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)",  # https://user:password@host
    r"(?<=https://)[^\s/@'\"]+(?=@)",  # https://token@host
    r"(?i:(?<=authorization:)\s*(?:bearer|basic|token)\s+[^\s'\"]+)",
)

# What every string that holds one of these has in it, plain or as JSON. Arrow's own regular
# expressions (RE2: no look-behind) look for this a hundred times as fast, so that Python's
# see only the few values that may need them.
SUSPICIOUS = (
    r"_[A-Za-z0-9_-]{20}|glpat-|AKIA|ASIA|(?i:aws_secret_access_key)|xox|xapp-"
    r"|hooks\.slack|pypi-|PRIVATE KEY|://[^\s/]*@|(?i:authorization:)"
)

Change = Callable[[str], str | None]


@dataclass(frozen=True)
class Privacy:
    """What to take out.

    Attributes:
        drop: Names or globs of attributes that are left out.
        hash: Names or globs of attributes whose strings become 16 hex digits of SHA-256: still
            to be grouped by, no longer to be read.
        mask: A regular expression; what it matches inside a string becomes `[masked]`.
        mask_secrets: Whether what looks like a secret of the usual kinds is masked too.
    """

    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    mask: str = ""
    mask_secrets: bool = True

    def apply(self, table: pa.Table) -> pa.Table:
        """The table without what must not leave; same schema, same rows."""
        pattern = self._pattern()
        for at, name in enumerate(table.column_names):
            field = _BY_NAME.get(name)
            if field is None:
                continue
            change = self._change(field, pattern)
            if change is not None:
                column = _changed(table.column(at), change, masks_only=self._masks_only(field))
                table = table.set_column(at, table.schema.field(at), column)
        return table

    def _pattern(self) -> re.Pattern[str] | None:
        parts = [*(SECRETS if self.mask_secrets else ()), *([self.mask] if self.mask else [])]
        return re.compile("|".join(f"(?:{part})" for part in parts)) if parts else None

    def _change(self, field: Field, pattern: re.Pattern[str] | None) -> Change | None:
        """What becomes of the column's values; None if they stay as they are."""
        if field.type is FieldType.MAP:
            return lambda text: self._map(field, text, pattern)
        if _matches(field.name, self.drop):
            return lambda _: None
        if field.type in {FieldType.INT, FieldType.BOOL}:
            return None
        strings = field.type is FieldType.STRING
        if _matches(field.name, self.hash):
            return hashed if strings else _hashed_json
        if pattern is None or field.distinct:
            return None
        return partial(pattern.sub, MASK) if strings else partial(_masked_json, pattern)

    def _masks_only(self, field: Field) -> bool:
        """Whether nothing happens to the field but the masking of the usual secrets."""
        named = (*self.drop, *self.hash)
        prefix = field.name.removesuffix("*")
        touched = field.type is FieldType.MAP and any(_may_reach(glob, prefix) for glob in named)
        return not self.mask and not touched and not _matches(field.name, named)

    def _map(self, field: Field, text: str, pattern: re.Pattern[str] | None) -> str | None:
        prefix = field.name.removesuffix("*")
        kept = {}
        for key, value in msgspec.json.decode(text).items():
            name = prefix + key
            if _matches(name, self.drop) or _matches(field.name, self.drop):
                continue
            if isinstance(value, str):
                if _matches(name, self.hash) or _matches(field.name, self.hash):
                    value = hashed(value)  # noqa: PLW2901  # the value, made unreadable
                elif pattern is not None:
                    value = pattern.sub(MASK, value)  # noqa: PLW2901
            kept[key] = value
        return msgspec.json.encode(kept).decode() if kept else None


_BY_NAME = {field.name: field for field in FIELDS}


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _hashed_json(text: str) -> str:
    """A list keeps its length; anything else becomes one string."""
    value = msgspec.json.decode(text)
    if isinstance(value, list):
        return msgspec.json.encode([hashed(str(one)) for one in value]).decode()
    return msgspec.json.encode(hashed(text)).decode()


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _masked_json(pattern: re.Pattern[str], text: str) -> str:
    def masked(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(MASK, value)
        if isinstance(value, list):
            return [masked(one) for one in value]
        if isinstance(value, dict):
            return {key: masked(one) for key, one in value.items()}
        return value

    return msgspec.json.encode(masked(msgspec.json.decode(text))).decode()


def _may_reach(glob: str, prefix: str) -> bool:
    """Whether `glob` can match a name that begins with `prefix`."""
    literal = re.split(r"[*?\[]", glob, maxsplit=1)[0]
    return literal.startswith(prefix) or prefix.startswith(literal)


def _changed(column: pa.ChunkedArray, change: Change, *, masks_only: bool) -> pa.ChunkedArray:
    chunks = [
        one if masks_only and not _is_suspicious(one) else _changed_chunk(one, change)
        for one in column.chunks
    ]
    return pa.chunked_array(chunks, column.type)


def _is_suspicious(array: pa.Array) -> bool:
    words = array.dictionary if pa.types.is_dictionary(array.type) else array
    return bool(pc.any(pc.match_substring_regex(words, SUSPICIOUS)).as_py())


def _changed_chunk(array: pa.Array, change: Change) -> pa.Array:
    if not pa.types.is_dictionary(array.type):
        if not pa.types.is_string(array.type):  # a number that is dropped
            return pa.nulls(len(array), array.type)
        return pa.array([None if v is None else change(v) for v in array.to_pylist()], array.type)
    words = [change(word) for word in array.dictionary.to_pylist()]
    if words == array.dictionary.to_pylist():
        return array
    # Through plain strings: two words may have become one, and one may be gone.
    return pa.array(words, pa.string()).take(array.indices).dictionary_encode()
