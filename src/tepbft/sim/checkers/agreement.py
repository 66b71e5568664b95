"""Agreement: heights, prefixes, order of execution, checkpoints (I-1, I-2, I-11, I-15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tepbft.core.block import CONFIG, NULL, Header
from tepbft.core.certificates import CommitCertificate
from tepbft.sim.component import Statement
from tepbft.sim.host import SimHost
from tepbft.sim.ports import Checker
from tepbft.sim.world import World
from tepbft.storage.port import CommitRecord, ConfigRecord, HeaderRecord, Record, StableRecord
from tepbft.trusted.port import CHECKPOINT, COMMIT, PREPARE


class Bookkeeper(Checker):
    """Not an invariant of its own: makes the agreed chain known to all others, so it comes first."""

    name = "I-2"

    def on_records(self, host: SimHost, records: Sequence[Record]) -> None:
        """See `Checker`."""
        world = self.world
        for record in records:
            if isinstance(record, HeaderRecord):
                self._header(host, record)
            elif isinstance(record, ConfigRecord):
                cfg = world.decode_configuration(record.data)
                if cfg.number not in world.chain.configurations:
                    world.coverage.count("configurations")
                    world.coverage.count("readmissions")
                if not world.chain.add_configuration(cfg):
                    world.violate("I-19", f"two configurations with number {cfg.number}", host.number)
                for hook in world.configuration_hooks:
                    hook(cfg.number)

    def _header(self, host: SimHost, record: HeaderRecord) -> None:
        world, header = self.world, record.header
        known = world.chain.entries.get(header.height)
        if known is not None:
            if known.header != header and not host.flawed:
                self.violate(f"two headers at height {header.height}", host.number)
            first = False
        elif host.flawed:
            return
        else:
            stored = host.disk.block(header.height)
            if stored is None:
                world.violate("I-16", f"header {header.height} without its final block", host.number)
                return
            world.chain.add(header, stored.block, record.receipts)
            self._count(stored.block.kind, stored.block.count)
            first = True
        for hook in world.hooks.on_executed:
            hook(host, header, first)

    def _count(self, kind: int, requests: int) -> None:
        coverage = self.world.coverage
        coverage["executed"] += 1
        coverage["requests"] += requests
        if kind == NULL:
            coverage.count("null_blocks")
        elif kind == CONFIG:
            coverage.count("config_blocks")


class HeightAgreement(Checker):
    """I-1: over all statements ever signed, one digest per height gets a commit quorum."""

    name = "I-1"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._votes: dict[tuple[int, int, int, bytes], dict[int, None]] = {}
        self.quorums: dict[tuple[int, int], tuple[int, bytes]] = {}
        """(configuration, height) -> (lowest view, digest) of what has a commit quorum."""
        self._early: list[Statement] = []
        """Statements of Byzantine hosts in configurations that no correct host has reached yet."""
        world.configuration_hooks.append(self._on_configuration)

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`."""
        if statement.kind not in (PREPARE, COMMIT):
            return
        world = self.world
        cfg = world.chain.configurations.get(statement.cfg)
        if cfg is None:
            self._early.append(statement)
            return
        if cfg.digest() != statement.cfg_digest:
            return
        if cfg.members[statement.node].tc_id != statement.tc_id:
            return
        if (cfg.primary(statement.view) == statement.node) != (statement.kind == PREPARE):
            return
        key = (statement.cfg, statement.view, statement.height, statement.digest)
        voters = self._votes.setdefault(key, {})
        voters[statement.node] = None
        if len(voters) == cfg.quorums.commit:
            self._quorum(statement)

    def _on_configuration(self, number: int) -> None:
        early, self._early = self._early, []
        for statement in early:
            self.on_statement(statement)

    def _quorum(self, statement: Statement) -> None:
        world = self.world
        place = (statement.cfg, statement.height)
        known = self.quorums.get(place)
        world.coverage.count("commit_quorums")
        if statement.view:
            world.coverage.count("commit_quorums_above_view_0")
        if known is not None and known[1] != statement.digest:
            self.violate(
                f"height {statement.height} has commit quorums in views {known[0]} and {statement.view} "
                "for different blocks"
            )
        elif known is None or statement.view < known[0]:
            self.quorums[place] = (statement.view, statement.digest)
        for hook in world.quorum_hooks:
            hook(statement.cfg, statement.height, statement.view, statement.digest)

    def on_executed(self, host: SimHost, header: Header, first: bool) -> None:
        """See `Checker`."""
        if not first:
            return
        block = self.world.chain.entries[header.height].block
        known = self.quorums.get((block.cfg, header.height))
        if known is None or known[1] != header.block_digest:
            self.violate(f"height {header.height} was executed without a commit quorum", host.number)


