"""The README's snippets are run, not believed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tepbft.cli.main import run
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import OperationRefused

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_the_application_of_ten_lines_works() -> None:
    source = next(block for block in PYTHON if "class Counter" in block)
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)
    table: dict[bytes, bytes] = {}
    context = SimpleNamespace(get=table.get, put=table.__setitem__)
    counter = names["Counter"]()  # type: ignore[operator]
    assert [counter.execute(context, operation) for operation in (b"2", b"3")] == [b"2", b"5"]
    with pytest.raises(OperationRefused):
        counter.execute(context, b"x")
    assert len(source.split("class Counter", 1)[1].strip().splitlines()) <= 10


def test_the_client_snippet_names_what_exists() -> None:
    source = next(block for block in PYTHON if "Client.open" in block)
    names: dict[str, object] = {}
    exec(compile(source.replace("asyncio.run(main())", ""), "README.md", "exec"), names)
    assert callable(names["main"])


@pytest.mark.parametrize(
    "line", [line for block in SHELL for line in block.splitlines() if line.startswith("tepbft ")]
)
def test_every_command_shown_is_one(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.partition("#")[0].split()[1:]
    command = words[:2] if words[0] in ("receipt", "lab") else words[:1]
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert option in shown


def test_every_scheme_is_listed_and_the_weaker_ones_are_marked() -> None:
    for name, scheme in SCHEMES.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert ("weaker" in row) == scheme.weaker


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
