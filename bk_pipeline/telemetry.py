"""What a run does and waits for, told to whoever listens: nobody, as a rule.

Whoever does something worth telling says so here, in a `with`; `self_tracing.py` listens. The
listener is a context variable: it hears what happens inside of `listening`, and nothing of
another run in another thread. Without one a `with` costs some tenths of a microsecond.

What is told must be fit for strangers: no token, no payload, no query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Value = str | int | float | bool
NOTHING: Mapping[str, Value] = {}


class Note(Protocol):
    """Something under way, to which may be added what it came to."""

    def add(self, attributes: Mapping[str, Value]) -> None: ...


class Listener(Protocol):
    """Whoever wants to know. An error that ends a block is the listener's to see, not to keep."""

    def span(
        self, name: str, attributes: Mapping[str, Value], *, leaf: bool, outgoing: bool
    ) -> AbstractContextManager[Note]: ...


class _Unheard:
    """Nobody listens."""

    def add(self, attributes: Mapping[str, Value]) -> None:
        """Add nothing to nothing."""

    def __enter__(self) -> Note:
        return self

    def __exit__(self, *_: object) -> None:
        """Let errors pass."""


_UNHEARD = _Unheard()
_listener: ContextVar[Listener | None] = ContextVar("bk_pipeline_listener", default=None)


def span(name: str, attributes: Mapping[str, Value] = NOTHING) -> AbstractContextManager[Note]:
    """A block that what is told inside of it belongs to."""
    listener = _listener.get()
    if listener is None:
        return _UNHEARD
    return listener.span(name, attributes, leaf=False, outgoing=False)


def leaf(
    name: str, attributes: Mapping[str, Value] = NOTHING, *, outgoing: bool = False
) -> AbstractContextManager[Note]:
    """A block that nothing else belongs to: so it may also be a generator's, and end anywhere.

    Args:
        name: Of the kind of thing, not of this one.
        attributes: Of this one.
        outgoing: Whether it is a request to another service.
    """
    listener = _listener.get()
    if listener is None:
        return _UNHEARD
    return listener.span(name, attributes, leaf=True, outgoing=outgoing)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """A block whose doings `listener` hears."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def carried(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, to be made once in another thread, as if it were made here: heard, and in its place."""
    return call if _listener.get() is None else partial(copy_context().run, call)
