"""What the stores of a cluster together prove: its last state, for an operator's recovery (A8.4).

Nothing is believed because a node says it. Configurations count if signed changes and
certificates lead to them, a state if checkpoint statements name its header, a block
above it if a commit certificate does. Above all certificates blocks go on that clients may
have been told of (`promised`). Every store is then brought to the same height
by execution, and the resulting state counts if f+1 stores have it alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tepbft.audit.audit import third_party_verifier
from tepbft.core.admission import OperatorSignature
from tepbft.core.block import CONFIG, NORMAL, Block, Header, decode_body, digest_of, genesis_header
from tepbft.core.configuration import Configuration, Genesis, next_configuration
from tepbft.core.links import follow_links, stored_link
from tepbft.core.verification import check_checkpoint_certificate, check_commit_certificate
from tepbft.errors import PeerFault, TepbftError
from tepbft.execution.executor import Executor
from tepbft.execution.port import Application
from tepbft.execution.snapshot import decode_chunk, make_chunks, snapshot_root
from tepbft.protocols.tep.promised import Promised
from tepbft.storage.port import ChainStore
from tepbft.storage.records import decode_configuration
from tepbft.trusted.verify import UiVerifier
from tepbft.types import ZERO_DIGEST, Height
from tepbft.wire import encode

CARRIED = (b"a", b"c")
"""First bytes of the state keys that go on: application and client table, not the old configuration."""


@dataclass(frozen=True)
class Salvaged:
    """The last state that the stores prove."""

    height: Height
    header: Header
    chunks: list[bytes]
    root: bytes
    """`snapshot_root` over `chunks`."""
    stable_height: Height
    """The highest height with a valid checkpoint certificate; blocks above it were executed again."""
    configuration: Configuration
    agreeing: tuple[int, ...]
    """Nodes whose stores give exactly this state."""
    proven_height: Height = 0
    """The highest height with a valid commit certificate. What is above it may have been decided: it was
    proposed in the last view, and its requests are genuine (`promised`)."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Replayed:
    node: int
    header: Header
    configuration: Configuration
    chunks: list[bytes]
    root: bytes
    proven: Height


