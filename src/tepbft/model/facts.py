"""The global set of signed facts, and the certificates that they make up.

Blocks are small integers: 0 is the NULL block, every other number one block of one
configuration and height. A CONFIG block's number also names the configuration that
it leads to, so that names do not depend on the order of events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

NULL = 0
ROOT = 0
"""Name of configuration 0."""

Log = tuple[int, ...]
"""Digests of the blocks executed at heights 1, 2, ..."""
Evidence = dict[int, tuple[int, int]]
"""height -> (certified view, digest)"""


class Configuration(NamedTuple):
    """A member table. `floor` is the height of the CONFIG block that led to it."""

    name: int
    number: int
    parent: int
    floor: int
    members: tuple[int, ...]
    """The component that each node votes with."""

    def primary(self, view: int) -> int:
        """The node that proposes in `view`."""
        return (self.number + view) % len(self.members)


class Block(NamedTuple):
    """What a digest stands for. `node` is -1 unless the block replaces `node`'s component."""

    cfg: int
    height: int
    node: int = -1
    component: int = -1


@dataclass(slots=True)
class NewView:
    """One NEW-VIEW statement: its summary, and the correct nodes that acknowledged it."""

    cfg: int
    view: int
    base: int
    entries: dict[int, int]
    """nvc: height -> digest, from base+1 to the top without gaps."""
    genuine: bool = True
    """False: its summary follows from no VIEW-CHANGEs; no correct node acknowledges it."""
    backers: int = 0
    """Bit mask of correct nodes; Byzantine ones back whatever helps them."""
    certified: bool = False


@dataclass(slots=True)
class ViewChange:
    """One VIEW-CHANGE. `lock_view`, `floor` and `registers` are attested, the rest is the host's."""

    node: int
    component: int
    cfg: int
    to: int
    lock_view: int
    floor: int
    registers: dict[int, int]
    checkpoint: int
    certified: NewView | None
    prepares: dict[int, int]
    truncated: tuple[int, ...] = ()
    """Heights signed before the checkpoint, which only the mutant `trunc` leaves out."""
    evidence: Evidence = field(default_factory=dict)


class Facts:
    """Everything that was ever signed and could matter to anybody."""

    __slots__ = (
        "blocks",
        "checkpoints",
        "chosen",
        "configurations",
        "counted_views",
        "new_views",
        "prepared",
        "prepared_in",
        "quorums",
        "stable",
        "view_changes",
        "votes",
    )

    def __init__(self, root: Configuration) -> None:
        self.configurations: dict[int, Configuration] = {ROOT: root}
        self.blocks: dict[int, Block] = {}
        self.prepared: dict[tuple[int, int, int], list[int]] = {}
        """(cfg, view, height) -> digests; one, unless components are broken."""
        self.prepared_in: dict[tuple[int, int], list[tuple[int, int]]] = {}
        """(cfg, view) -> [(height, digest)]"""
        self.votes: dict[tuple[int, int, int, int], int] = {}
        """(cfg, view, height, digest) -> bit mask of nodes"""
        self.quorums: dict[int, list[tuple[int, int, int]]] = {ROOT: []}
        """cfg -> [(view, height, digest)] with a commit quorum"""
        self.chosen: dict[tuple[int, int], int] = {}
        """(cfg, height) -> digest with a commit quorum"""
        self.checkpoints: dict[tuple[int, Log], int] = {}
        """(cfg, executed log) -> bit mask of correct nodes"""
        self.stable: dict[int, dict[int, Log]] = {ROOT: {}}
        """cfg -> height -> log with a checkpoint certificate"""
        self.view_changes: dict[tuple[int, int], dict[int, list[ViewChange]]] = {}
        """(cfg, to) -> node -> valid VIEW-CHANGEs"""
        self.new_views: dict[tuple[int, int], list[NewView]] = {}
        self.counted_views: dict[int, list[NewView]] = {ROOT: []}
        """cfg -> certified NEW-VIEWs"""

    def add_configuration(self, digest: int, block: Block) -> None:
        """A CONFIG block was proposed: the configuration that it would lead to has a name."""
        parent = self.configurations[block.cfg]
        members = list(parent.members)
        members[block.node] = block.component
        self.configurations[digest] = Configuration(
            digest, parent.number + 1, block.cfg, block.height, tuple(members)
        )
        self.quorums[digest] = []
        self.stable[digest] = {}
        self.counted_views[digest] = []

    def add_prepare(self, cfg: int, view: int, height: int, digest: int) -> None:
        """A primary's component signed a PREPARE."""
        known = self.prepared.setdefault((cfg, view, height), [])
        if digest not in known:
            known.append(digest)
            self.prepared_in.setdefault((cfg, view), []).append((height, digest))

    def is_prepared(self, cfg: int, view: int, height: int, digest: int) -> bool:
        """True if there is such a PREPARE."""
        return digest in self.prepared.get((cfg, view, height), ())

    def is_config(self, digest: int) -> bool:
        """True if the block replaces a component."""
        return digest in self.configurations and digest != ROOT
