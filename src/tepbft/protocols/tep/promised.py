"""Blocks above all certificates that clients may have been told of: what the last view's PREPAREs say.

A node writes the certificate of a block before it replies, and forces it to the disk a
little later (ADR 0022). A power failure of all nodes can take it from all of them. What
stays is what they forced before they voted: the body and the PREPARE. A block is decided
by n - f votes, at least one of them by a correct node, so one of the stores at hand shows it.

Of a height above all certificates

* what the highest certified view proposed again counts, whatever came before (A-53);
* else the PREPARE of its primary in that view: its component signs only one;
* else what its primary recorded before it asked for the signature, in its own store: where
  nobody else's shows the PREPARE, a correct primary may have been the only correct voter.

No other block can have been decided there. One that was not is as good as decided at the
last moment, provided that a correct node could have voted for it: its requests are genuine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from tepbft.core.block import NORMAL, NULL, Block, null_block
from tepbft.core.certificates import PrepareHead
from tepbft.core.configuration import Configuration, Genesis
from tepbft.core.requests import open_body
from tepbft.core.verification import Verifier, check_prepare
from tepbft.crypto.port import RequestVerifier
from tepbft.errors import PeerFault, TepbftError
from tepbft.protocols.tep.evidence import Setting, check_new_view_certificate
from tepbft.protocols.tep.messages import NewViewCertificate
from tepbft.storage.port import BodyRecord, PrepareRecord, Recovered, ViewRecord
from tepbft.types import Digest, Height, NodeId

_decode_view = msgspec.msgpack.Decoder(NewViewCertificate)


class Promised:
    """What the configuration `cfg` may have decided, from what `stores` hold (`ChainStore.recover`, by node).

    `floor_digest` is cp_hash at its floor. `requests` checks those of clients; None if only the nodes could
    have (scheme `mac`): then f+1 stores must have accepted a block. `genuine` says that nothing is
    authenticated in any case (`none`).
    """

    def __init__(
        self,
        genesis: Genesis,
        cfg: Configuration,
        floor_digest: bytes,
        stores: Mapping[NodeId, Recovered],
        *,
        verifier: Verifier,
        requests: RequestVerifier | None,
        genuine: bool = False,
    ) -> None:
        self._setting = setting = Setting(
            genesis.chain_id, cfg, floor_digest, genesis.parameters.window, verifier
        )
        self._parameters = genesis.parameters
        self._requests = requests
        self._genuine = genuine
        self._certificate = self._highest_view(stores)
        self._view = self._certificate.view if self._certificate else 0
        self._bodies: dict[Digest, Block] = {}
        self._signed: dict[Height, set[Digest]] = defaultdict(set)
        self._drafts: dict[Height, Digest] = {}
        self._accepted: dict[Digest, set[NodeId]] = defaultdict(set)
        """Nodes whose stores say that they voted for a block, in whatever view."""
        for node, recovered in stores.items():
            for record in recovered.records:
                if isinstance(record, BodyRecord) and record.block.cfg == setting.cfg.number:
                    self._bodies.setdefault(record.block.digest(setting.chain_id), record.block)
                elif isinstance(record, PrepareRecord) and record.cfg == setting.cfg.number:
                    self._note(node, record.prepare)
        self.problems: list[str] = []
        """What may have been decided, and cannot be told from what was not."""

    def _highest_view(self, stores: Mapping[NodeId, Recovered]) -> NewViewCertificate | None:
        found: NewViewCertificate | None = None
        for recovered in stores.values():
            for record in recovered.records:
                if not isinstance(record, ViewRecord) or record.slot != "new_view_certificate":
                    continue
                try:
                    certificate = _decode_view.decode(record.data)
                except (msgspec.DecodeError, RecursionError, ValueError):
                    continue
                newer = found is None or certificate.view > found.view
                if newer and check_new_view_certificate(self._setting, certificate):
                    found = certificate
        return found

    def _note(self, node: NodeId, head: PrepareHead) -> None:
        cfg = self._setting.cfg
        if not head.signature:
            if node != cfg.primary(head.view):
                return
            if head.view == self._view:
                self._drafts[head.height] = head.digest
        elif not check_prepare(cfg, head, self._setting.verifier):
            return
        elif head.view == self._view:
            self._signed[head.height].add(head.digest)
        self._accepted[head.digest].add(node)

    def block(self, height: Height) -> Block | None:
        """The only block that can have been decided at `height`; None if none can. TepbftError if a
        component signed two."""
        digest = self._digest(height)
        if digest is None:
            return None
        block = self._bodies.get(digest)
        if block is None:
            empty = null_block(self._setting.cfg.number, height)
            return empty if empty.digest(self._setting.chain_id) == digest else None
        # A CONFIG block is told to nobody before its checkpoint is stable, and that is forced.
        if block.height != height or block.kind not in (NORMAL, NULL):
            return None
        return block if block.kind == NULL or self._is_genuine(block, digest) else None

    def _digest(self, height: Height) -> Digest | None:
        certified = self._certificate.digest_at(height) if self._certificate else None
        if certified is not None:
            return certified
        signed = self._signed.get(height, set())
        if len(signed) > 1:
            raise TepbftError(
                f"height {height}",
                f"the trusted component of node {self._setting.cfg.primary(self._view)} signed two blocks",
                "This cannot be recovered by a program; keep all folders and compare them by hand.",
            )
        return next(iter(signed), None) or self._drafts.get(height)

    def _is_genuine(self, block: Block, digest: Digest) -> bool:
        """True if a correct node may have accepted it: its requests are those of clients."""
        limits = self._parameters
        if block.count > limits.block_requests or len(block.body) > limits.block_bytes:
            return False
        try:
            requests, digests = open_body(self._setting.chain_id, block.body)
        except PeerFault:
            return False
        if len(requests) != block.count:
            return False
        if self._genuine:
            return True
        if self._requests is not None:
            return not self._requests.verify(digests, requests)
        if len(self._accepted[digest]) >= self._setting.cfg.quorums.certificate:
            return True
        self.problems.append(
            f"height {block.height} may have been decided; only nodes could check its requests, and fewer "
            "than f+1 of these stores accepted it: left out"
        )
        return False
