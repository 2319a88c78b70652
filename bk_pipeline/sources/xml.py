"""Reads XML from outside as a stream of elements, and refuses what XML can be abused for.

The parser is expat, which CPython brings and libexpat's authors maintain: it reads streams, holds
one token at a time, and never opens a file or a connection. Document types are refused at their
first byte, and with them all entities, internal and external. Nesting and the length of a token
(a tag with its attributes, a comment) are bounded.

Reports are often not quite XML: tests print bytes that are not UTF-8 and control characters, which
XML cannot have, not even escaped. These are replaced, so that a file is not lost for them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from xml.parsers import expat

from bk_pipeline.sources.streams import Unreadable

MAX_DEPTH = 100
MAX_TOKEN_BYTES = 4 << 20

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_UTF_16 = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
_DECLARATION = re.compile(
    rb"\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']"
)
# Those that ASCII is a part of: the declaration was read as ASCII.
_ENCODINGS = re.compile(
    r"utf-8|ascii|iso8859-\d{1,2}|cp(?:125\d|437|8\d\d|932|936|949|950)|koi8-[rut]|gbk|gb2312"
    r"|gb18030|big5|big5hkscs|shift_jis|euc_(?:jp|kr)|mac-roman"
)
# Control characters except tab, line feed and carriage return become spaces; escape, with which colors
# begin, becomes delete, which XML can have.
_CONTROL = bytes.maketrans(
    bytes([27, *range(9), 11, 12, *range(14, 27), *range(28, 32)]), b"\x7f".ljust(29)
)
# References to characters that XML cannot have: control characters, surrogates, U+FFFE, U+FFFF.
_BAD_REFERENCE = re.compile(
    rb"&#(?:0{0,4}(?:[0-8]|1[124-9]|2\d|3[01]|5529[6-9]|55[3-9]\d\d|56\d{3}|57[0-2]\d\d|573[0-3]\d"
    rb"|5734[0-3]|6553[45])|[xX]0{0,4}(?:[0-8bBcCeEfF]|1[0-9a-fA-F]|[dD][89a-fA-F][0-9a-fA-F]{2}"
    rb"|[fF]{3}[eEfF]));"
)
_REPLACEMENT = b"&#65533;"
_REFERENCE_BYTES = 12


class Elements:
    """Calls `start(name, attributes)` and `end()` for the elements of a document, in its order."""

    def __init__(
        self, start: Callable[[str, dict[str, str]], None], end: Callable[[], None]
    ) -> None:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = _refuse_doctype
        self._parser = parser
        self._start_handler, self._end_handler = start, end
        self._depth = 0

    def set_text(self, handler: Callable[[str], None] | None) -> None:
        """Call `handler` with pieces of text from now on; None: do not."""
        self._parser.CharacterDataHandler = handler

    def read(self, blocks: Iterable[bytes]) -> None:
        """Read a document.

        Raises:
            Unreadable: It is not well-formed, or refused. Elements before that were handed over.
        """
        parser, fed, waiting = self._parser, 0, bytearray()
        try:
            for block in _clean(blocks):
                waiting += block
                # Twice as much each time, because expat begins a token again that is not complete.
                if len(waiting) <= fed - max(parser.CurrentByteIndex, 0):
                    continue
                parser.Parse(bytes(waiting), False)  # noqa: FBT003
                fed += len(waiting)
                waiting.clear()
                if fed - parser.CurrentByteIndex > MAX_TOKEN_BYTES:
                    raise Unreadable(f"a tag or comment is longer than {MAX_TOKEN_BYTES:,} bytes")
            parser.Parse(bytes(waiting), True)  # noqa: FBT003
        except expat.ExpatError as error:
            where = f"line {error.lineno}, column {error.offset + 1}"
            message = expat.ErrorString(error.code)
            raise Unreadable(f"it is not well-formed XML ({message}, {where})") from None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"its elements are nested more than {MAX_DEPTH} deep")
        self._start_handler(name, attributes)

    def _end(self, _: str) -> None:
        self._depth -= 1
        self._end_handler()


def _refuse_doctype(*_: object) -> None:
    raise Unreadable("it has a document type (DOCTYPE), which is refused")


def _clean(blocks: Iterable[bytes]) -> Iterable[bytes]:
    """Yield the document as UTF-8 that XML can have."""
    decoder: codecs.IncrementalDecoder | None = None
    rest = b""
    for block in blocks:
        if decoder is None:
            decoder = codecs.getincrementaldecoder(_encoding(block))("replace")
            # Blank lines before the declaration are not allowed, and not rare.
            text = decoder.decode(block).lstrip("\ufeff \t\r\n")
        else:
            text = decoder.decode(block)
        cleaned = rest + _encoded(text)
        # A reference to a character may go on in the next block.
        cut = cleaned.find(b"&", max(0, len(cleaned) - _REFERENCE_BYTES))
        rest = cleaned[cut:] if cut >= 0 else b""
        yield _without_bad_references(cleaned[:cut] if cut >= 0 else cleaned)
    if decoder is not None:
        yield _without_bad_references(rest + _encoded(decoder.decode(b"", final=True)))


def _encoded(text: str) -> bytes:
    text = text.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
    return text.encode(errors="replace").translate(_CONTROL)


def _without_bad_references(block: bytes) -> bytes:
    return _BAD_REFERENCE.sub(_REPLACEMENT, block) if b"&#" in block else block


def _encoding(start: bytes) -> str:
    """Return the encoding of a document that begins with `start`; UTF-8 if it names none we know."""
    for mark, encoding in (*_BOMS, *_UTF_16):
        if start.startswith(mark):
            return encoding
    declared = _DECLARATION.match(start)
    if declared is not None:
        try:
            name = codecs.lookup(declared[1].decode()).name
        except LookupError:
            return "utf-8"
        if _ENCODINGS.fullmatch(name):
            return name
    return "utf-8"
