"""Hooks for tracing the pipeline's own runs. They do nothing until a tracer is installed.

Code worth tracing wraps itself in `with span(...)` or `with leaf_span(...)`; `self_tracing/`
installs a tracer with `use_tracer`. The tracer is a context variable, so it sees what runs inside
`use_tracer` and nothing of another run in another thread. Without a tracer, a `with` costs some
tenths of a microsecond.

Span names and attributes leave the process: never put a token, payload or URL query in them.
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
NO_ATTRIBUTES: Mapping[str, Value] = {}


class SpanHandle(Protocol):
    """A span in progress."""

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        """Add `attributes` to the span."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def span(
        self, name: str, attributes: Mapping[str, Value], *, leaf: bool, outgoing: bool
    ) -> AbstractContextManager[SpanHandle]:
        """Trace a block as a span; an error that ends the block must pass through.

        Args:
            name: The kind of operation.
            attributes: What identifies this operation.
            leaf: Whether no other span becomes its child.
            outgoing: Whether it is a request to another service.
        """
        ...


class _NoSpan:
    """The span when no tracer is installed."""

    def set_attributes(self, attributes: Mapping[str, Value]) -> None:
        pass

    def __enter__(self) -> SpanHandle:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NO_SPAN = _NoSpan()
_tracer: ContextVar[Tracer | None] = ContextVar("bk_pipeline_tracer", default=None)


def span(
    name: str, attributes: Mapping[str, Value] = NO_ATTRIBUTES
) -> AbstractContextManager[SpanHandle]:
    """Trace a block as a span that is the parent of the spans made inside it."""
    tracer = _tracer.get()
    if tracer is None:
        return _NO_SPAN
    return tracer.span(name, attributes, leaf=False, outgoing=False)


def leaf_span(
    name: str, attributes: Mapping[str, Value] = NO_ATTRIBUTES, *, outgoing: bool = False
) -> AbstractContextManager[SpanHandle]:
    """Trace a block as a span without children.

    It never becomes the current span, so a generator may hold it open across a `yield`.

    Args:
        name: The kind of operation.
        attributes: What identifies this operation.
        outgoing: Whether it is a request to another service.
    """
    tracer = _tracer.get()
    if tracer is None:
        return _NO_SPAN
    return tracer.span(name, attributes, leaf=True, outgoing=outgoing)


@contextmanager
def use_tracer(tracer: Tracer) -> Iterator[None]:
    """Send the spans made inside the block to `tracer`."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)


def bind_context(call: Callable[P, T]) -> Callable[P, T]:
    """Bind `call` to the current tracer and parent span, to be called once in another thread."""
    return call if _tracer.get() is None else partial(copy_context().run, call)
