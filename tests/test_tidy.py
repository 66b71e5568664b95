"""The rules of the source tree, checked on the syntax tree: no module is imported here.

Import direction: types <- core <- protocols <- node <- {runtime, sim} <- {rpc, cli}. What the node is
made of (crypto, ports, execution, mempool, seal) lies beneath it. Impurity is banned by a test.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tepbft"
MODULE_LINES = 450
FUNCTION_LINES = 70

PORTS = {"trusted.port", "storage.port", "execution.port", "crypto.port", "crypto.hash"}
"""Modules that are vocabulary: values and protocols, importable by the core."""

_GROUND = {"types", "errors"}
_VALUES = _GROUND | {"core", "wire"} | PORTS
_PARTS = _VALUES | {"crypto", "execution", "mempool", "seal"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "native": {"native"},
    "core": _GROUND | {"core", "crypto", "wire", "native"} | PORTS,
    "wire": _GROUND | {"core"},
    "crypto": _VALUES | {"crypto", "native"},
    "mempool": _VALUES | {"crypto", "mempool"},
    "seal": _VALUES | {"seal", "mempool"},
    "execution": _VALUES | {"crypto", "execution", "native"},
    "protocols": _PARTS | {"protocols"},
    "node": _PARTS | {"protocols", "node"},
    "trusted": _VALUES | {"crypto", "trusted"},
    "storage": _VALUES | {"crypto", "storage", "execution.snapshot", "native"},
    "client": _VALUES | {"crypto", "client", "execution", "trusted.verify"},
    "audit": _PARTS | {"storage", "trusted", "node", "audit"},
    "sim": _PARTS | {"protocols", "node", "storage", "trusted", "client", "sim"},
    "model": _PARTS | {"protocols", "node", "storage", "trusted", "sim", "model"},
    "runtime": _PARTS | {"protocols", "node", "storage", "trusted", "runtime", "rpc"},
    "torment": _PARTS | {"node", "storage", "trusted", "runtime", "client", "sim", "cli", "torment"},
    "rpc": _PARTS | {"node", "storage", "runtime", "rpc", "client"},
    "lab": _PARTS
    | {"node", "storage", "trusted", "runtime", "client", "cli", "lab"}
    | {"protocols.tep.messages"},  # what Byzantine nodes of a benchmark say
    "cli": _PARTS
    | {"node", "storage", "trusted", "runtime", "rpc", "client", "audit", "sim", "model", "torment", "lab"}
    | {"cli"}
    | {"protocols.tep.promised"},  # what an operator's recovery may go on with
}

PURE = ("core", "protocols", "node", "mempool", "seal", "execution", "types", "errors", "wire")
PURE_MODULES = ("client/session.py", "trusted/port.py", "storage/port.py")
IMPURE = {"asyncio", "secrets", "socket", "threading", "time", "multiprocessing", "subprocess"}

FORBIDDEN = re.compile(
    r"\b(TODO|FIXME|XXX|HACK)\b",
    re.IGNORECASE,
)


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _module_name(path: Path) -> str:
    return _relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _top(module: str) -> str:
    return module.partition(".")[0]


def _imports(path: Path) -> list[tuple[str, int]]:
    """(absolute module, line) of every import, those inside functions and `if TYPE_CHECKING` included."""
    found = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_relative(path)}:{node.lineno}: write the full name of the module"
            base = node.module or ""
            for alias in node.names:
                inner = PACKAGE.joinpath(*base.split(".")[1:], alias.name)
                is_module = base.startswith("tepbft") and (
                    inner.with_suffix(".py").exists() or inner.is_dir()
                )
                found.append((f"{base}.{alias.name}" if is_module else base, node.lineno))
    return found


def test_imports_point_downwards() -> None:
    """The import direction of the layout, and nothing outside it."""
    wrong = []
    for path in _sources():
        module = _module_name(path)
        allowed = MAY_IMPORT.get(_top(module))
        if module in ("", "__init__"):
            continue
        assert allowed is not None, f"{_relative(path)}: a new package needs its line in MAY_IMPORT"
        for imported, line in _imports(path):
            if not imported.startswith("tepbft."):
                continue
            target = imported.removeprefix("tepbft.")
            if _top(target) not in allowed and target not in allowed:
                wrong.append(f"{_relative(path)}:{line}: {_top(module)} may not import {imported}")
    assert not wrong, "\n".join(wrong)


def test_rooms_do_not_import_rooms() -> None:
    """A protocol's folder stands alone: what two share moves beneath both."""
    wrong = []
    for path in _sources():
        parts = _relative(path).split("/")
        if parts[0] != "protocols" or len(parts) < 3:
            continue
        for imported, line in _imports(path):
            pieces = imported.split(".")
            if pieces[:2] == ["tepbft", "protocols"] and len(pieces) > 2 and pieces[2] != parts[1]:
                wrong.append(f"{_relative(path)}:{line}: {imported}")
    assert not wrong, "\n".join(wrong)


