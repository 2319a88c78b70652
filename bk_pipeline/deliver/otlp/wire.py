"""Protobuf's wire format, as much of it as OTLP spans need. Pure.

Tags are one byte: the field's number, shifted by three, and how its value is written. The
reference for all of this is `plain.py`, which leaves it to the official classes.

Sources: Protocol Buffers, "Encoding"; OTLP's `common.proto`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from bk_pipeline.spans.text import VALUE_LIMIT_BYTES, cut

# So many beginnings of attributes are kept: some hundred keys, each with some lengths.
HEADS = 8_192
INT64 = range(-(2**63), 2**63)
# The bit of a varint's byte that says that another follows.
MORE = 0x80
_ONE_BYTE = tuple(bytes((number,)) for number in range(MORE))

# Fields of KeyValue.
KEY, VALUE = b"\x0a", b"\x12"
# Fields of AnyValue.
STRING, BOOL, INT, DOUBLE, ARRAY, KEY_VALUES = b"\x0a", b"\x10", b"\x18", b"\x21", b"\x2a", b"\x32"
# The one field of ArrayValue and of KeyValueList.
MEMBER = b"\x0a"


def varint(number: int) -> bytes:
    """A whole number, 0 or more, in seven bits a byte, lowest first."""
    if number < MORE:
        return _ONE_BYTE[number]
    out = bytearray()
    while number >= MORE:
        out.append(number % MORE | MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


def sized(tag: bytes, content: bytes) -> bytes:
    """A field whose value is text, bytes or a message."""
    return tag + varint(len(content)) + content


def int_value(number: int) -> bytes:
    """An AnyValue; negative ones take ten bytes, as protobuf has it."""
    return INT + varint(number & 0xFFFF_FFFF_FFFF_FFFF)


def bool_value(value: bool) -> bytes:  # noqa: FBT001  # the value itself
    return BOOL + (b"\x01" if value else b"\x00")


def any_value(value: Any) -> bytes:
    """The AnyValue of anything that JSON can hold; of null, one that holds nothing.

    Strings are cut to what backends keep; whole numbers beyond 64 bits become doubles.
    """
    match value:
        case None:
            return b""
        case bool():
            return bool_value(value)
        case str():
            return sized(STRING, cut(value).encode())
        case list():
            return sized(ARRAY, b"".join(sized(MEMBER, any_value(one)) for one in value))
        case dict():
            members = (attribute(MEMBER, key, any_value(one)) for key, one in value.items())
            return sized(KEY_VALUES, b"".join(members))
        case _:
            return _number(value)


def _number(value: float) -> bytes:
    if isinstance(value, int) and value in INT64:
        return int_value(value)
    return DOUBLE + struct.pack("<d", value)


def attribute(tag: bytes, key: str, value: bytes) -> bytes:
    """A KeyValue as the field `tag` of a message, given its encoded AnyValue."""
    return sized(tag, _key(key) + sized(VALUE, value))


def text_attribute(tag: bytes, key: str, text: str) -> bytes:
    """What `attribute` makes of a text, faster where a key's texts often have the same length."""
    content = text.encode()
    if len(content) > VALUE_LIMIT_BYTES:
        content = cut(text).encode()
    return text_head(tag, key, len(content)) + content


@lru_cache(HEADS)
def text_head(tag: bytes, key: str, length: int) -> bytes:
    """What stands before the text of an attribute that is a string of `length` bytes."""
    return _head(tag, key, STRING + varint(length), length)


def int_head(tag: bytes, key: str, length: int) -> bytes:
    """What stands before the varint of an attribute that is a number, of `length` bytes."""
    return _head(tag, key, INT, length)


def _head(tag: bytes, key: str, value: bytes, length: int) -> bytes:
    before = _key(key) + VALUE + varint(len(value) + length) + value
    return tag + varint(len(before) + length) + before


def _key(key: str) -> bytes:
    """A KeyValue's key; an empty one is left out, as protobuf has it outside of a `oneof`."""
    return sized(KEY, key.encode()) if key else b""
