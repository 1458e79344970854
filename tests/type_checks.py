"""Lets jaxtyping check only the signatures with shapes; on import, before the packages whose imports it hooks.

jaxtyping binds the arguments of each call and checks them twice, to compare shapes across the signature. Where a
signature has none, beartype alone checks the same in a fraction of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_compare_shapes = jaxtyping.jaxtyped
_check = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))  # one error for both checks


def _parts(hint: Any) -> Iterator[Any]:
    """The hint and all that it is made of."""
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)


def _has_shapes(hints: dict[str, Any]) -> bool:
    parts = (part for hint in hints.values() for part in _parts(hint))
    return any(isinstance(part, type) and issubclass(part, jaxtyping.AbstractArray) for part in parts)


def _checked(function: Callable, typechecker: Callable) -> Callable:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # imported for type checkers alone, or not yet defined
        return _compare_shapes(function, typechecker=typechecker)
    if _has_shapes(hints):
        return _compare_shapes(function, typechecker=typechecker)
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return functools.update_wrapper(_check(copy), function) if hints else function


def _jaxtyped(*, typechecker: Callable) -> Callable:
    """In place of `jaxtyping.jaxtyped`, as its import hook writes it before functions and classes."""

    def decorate(target: Any) -> Any:
        if dataclasses.is_dataclass(target):
            target.__init__ = _checked(target.__init__, typechecker)
        elif inspect.isfunction(target):
            return _checked(target, typechecker)
        return target

    return decorate


jaxtyping.jaxtyped = _jaxtyped
