"""From a name to an application, and the errors a person reads on the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tepbft.errors import TepbftError
from tepbft.execution.loader import SHIPPED, load_application, load_operations

MODULE = """
class Echo:
    def execute(self, context, operation):
        return operation

class NeedsArguments(Echo):
    def __init__(self, folder):
        pass

class DoesNothing:
    pass

class Spoken(Echo):
    USAGE = "say WORD"
    @staticmethod
    def parse(words):
        return words[-1].encode()
    @staticmethod
    def render(operation, result):
        return result.decode().upper()

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "loader_test_application"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "loader_test_broken.py").write_text("1 / 0")
    (tmp_path / "loader_test_needy.py").write_text("import module_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    for loaded in (name, "loader_test_broken", "loader_test_needy"):
        sys.modules.pop(loaded, None)
    return name


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_applications_load_and_explain_themselves(name):
    assert callable(load_application(name).execute)
    operations = load_operations(name)
    first = operations.usage.split()[0]
    with pytest.raises(TepbftError, match=first):
        operations.parse(["nonsense"])


def test_an_own_application_loads(module):
    assert load_application(f"{module}:Echo").execute(None, b"x") == b"x"


def test_an_own_application_without_words_of_its_own_takes_them_as_text(module):
    operations = load_operations(f"{module}:Echo")
    assert operations.parse(["put", "ü", "1"]) == "put ü 1".encode()
    assert operations.render(b"", "ü".encode()) == {"text": "ü"}
    assert operations.render(b"", b"\xff") == {"hex": "ff"}
    with pytest.raises(TepbftError):
        operations.parse(["\ud800"])


def test_an_own_application_may_bring_its_words(module):
    operations = load_operations(f"{module}:Spoken")
    assert operations.parse(["say", "hi"]) == b"hi"
    assert operations.render(b"", b"hi") == "HI"
    assert operations.usage == "say WORD"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "no such application"),
        ("", "no such application"),
        (":Class", "no such application"),
        ("module:", "no such application"),
        ("no_such_module_anywhere:App", "no module"),
        ("tepbft.no_such_part.deep:App", "no module"),
        ("loader_test_application:Missing", "no class"),
        ("loader_test_application:number", "no class"),
        ("loader_test_application:NeedsArguments", "without arguments"),
        ("loader_test_application:DoesNothing", "execute"),
        ("loader_test_broken:App", "ZeroDivisionError"),
        ("loader_test_needy:App", "module_that_is_not_there"),
    ],
)
def test_what_cannot_be_loaded_is_explained(module, name, reason):
    with pytest.raises(TepbftError) as caught:
        load_application(name)
    assert reason in str(caught.value)
    assert caught.value.remedy
