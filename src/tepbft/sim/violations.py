"""What a run of the simulator ends with: violations, coverage, a trace hash."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Violation:
    """An invariant did not hold. `name` is its ID (`I-1` … `I-26`) or `crash` (a correct node raised)."""

    name: str
    detail: str
    at_ms: int
    """Virtual time of the world."""
    host: int = -1
    """The host at which it was seen; -1 if it concerns several."""

    def __str__(self) -> str:
        where = f" host {self.host}" if self.host >= 0 else ""
        return f"{self.name} at {self.at_ms} ms{where}: {self.detail}"


@dataclass(frozen=True)
class SeedResult:
    """Everything that one seed led to. Equal seeds and settings give equal results (I-24)."""

    seed: int
    violations: tuple[Violation, ...]
    coverage: dict[str, int]
    """Counters by name (`coverage.NAMES`): what the run has exercised."""
    trace_hash: str
    """Hex BLAKE2b over the trace events, in order."""
    steps: int
    """Events that nodes took."""
    view_changes: int
    """Views that correct nodes became active in, each counted once per configuration."""
    virtual_ms: int
    signatures: str = "stub"
    """`stub` (keyed hashes, unforgeable inside the world) or `real` (P-256 and Ed25519)."""
    setting: dict[str, str] = field(default_factory=dict)
    """What the seed drew: for reports."""

    @property
    def ok(self) -> bool:
        """True if nothing was violated."""
        return not self.violations