def _unseeded_randomness(path: Path) -> list[int]:
    """Lines that take more from `random` than the class `Random`, of which a seeded one is passed in."""
    return [
        node.lineno
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "random"
            and any(alias.name != "Random" for alias in node.names)
        )
    ]


def test_the_core_is_pure() -> None:
    """No clock, no randomness, no sockets, no threads beneath the shell."""
    wrong = []
    for path in _sources():
        name = _relative(path)
        if _top(_module_name(path)) not in PURE and name not in PURE_MODULES:
            continue
        wrong += [f"{name}:{line}: {module}" for module, line in _imports(path) if _top(module) in IMPURE]
        wrong += [f"{name}:{line}: random numbers" for line in _unseeded_randomness(path)]
    assert not wrong, "\n".join(wrong)


def _set_in_loop(node: ast.AST) -> bool:
    if not isinstance(node, ast.For | ast.comprehension):
        return False
    over = node.iter
    return isinstance(over, ast.Set | ast.SetComp) or (
        isinstance(over, ast.Call)
        and isinstance(over.func, ast.Name)
        and over.func.id in ("set", "frozenset")
    )


def test_no_set_is_iterated_beneath_the_shell() -> None:
    """Order is explicit: replicas must not differ by hash seed (literal and constructed sets; a set in a
    variable is found in review)."""
    wrong = [
        f"{_relative(path)}:{node.iter.lineno}"
        for path in _sources()
        if _top(_module_name(path)) in PURE
        for node in ast.walk(_tree(path))
        if _set_in_loop(node) and isinstance(node, ast.For | ast.comprehension)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_are_short() -> None:
    """A module that outgrows this holds two ideas."""
    lengths = {_relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _sources()}
    wrong = {name: lines for name, lines in lengths.items() if lines > MODULE_LINES}
    assert not wrong, wrong


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of code: a long table of parameters or a long docstring hides no second idea."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    """Lines of a function's body."""
    wrong = []
    for path in _sources():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = _body_lines(node)
                if lines > FUNCTION_LINES:
                    wrong.append(f"{_relative(path)}:{node.lineno}: {node.name} has {lines} lines")
    assert not wrong, "\n".join(wrong)


CALLBACKS = {
    "connection_made",
    "connection_lost",
    "data_received",
    "eof_received",
    "get_buffer",
    "buffer_updated",
    "pause_writing",
    "resume_writing",
}
"""What asyncio calls on its protocols, and documents."""


def _undocumented(body: list[ast.stmt], where: str) -> list[str]:
    """Public functions, classes and methods without a docstring."""
    found = []
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or node.name in CALLBACKS:
            continue
        overloaded = any(
            (isinstance(d, ast.Name) and d.id in ("overload", "override"))
            or (isinstance(d, ast.Attribute) and d.attr in ("setter", "overload", "override"))
            for d in node.decorator_list
        )
        if not overloaded and ast.get_docstring(node) is None:
            found.append(f"{where}:{node.lineno}: {node.name}")
        if isinstance(node, ast.ClassDef):
            found += _undocumented(node.body, where)
    return found


def test_public_names_have_docstrings() -> None:
    """Modules, classes, functions and methods that others may use say what they are."""
    wrong = []
    for path in _sources():
        if path.stat().st_size == 0:
            continue
        if ast.get_docstring(_tree(path)) is None:
            wrong.append(f"{_relative(path)}: the module")
        wrong += _undocumented(_tree(path).body, _relative(path))
    assert not wrong, "\n".join(wrong)


def test_no_assert_on_input() -> None:
    """`python -O` strips assert: what comes from outside is refused by an exception (I-25)."""
    wrong = [
        f"{_relative(path)}:{node.lineno}"
        for path in _sources()
        if _top(_module_name(path)) in (*PURE, "crypto", "storage", "trusted")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Assert)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["src", "tests", "docs"])
def test_no_forbidden_words(folder: str) -> None:
    """Nothing unfinished, and nothing about the place where it was written."""
    wrong = []
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix not in (".py", ".md", ".toml", ".txt") or path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if FORBIDDEN.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not wrong, "\n".join(wrong)


def test_test_files_have_distinct_names() -> None:
    """Without packages under tests/, pytest tells modules apart by their base name."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, twice
    assert not list((ROOT / "tests").rglob("__init__.py"))
