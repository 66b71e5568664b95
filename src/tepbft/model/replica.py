"""What one correct node remembers."""

from __future__ import annotations

from tepbft.model.facts import ROOT, Log, NewView

NO_BARRIER = 1 << 30


class Replica:
    """A correct node. `stable` needs a certificate only, `log` needs the state: two variables (A3.3)."""

    __slots__ = (
        "acknowledged",
        "active",
        "barrier",
        "certified",
        "cfg",
        "closing",
        "component",
        "following",
        "log",
        "node",
        "signed",
        "silent",
        "stable",
        "view",
    )

    def __init__(self, node: int, component: int) -> None:
        self.node, self.component = node, component
        self.log: Log = ()
        self.silent = False
        """Its component is not a member: it signs nothing (A8.2)."""
        self.signed = 0
        """Height of the last own CHECKPOINT of this configuration."""
        self.begin(ROOT, 0)

    def begin(self, cfg: int, floor: int) -> None:
        """Start in `cfg`, view 0, above its floor."""
        self.cfg = cfg
        self.view = 0
        self.active = True
        self.certified: NewView | None = None
        self.stable = self.signed = floor
        self.barrier = NO_BARRIER
        """Lowest height at which a CONFIG block is known to be final in this configuration."""
        self.following = -1
        """The configuration that the executed CONFIG block leads to."""
        self.closing = NO_BARRIER
        """Height of a CONFIG block that this primary proposed in this view."""
        self.acknowledged: dict[int, int] = {}
        """view -> index of the NEW-VIEW that was acknowledged"""

    @property
    def certified_view(self) -> int:
        """The highest certified view that it entered."""
        return self.certified.view if self.certified is not None else 0
