"""The node as its consensus room sees it: checks blocks, executes them, moves the state.

Implements `core.host.Host`. Everything that must reach the disk or a client goes
into the effects of the current step.
"""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.core.admission import OperatorSignature
from tepbft.core.block import CONFIG, NORMAL, NULL, Block, Header, Request
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import (
    Configuration,
    Genesis,
    check_replace,
    decode_replace,
)
from tepbft.core.events import Effects, InstallState, Notice, ReplaceState, SaveSnapshot
from tepbft.core.links import stored_link
from tepbft.core.requests import open_body
from tepbft.core.verification import Verifier
from tepbft.crypto.port import RequestVerifier
from tepbft.errors import PeerFault
from tepbft.execution.executor import Executor
from tepbft.execution.port import Application
from tepbft.mempool.pool import Mempool
from tepbft.node.replies import Replies
from tepbft.storage.port import ChainStore, HeaderRecord
from tepbft.types import Height, Millis
from tepbft.wire import ConfigLink, encode


class Decoded:
    """The requests of a block, decoded and checked once."""

    __slots__ = ("digests", "requests")

    def __init__(self, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        self.requests = requests
        self.digests = digests


class Ledger:
    """Blocks in, headers and replies out."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        store: ChainStore,
        head: Header,
        application: Application,
        verifier: Verifier,
        requests: RequestVerifier,
        mempool: Mempool,
        replies: Replies,
        ahead_ms: Millis,
    ) -> None:
        self.chain_id = genesis.chain_id
        self.parameters = genesis.parameters
        self.configuration = genesis.configuration()
        self.out = Effects()
        self.now: Millis = 0
        self.wall_ms: Millis = 0
        self.executed_view = 0
        """View to report with executed blocks; kept by the node."""
        self.known_headers: dict[Height, Header] = {}
        """Headers that the store already holds above the installed height (recovery)."""
        self._store = store
        self._admission = OperatorSignature(verifier)
        self._requests = requests
        self._mempool = mempool
        self._replies = replies
        self._ahead_ms = ahead_ms
        self._decoded: dict[bytes, Decoded] = {}
        self._snapshots: dict[Height, list[bytes]] = {}
        self._installed = head
        self._restoring: Header | None = None
        self.executor = Executor(
            chain_id=self.chain_id,
            application=application,
            reader=store,
            header=head,
            client_window=self.parameters.client_window,
            snapshot_interval=self.parameters.snapshot_interval,
        )

    # --- checking -----------------------------------------------------------------------------

    def check_block(self, block: Block, digest: bytes) -> None:
        """P8: static checks only; whether a request still has an effect is an outcome (A-25)."""
        if block.kind == NULL:
            if block.body or block.count or block.ts:
                raise PeerFault("malformed_block", "a NULL block with content")
        elif block.kind == CONFIG:
            self._check_config(block)
        elif block.kind == NORMAL:
            self._check_requests(block, digest)
        else:
            raise PeerFault("malformed_block", f"kind {block.kind}")

    def _check_config(self, block: Block) -> None:
        if block.count:
            raise PeerFault("malformed_config", "a CONFIG block carries no requests")
        change = decode_replace(block.body)
        check_replace(self.configuration, change, block.height, self.parameters.min_config_gap)
        if not self._admission.admits(self.chain_id, self.configuration, change):
            raise PeerFault("not_admitted", f"the operator of node {change.node} did not sign for it")

    def _check_requests(self, block: Block, digest: bytes) -> None:
        if digest in self._decoded:
            return
        limits = self.parameters
        if block.count > limits.block_requests or len(block.body) > limits.block_bytes:
            raise PeerFault("block_too_large", f"{block.count} requests, {len(block.body)} bytes")
        found = self._decode(block)
        unverified = self._mempool.unverified(found.requests, found.digests)
        if unverified:
            digests, requests = found.digests, found.requests
            if len(unverified) < len(requests):
                digests, requests = [digests[i] for i in unverified], [requests[i] for i in unverified]
            bad = self._requests.verify(digests, requests)
            if bad:
                raise PeerFault("bad_client_signature", f"request {unverified[bad[0]]} of the block")
        self._decoded[digest] = found

    def _decode(self, block: Block) -> Decoded:
        requests, digests = open_body(self.chain_id, block.body)
        if len(requests) != block.count or not requests:
            raise PeerFault("malformed_block", f"{len(requests)} requests, announced {block.count}")
        return Decoded(requests, digests)

    def proposed(self, digest: bytes, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        """This node sealed the block itself: nothing to decode or verify again."""
        self._decoded[digest] = Decoded(requests, digests)
        self._mempool.proposed(digest)

    def timely(self, block: Block) -> bool:
        """A timestamp far ahead delays the vote, it never makes a block invalid (A3.1)."""
        return block.ts <= self.wall_ms + self._ahead_ms

    def accepted(self, block: Block, digest: bytes) -> None:
        """Its requests are pending and in flight from now on (A3.3)."""
        found = self._decoded.get(digest)
        if found is None and block.kind == NORMAL:
            try:
                found = self._decoded[digest] = self._decode(block)
            except PeerFault:
                return
        if found is not None and block.height > self.executor.height:
            self._mempool.register_block(digest, found.requests, found.digests, self.now)

    def dropped(self, digest: bytes) -> None:
        """See `Host.dropped`."""
        if self._decoded.pop(digest, None) is not None:
            self._mempool.unpack((digest,))

    # --- executing ----------------------------------------------------------------------------

    def execute(self, block: Block, digest: bytes, following: Configuration | None) -> Header:
        """Execute the next block. Its certificate proves that a correct node checked its requests,
        so a block that this node never voted on is decoded, not verified again (A-20)."""
        found = self._decoded.pop(digest, None)
        if found is None:
            found = self._decode(block) if block.kind == NORMAL else Decoded([], [])
        config = encode(following) if following is not None else None
        done = self.executor.execute(block, digest, found.requests, found.digests, config)
        header = done.header
        known = self.known_headers.pop(header.height, None)
        if known is not None and known != header:
            # Agreement decides which of the two was right; the component signs only one of them.
            detail = f"block {header.height} executed to another result than before the restart"
            fields = {"what": "the application is not deterministic, or was changed", "detail": detail}
            self.out.notices.append(Notice("alarm", fields))
        if known != header:
            self.out.persist.append(HeaderRecord(header, done.encoded_receipts))
        if done.snapshot is not None:
            self._snapshots[header.height] = done.snapshot
        self._mempool.executed_block(digest, found.requests, self.now)
        self.out.replies += self._replies.executed(header.height, done.receipts, done.kept)
        counted = {"height": header.height, "requests": len(found.requests), "view": self.executed_view}
        self.out.notices.append(Notice("executed", counted))
        return header

    def stable(self, header: Header, certificate: CheckpointCertificate) -> None:
        """Install the state up to a stable height, keep its snapshot, release held replies."""
        writes = self.executor.install(header.height)
        self.out.store.append(InstallState(writes, header.height, header))
        self._installed = header
        for height in [height for height in self._snapshots if height <= header.height]:
            chunks = self._snapshots.pop(height)
            if height == header.height:
                self.out.store.append(SaveSnapshot(height, chunks))
        self.out.replies += self._replies.stable(header.height)

    def rollback(self) -> Header:
        """Back to the installed height."""
        self.executor.rollback(self._installed)
        self._snapshots.clear()
        self._decoded.clear()
        self.known_headers.clear()
        return self._installed

    def transferred(
        self, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """Put a verified snapshot in place of the state; reading from it starts with the next step."""
        self.out.store.append(ReplaceState(header.height, header, certificate, chunks))
        self._installed = self._restoring = header
        self._snapshots.clear()
        self._decoded.clear()
        self.known_headers.clear()

    def begin_step(self) -> None:
        """The store has carried out what earlier steps asked for."""
        if self._restoring is not None:
            self.executor.restore(self._restoring)
            self._restoring = None
            self._mempool.unpack(self._mempool.blocks())
            self._forget_decided()
        else:
            self.executor.settle()

    # --- views and configurations -------------------------------------------------------------

    def view_entered(self, in_flight: Sequence[bytes]) -> None:
        """Requests that the new view does not propose again are waiting again (A-28)."""
        keys: list[tuple[bytes, int, int]] = []
        for digest in in_flight:
            found = self._decoded.get(digest)
            if found is not None:
                keys += [(request.client, request.session, request.seq) for request in found.requests]
        self._mempool.reset_in_flight(keys, in_flight)
        self._forget_decided()

    def _forget_decided(self) -> None:
        """What was unpacked from abandoned blocks may have been executed in others."""
        decided = self.executor.is_decided
        gone = [key for key in self._mempool.pending_keys() if decided(*key)]
        if gone:
            self._mempool.executed_many(gone, self.now)

    def configured(self, cfg: Configuration) -> None:
        """A new configuration began: all that was in flight is void."""
        self.configuration = cfg
        self._decoded.clear()
        self._mempool.reset_in_flight(())
        self._forget_decided()

    def oldest_pending_ms(self) -> Millis | None:
        """See `Host.oldest_pending_ms`."""
        return self._mempool.oldest_pending_ms()

    def link_offer(self, since: int) -> tuple[ConfigLink, ...]:
        """Links from configuration `since` to the current one, as far as the ledger has them."""
        links: list[ConfigLink] = []
        for cfg in self.history[since + 1 :]:
            link = stored_link(self._store, cfg)
            if link is None:
                return ()
            links.append(link)
        return tuple(links)

    @property
    def history(self) -> list[Configuration]:
        """All configurations so far, the genesis one first; kept by the node."""
        return self._history

    @history.setter
    def history(self, found: list[Configuration]) -> None:
        self._history = found
