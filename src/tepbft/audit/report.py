"""What an audit finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged

MAX_FINDINGS = 1000
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (stage, done, total) now and then; stages are `files`, `journal`, `ledger`, `state`."""


class Finding(Struct, frozen=True):
    """One thing that is wrong. `where` names a file, with the byte offset where it is known."""

    where: str
    height: int | None
    what: str


class AuditReport(Struct, frozen=True):
    """The result of an audit. `ok` says that nothing wrong was found in what was checked; `skipped`
    says what could not be checked, and why."""

    ok: bool
    heights_checked: int
    """Blocks that were re-executed and agreed with what is recorded."""
    from_height: int
    """Height of the genesis or base snapshot that re-execution started from."""
    to_height: int
    """Last height that was re-executed and agreed."""
    committed_height: int
    """Highest height with a block that is final."""
    records: int
    findings: list[Finding]
    skipped: list[str]


@dataclass(slots=True)
class Notebook:
    """Collects findings, a bounded number of them."""

    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, where: str | Path, height: int | None, what: str) -> None:
        """Note a finding."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(str(where), height, what))
        else:
            self.more += 1

    def add_error(self, error: TepbftError, height: int | None = None) -> None:
        """Note an error that reading the store raised."""
        if isinstance(error, StoreDamaged) and error.offset is not None:
            self.add(f"{error.path} at byte {error.offset}", height, error.reason)
        else:
            self.add(error.thing, height, error.reason)

    def skip(self, what: str) -> None:
        """Note a check that was not made."""
        if what not in self.skipped and len(self.skipped) < MAX_FINDINGS:
            self.skipped.append(what)

    def all_findings(self) -> list[Finding]:
        """Every finding, and a last one for those that were too many."""
        if self.more:
            return [*self.findings, Finding("", None, f"{self.more} more findings are not listed")]
        return self.findings
