"""The configuration barrier: who counts where (I-19, I-20)."""

from __future__ import annotations

from tepbft.core.block import CONFIG, Header
from tepbft.sim.component import Statement
from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker
from tepbft.sim.world import World
from tepbft.trusted.port import COMMIT, PREPARE


class Barrier(Checker):
    """I-19: heights up to a CONFIG block belong to its configuration, heights above to the next; two
    components of one node are never both members."""

    name = "I-19"

    def on_executed(self, host: SimHost, header: Header, first: bool) -> None:
        """See `Checker`."""
        if not first:
            return
        chain = self.world.chain
        block = chain.entries[header.height].block
        cfg = chain.configurations.get(block.cfg)
        if cfg is None or header.height <= cfg.floor:
            self.violate(f"block {header.height} of configuration {block.cfg}, which is not its own")
            return
        following = chain.configurations.get(block.cfg + 1)
        if following is not None and header.height > following.floor:
            self.violate(f"block {header.height} of configuration {block.cfg} above its barrier")
        below = chain.entries.get(header.height - 1)
        if below is not None and below.block.kind == CONFIG and block.cfg != below.block.cfg + 1:
            self.violate(f"block {header.height} does not begin a configuration")

    def on_interval(self) -> None:
        """See `Checker`."""
        configurations = self.world.chain.configurations
        for number in sorted(configurations):
            if number == 0 or number - 1 not in configurations:
                continue
            before, after = configurations[number - 1], configurations[number]
            changed = [
                a.node for a, b in zip(before.members, after.members, strict=True) if a.tc_id != b.tc_id
            ]
            if len(changed) != 1 or len({m.tc_id for m in after.members}) != len(after.members):
                self.violate(f"configuration {number} replaces {len(changed)} components")


class RollbackExclusion(Checker):
    """I-20: after a cold start the old component is silent for ever, and the new one does not vote
    before a configuration names it."""

    name = "I-20"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._newest: dict[int, bytes] = {}
        self._gone: dict[bytes, None] = {}

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`."""
        known = self._newest.get(statement.node)
        if known != statement.tc_id:
            if statement.tc_id in self._gone:
                self.violate("a component that was replaced signs again", statement.node)
            if known is not None:
                self._gone[known] = None
            self._newest[statement.node] = statement.tc_id
        host = self.world.hosts[statement.node]
        if statement.kind in (PREPARE, COMMIT) and not host.byzantine:
            cfg = self.world.chain.configurations.get(statement.cfg)
            if cfg is None or cfg.members[statement.node].tc_id != statement.tc_id:
                self.violate("a component votes that is not a member", statement.node)


CONFIGURATION: tuple[type[Checker], ...] = (Barrier, RollbackExclusion)
