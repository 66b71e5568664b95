"""From an application's name to the application, and to its command-line words.

Names: `kv`, `bank`, `notary`, or `module:Class` for one's own; `bundle:` in front of
any of them for its operations in bundles (`execution/bundle.py`). Beside the class an
application may offer `parse(words) -> bytes`, `render(operation, result) -> object`
and `USAGE`, on the class (static) or in its module; without them an operation is
its words joined by spaces.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from msgspec import Struct

from tepbft.errors import TepbftError
from tepbft.execution.bundle import MAX_BUNDLE, PREFIX, SEPARATOR, Bundle, parse_bundle, render_bundle
from tepbft.execution.port import Application

SHIPPED = {
    "kv": "tepbft.execution.apps.kv:KeyValue",
    "bank": "tepbft.execution.apps.bank:Bank",
    "notary": "tepbft.execution.apps.notary:Notary",
}
_KNOWN = "Use kv, bank, notary, or module:Class of your own (bundle: in front of it for bundles)"
_DEFAULT_USAGE = "WORD...    the operation: its words joined by spaces"


class Operations(Struct, frozen=True):
    """How a person writes an application's operations and reads their results."""

    parse: Callable[[Sequence[str]], bytes]
    """Words of a command line to an operation; TepbftError with the usage on nonsense."""
    render: Callable[[bytes, bytes], object]
    """(operation, result) to plain values for JSON."""
    usage: str


def load_application(name: str) -> Application:
    """The application called `name`; TepbftError if it cannot be had."""
    bundled = _bundled(name)
    if bundled is not None:
        return Bundle(load_application(bundled))
    found = _find_class(name)
    try:
        application = found()
    except Exception as error:
        raise TepbftError(
            f"application {name!r}",
            f"it cannot be constructed without arguments ({type(error).__name__}: {error})",
            "Give its class an __init__ that takes none",
        ) from error
    if not callable(getattr(application, "execute", None)):
        raise TepbftError(
            f"application {name!r}",
            "it has no method `execute`",
            "Define execute(self, context, operation) -> bytes",
        )
    return cast(Application, application)


def load_operations(name: str) -> Operations:
    """Words and results of the application called `name`; TepbftError if it cannot be had."""
    bundled = _bundled(name)
    if bundled is not None:
        return _bundle_operations(load_operations(bundled))
    found = _find_class(name)
    module = importlib.import_module(found.__module__)

    def offered(attribute: str, default: Any) -> Any:
        return getattr(found, attribute, getattr(module, attribute, default))

    return Operations(
        parse=offered("parse", _join_words),
        render=offered("render", _render_plainly),
        usage=str(offered("USAGE", _DEFAULT_USAGE)),
    )


def _bundled(name: str) -> str | None:
    """APP of `bundle:APP`; None for any other name."""
    if not name.startswith(PREFIX):
        return None
    inner = name.removeprefix(PREFIX)
    if inner.startswith(PREFIX):
        raise TepbftError(f"application {name!r}", "a bundle of bundles", f"Use {inner!r}")
    return inner


def _bundle_operations(single: Operations) -> Operations:
    head = f"1 to {MAX_BUNDLE} operations with a lone {SEPARATOR} between them, each of them:"
    return Operations(
        parse=lambda words: parse_bundle(words, single.parse),
        render=lambda operation, result: render_bundle(operation, result, single.render),
        usage=f"{head}\n{single.usage}",
    )


def _find_class(name: str) -> Any:
    module_name, colon, class_name = SHIPPED.get(name, name).partition(":")
    if not (colon and module_name and class_name):
        raise TepbftError(f"application {name!r}", "no such application", _KNOWN)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise TepbftError(
                f"application {name!r}",
                f"there is no module {error.name!r}",
                "Install it, or put its folder on PYTHONPATH",
            ) from None
        raise TepbftError(
            f"application {name!r}", f"its module needs {error.name!r}", f"Install {error.name!r}"
        ) from error
    except Exception as error:
        raise TepbftError(
            f"application {name!r}",
            f"its module does not import ({type(error).__name__}: {error})",
            "Try it with python -c 'import …'",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise TepbftError(
            f"application {name!r}", f"module {module_name!r} has no class {class_name!r}", _KNOWN
        )
    return found


def _join_words(words: Sequence[str]) -> bytes:
    try:
        return " ".join(words).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TepbftError("the operation", "not valid Unicode text", "Give it in UTF-8") from None


def _render_plainly(_operation: bytes, result: bytes) -> object:
    try:
        return {"text": result.decode("utf-8")}
    except UnicodeDecodeError:
        return {"hex": result.hex()}