class PrefixAgreement(Checker):
    """I-2: the head of every correct host is the agreed header of its height, after every step."""

    name = "I-2"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._heads: dict[int, Header] = {}

    def on_step(self, host: SimHost) -> None:
        """See `Checker`."""
        node = host.node
        if node is None or host.flawed:
            return
        head = node.state.head
        if self._heads.get(host.number) is head:
            return
        self._heads[host.number] = head
        agreed = self.world.chain.entries.get(head.height)
        if agreed is not None and agreed.header != head and node.state.diverged_at < 0:
            self.violate(f"another header at height {head.height} than the agreed one", host.number)


class OrderOfExecution(Checker):
    """I-11: each process executes height after height; only a rollback or a transfer moves it."""

    name = "I-11"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._last: dict[int, int] = {}

    def on_start(self, host: SimHost) -> None:
        """See `Checker`."""
        self._last.pop(host.number, None)

    def on_notice(self, host: SimHost, name: str, fields: dict[str, Any]) -> None:
        """See `Checker`."""
        if name == "executed":
            height = fields["height"]
            last = self._last.get(host.number)
            if last is not None and height != last + 1:
                self.violate(f"executed height {height} after {last}", host.number)
            self._last[host.number] = height
        elif name in ("state_transferred", "diverged"):
            self._last.pop(host.number, None)


class CheckpointSoundness(Checker):
    """I-15: a stable checkpoint is the digest of a header that a correct host executed; and what is
    final was voted by members of its configuration, for all of it was really signed (I-20)."""

    name = "I-15"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._signed: dict[bytes, Statement] = {}

    def on_statement(self, statement: Statement) -> None:
        """See `Checker`."""
        if statement.kind in (PREPARE, COMMIT, CHECKPOINT):
            self._signed[statement.signature] = statement

    def on_records(self, host: SimHost, records: Sequence[Record]) -> None:
        """See `Checker`."""
        for record in records:
            if isinstance(record, StableRecord):
                self._stable(host, record)
            elif isinstance(record, CommitRecord):
                self._final(host, record.certificate)

    def _stable(self, host: SimHost, record: StableRecord) -> None:
        certificate = record.certificate
        if not certificate.votes:
            return
        agreed = self.world.chain.entries.get(certificate.height)
        if agreed is None or agreed.digest != certificate.digest:
            self.violate(
                f"stable checkpoint at height {certificate.height} that no correct host executed", host.number
            )
        for vote in certificate.votes:
            found = self._signed.get(vote.signature)
            if (
                found is None
                or not self._is_member(found)
                or (found.node, found.height, found.digest)
                != (vote.node, certificate.height, certificate.digest)
            ):
                self.violate(f"checkpoint {certificate.height} counts what no member signed", host.number)

    def _final(self, host: SimHost, certificate: CommitCertificate) -> None:
        place = (certificate.view, certificate.height, certificate.digest)
        for vote in certificate.votes:
            found = self._signed.get(vote.signature)
            if (
                found is None
                or not self._is_member(found)
                or found.node != vote.node
                or (found.view, found.height, found.digest) != place
            ):
                self.world.violate(
                    "I-20", f"height {certificate.height} counts a vote that no member signed", host.number
                )

    def _is_member(self, statement: Statement) -> bool:
        cfg = self.world.chain.configurations.get(statement.cfg)
        return cfg is not None and cfg.members[statement.node].tc_id == statement.tc_id


AGREEMENT: tuple[type[Checker], ...] = (
    Bookkeeper,
    HeightAgreement,
    PrefixAgreement,
    OrderOfExecution,
    CheckpointSoundness,
)
