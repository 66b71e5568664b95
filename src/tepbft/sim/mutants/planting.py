"""How a defect is planted: the text of a production function is changed, for a while.

`edit` compiles the changed text and puts it into the function object itself, so that
whoever imported the function gets the defect, and production needs no switch for it. A
text that production no longer contains is an error: a mutant never silently does nothing.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

_FLAGS = __future__.annotations.compiler_flag


class NotPlanted(Exception):
    """Production code does not contain (exactly once) what a mutant wants to change."""


@dataclass(frozen=True)
class Edit:
    """Replace texts in a function; each old text must occur exactly once."""

    function: Any
    changes: tuple[tuple[str, str], ...]

    @contextmanager
    def apply(self) -> Iterator[None]:
        """The function has the changed text inside."""
        function: FunctionType = self.function
        code = function.__code__
        function.__code__ = _compile(function, self.changes)
        try:
            yield
        finally:
            function.__code__ = code


@dataclass(frozen=True)
class Swap:
    """Another value for an attribute of a module or a class."""

    owner: Any
    name: str
    value: Any

    @contextmanager
    def apply(self) -> Iterator[None]:
        """The attribute has the other value inside."""
        before = self.owner.__dict__[self.name]
        setattr(self.owner, self.name, self.value)
        try:
            yield
        finally:
            setattr(self.owner, self.name, before)


Change = Edit | Swap


def edit(function: Any, *changes: tuple[str, str]) -> Edit:
    """Change the text of `function` (a plain function or method without closure)."""
    return Edit(function, changes)


def swap(owner: Any, name: str, value: Any) -> Swap:
    """Change an attribute."""
    return Swap(owner, name, value)


@contextmanager
def planted(changes: tuple[Change, ...]) -> Iterator[None]:
    """All changes inside, none outside, whatever happens."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.apply())
        yield


def _compile(function: FunctionType, changes: tuple[tuple[str, str], ...]) -> CodeType:
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        if text.count(old) != 1:
            raise NotPlanted(f"{function.__qualname__} contains {old!r} {text.count(old)} times")
        text = text.replace(old, new)
    if function.__code__.co_freevars:
        raise NotPlanted(f"{function.__qualname__} has a closure")
    names: dict[str, Any] = dict(function.__globals__)
    exec(compile(text, f"<planted in {function.__qualname__}>", "exec", _FLAGS), names)
    found: CodeType = names[function.__name__].__code__
    return found