class Salvage:
    """One look at all stores. `stores` maps nodes to open stores of one chain."""

    def __init__(
        self, genesis: Genesis, stores: dict[int, ChainStore], make_application: Callable[[], Application]
    ) -> None:
        self._genesis = genesis
        self._chain_id = genesis.chain_id
        self._stores = stores
        self._make_application = make_application
        self._verifier = UiVerifier(genesis.chain_id)
        self.configurations = self._follow_configurations()
        """All that can be proven, the genesis one first."""
        self._recovered = {node: store.recover() for node, store in stores.items()}
        self._promised: dict[int, Promised] = {}
        self._certified: dict[Height, bytes] = {}
        """Height -> cp_hash, for heights with a valid checkpoint certificate at or above an installed one."""
        for store in stores.values():
            self._note_certified(store)

    # --- what is proven -----------------------------------------------------------------------

    def _follow_configurations(self) -> list[Configuration]:
        chain = [self._genesis.configuration()]
        while True:
            steps = (self._next_configuration(store, chain[-1]) for store in self._stores.values())
            following = next((cfg for cfg in steps if cfg is not None), None)
            if following is None:
                return chain
            chain.append(following)

    def _next_configuration(self, store: ChainStore, cfg: Configuration) -> Configuration | None:
        """The configuration after `cfg`, if this store proves one."""
        try:
            known = {found.number: found for found in map(decode_configuration, store.configurations())}
            following = known.get(cfg.number + 1)
            link = stored_link(store, following) if following is not None else None
            if link is None:
                return None
            return follow_links(
                self._chain_id,
                cfg,
                [link],
                verifier=self._verifier,
                admission=OperatorSignature(self._verifier),
                min_gap=self._genesis.parameters.min_config_gap,
            )[0]
        except (PeerFault, TepbftError):
            return None

    def _configuration_at(self, height: Height) -> Configuration:
        """The one under which the block above `height` is decided."""
        return [cfg for cfg in self.configurations if cfg.floor <= height][-1]

    def _stable_heights(self, store: ChainStore) -> Iterator[tuple[Height, bytes]]:
        """(height, cp_hash) with a valid certificate, from the installed height on."""
        height = store.recover().installed
        while (found := store.stable_at_or_above(height)) is not None:
            certificate, header = found
            cfg = certificate.cfg
            if (
                cfg < len(self.configurations)
                and header.digest() == certificate.digest
                and check_checkpoint_certificate(self.configurations[cfg], certificate, self._verifier)
            ):
                yield header.height, certificate.digest
            height = certificate.height + 1

    def _note_certified(self, store: ChainStore) -> None:
        try:
            for height, digest in self._stable_heights(store):
                if self._certified.setdefault(height, digest) != digest:
                    raise TepbftError(
                        f"height {height}",
                        "two different headers have a valid checkpoint certificate: more than f nodes lied",
                        "This cannot be recovered by a program; keep all folders and compare them by hand.",
                    )
        except PeerFault:
            return

    def _final_block(self, height: Height, cfg: Configuration) -> Block | None:
        """A block with a valid commit certificate, from whichever store has one."""
        for store in self._stores.values():
            try:
                stored = store.block(height)
            except TepbftError:
                continue
            if stored is None:
                continue
            block, certificate = stored.block, stored.certificate
            if (
                certificate.height == block.height == height
                and block.cfg == cfg.number
                and block.digest(self._chain_id) == certificate.digest
                and check_commit_certificate(cfg, certificate, self._verifier)
            ):
                return block
        return None

    def _promised_block(self, height: Height, cfg: Configuration) -> Block | None:
        """A block above all certificates that may have been decided."""
        found = self._promised.get(cfg.number)
        if found is None:
            found = self._promised[cfg.number] = Promised(
                self._genesis,
                cfg,
                self._floor_digest(cfg),
                self._recovered,
                verifier=self._verifier,
                requests=third_party_verifier(self._genesis),
                genuine=self._genesis.scheme == "none",
            )
        return found.block(height)

    def _floor_digest(self, cfg: Configuration) -> bytes:
        """cp_hash at the configuration's floor: the genesis header's, or that of the certified barrier."""
        if cfg.floor == self._genesis.base_height:
            return self._base_header().digest()
        for store in self._stores.values():
            found = store.stable_at_or_above(cfg.floor)
            if found is None or found[0].height != cfg.floor or found[0].cfg >= len(self.configurations):
                continue
            if check_checkpoint_certificate(self.configurations[found[0].cfg], found[0], self._verifier):
                return found[0].digest
        return ZERO_DIGEST

    def _base_header(self) -> Header:
        """The header that the chain begins with."""
        root = self._genesis.recovered.snapshot_root if self._genesis.recovered else None
        return genesis_header(self._chain_id, self._genesis.base_height, *([root] if root else []))

    # --- bringing every store to the same height ----------------------------------------------

    def _start_of(self, store: ChainStore) -> Header:
        """The header of the installed state, proven; PeerFault otherwise."""
        header = store.recover().base_header or genesis_header(self._chain_id, self._genesis.base_height)
        if header == self._base_header() or self._certified.get(header.height) == header.digest():
            return header
        raise PeerFault("unproven", f"the header of its state at height {header.height} is not certified")

    def _replay(self, node: int, store: ChainStore) -> _Replayed:
        parameters = self._genesis.parameters
        header = self._start_of(store)
        cfg = self._configuration_at(header.height)
        executor = Executor(
            chain_id=self._chain_id,
            application=self._make_application(),
            reader=store,
            header=header,
            client_window=parameters.client_window,
            snapshot_interval=parameters.snapshot_interval,
        )
        proven = header.height
        while True:
            block = self._final_block(executor.height + 1, cfg)
            if block is not None:
                proven = block.height
            else:
                block = self._promised_block(executor.height + 1, cfg)
            if block is None:
                break
            requests = decode_body(block.body) if block.kind == NORMAL else []
            digests = [digest_of(self._chain_id, request) for request in requests]
            following = next_configuration(cfg, block) if block.kind == CONFIG else None
            config = encode(following) if following is not None else None
            done = executor.execute(block, block.digest(self._chain_id), requests, digests, config)
            certified = self._certified.get(done.header.height)
            if certified is not None and certified != done.digest:
                raise PeerFault("diverged", f"executing block {done.header.height} gives another header")
            cfg = following or cfg
        pairs = (
            pair
            for chunk in executor.snapshot_chunks()
            for pair in decode_chunk(chunk)
            if pair[0][:1] in CARRIED
        )
        chunks = make_chunks(pairs)
        return _Replayed(node, executor.head, cfg, chunks, snapshot_root(chunks), proven)

    def run(self) -> Salvaged:
        """The state that f+1 stores give alike at the highest height; TepbftError if there is none."""
        problems: list[str] = []
        alike: dict[tuple[Height, bytes, bytes], list[_Replayed]] = defaultdict(list)
        for node, store in self._stores.items():
            try:
                replayed = self._replay(node, store)
            except (PeerFault, TepbftError) as error:
                problems.append(f"node{node}: {error}")
                continue
            alike[replayed.header.height, replayed.header.digest(), replayed.root].append(replayed)
        problems += [problem for found in self._promised.values() for problem in found.problems]
        stable = max(self._certified, default=self._genesis.base_height)
        return self._choose(list(alike.values()), stable, problems)

    def _choose(self, groups: Sequence[Sequence[_Replayed]], stable: Height, problems: list[str]) -> Salvaged:
        needed = self._genesis.configuration().quorums.f + 1
        enough = [group for group in groups if len(group) >= needed]
        if not enough:
            raise TepbftError(
                "the stores",
                f"no state is the same in {needed} of them"
                + (f" ({'; '.join(problems)})" if problems else ""),
                "Bring the folders of all nodes here, and restore damaged ones from copies.",
            )
        group = max(enough, key=lambda found: found[0].header.height)
        chosen = group[0]
        top = max(stable, *(found[0].header.height for found in groups))
        if chosen.header.height < top:
            raise TepbftError(
                "the stores",
                f"height {top} is proven, but only up to height {chosen.header.height} do {needed} agree",
                "Bring the folders of all nodes here: going on from below would lose what was agreed.",
            )
        for other in groups:
            if other is not group:
                problems += [f"node{replayed.node}: its state differs" for replayed in other]
        return Salvaged(
            height=chosen.header.height,
            header=chosen.header,
            chunks=chosen.chunks,
            root=chosen.root,
            stable_height=stable,
            configuration=chosen.configuration,
            agreeing=tuple(replayed.node for replayed in group),
            proven_height=max(replayed.proven for replayed in group),
            problems=problems,
        )
