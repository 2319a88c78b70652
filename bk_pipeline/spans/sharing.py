"""One object for all records that say the same: jobs of their agent, builds of their pipeline.

Such objects are long, and few are different: to look one up by its JSON text costs less than
to decode it again, and what is made of it later is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec


def shared(type_: Any, name: str, *, keep: int = 1024) -> Callable[[bytes], Any]:
    """What makes the object of a text, or finds the one that it made of the same text before.

    To be called in `__post_init__`: msgspec adds the path of the record to errors.

    Args:
        type_: The object's. Nobody may change it.
        name: Of the record's field, for errors.
        keep: How many texts are remembered: those used last.
    """
    decode = msgspec.json.Decoder(type_).decode

    @lru_cache(maxsize=keep)
    def found(text: bytes) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as exc:
            raise ValueError(str(exc).replace("`$", f"`{name}")) from exc
        except UnicodeDecodeError as exc:
            raise msgspec.DecodeError("not UTF-8") from exc

    return found
