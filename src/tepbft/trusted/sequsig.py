"""USIG, the classical unique sequential identifier generator (Veronese et al., MinBFT).

One strictly sequential counter: every message takes the next value, and nobody
gets the same value for two messages (A10, item 1). It only *detects*: what a host
leaves out of its stream is found by those who read the stream without gaps, which
is why they must read it strictly in order (A-05, A-06). TEP-BFT uses HB-USIG instead.

The signed bytes are `"SEQUSIG1" | chain_id | cfg u32 | cfg_digest | node u32 | tc_id |
counter u64 | kind u8 | digest`: the same binding as HB-USIG under a prefix of its own,
so that no statement of one verifies as one of the other (I-26).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from tepbft.core.configuration import Configuration
from tepbft.errors import PeerFault, TrustedRefusal
from tepbft.trusted.keys import (
    DEFAULT_KIND,
    ComponentKey,
    KeyKind,
    PrivateKey,
    Secret,
    fresh_key,
    load_public,
    private_key,
    tc_id_of,
)
from tepbft.trusted.port import ATTEST, Identity, Ui
from tepbft.trusted.sealing import MemoryPlatform, Platform, SealRefused, restore, seal
from tepbft.trusted.verify import ATTEST_CFG, SEQ_LIMIT, MemberKeys
from tepbft.types import MAX_NODES, U8, U32, U64, ZERO_DIGEST, Digest, NodeId, Signature
from tepbft.wire import Codec, encode

_U32 = struct.Struct("<I")
_COUNTER_KIND = struct.Struct("<QB")


def sequential_binding(chain_id: bytes, cfg: int, cfg_digest: bytes, node: NodeId, tc_id: bytes) -> bytes:
    """The part of every pre-image that one component in one configuration has in common."""
    return b"SEQUSIG1" + chain_id + _U32.pack(cfg) + cfg_digest + _U32.pack(node) + tc_id


def sequential_preimage(bound: bytes, counter: int, kind: int, digest: bytes) -> bytes:
    """The signed bytes of one statement."""
    return bound + _COUNTER_KIND.pack(counter, kind) + digest


class Issued(Struct, array_like=True, frozen=True):
    """The last statement, so that a host that crashed before writing it down does not leave a gap."""

    counter: U64
    kind: U8
    digest: Digest
    signature: Signature


class SeqUsigState(Struct, array_like=True, frozen=True, tag=2):
    """Everything that a component is, secret key included: what sealing protects."""

    secret: Secret
    chain_id: Annotated[bytes, Meta(max_length=32)]
    node: U32
    cfg: U32
    cfg_digest: Digest
    counter: U64
    last: Issued | None


_codec: Codec[SeqUsigState] = Codec(SeqUsigState)


class SeqUsig:
    """One component with one counter. Pure state; not thread-safe.

    `signer` and `platform` as in `HbUsig`. Refusals raise TrustedRefusal.
    """

    def __init__(
        self,
        key: PrivateKey,
        *,
        signer: Callable[[bytes], bytes] | None = None,
        platform: Platform | None = None,
    ) -> None:
        self.platform: Platform = platform if platform is not None else MemoryPlatform()
        self._key = ComponentKey(key, signer)
        self._warm = False
        self._halted = False
        self._chain_id = b""
        self._node = 0
        self._cfg = 0
        self._cfg_digest = ZERO_DIGEST
        self._counter = 0
        self._last: Issued | None = None
        self._bound = b""

    @classmethod
    def fresh(cls, platform: Platform | None = None, kind: KeyKind = DEFAULT_KIND) -> SeqUsig:
        """A component with a new random key: a new identity, counter 0."""
        return cls(fresh_key(kind), platform=platform)

    @property
    def last(self) -> Issued | None:
        """The last statement of this configuration, if any."""
        return self._last

    def identity(self) -> Identity:
        """Who it is; `seq` is the counter, and what only HB-USIG has is zero."""
        return Identity(
            tc_id=self._key.tc_id,
            key=self._key.public,
            chain_id=self._chain_id,
            node=self._node,
            cfg=self._cfg,
            seq=self._counter,
            view=0,
            lock_view=0,
            floor=0,
            halted=self._halted,
            warm=self._warm,
        )

    def _check_running(self) -> None:
        if self._halted:
            raise TrustedRefusal("halted", "sealed: it runs again only where it is restored")

    def provision(self, chain_id: bytes, node: NodeId, cfg: int, cfg_digest: bytes) -> None:
        """Bind to a chain and a node, once and for ever; the same again changes nothing (A-11)."""
        self._check_running()
        if len(chain_id) != 32 or len(cfg_digest) != 32:
            raise TrustedRefusal("malformed", "a binding out of bounds")
        if not (0 <= node < MAX_NODES and 0 <= cfg < ATTEST_CFG):
            raise TrustedRefusal("malformed", "a binding out of bounds")
        if self._chain_id:
            if (chain_id, node) != (self._chain_id, self._node):
                raise TrustedRefusal("config", "bound to another chain or node already")
            return
        self._chain_id, self._node, self._cfg, self._cfg_digest = chain_id, node, cfg, cfg_digest
        self._bind()

    def _bind(self) -> None:
        if self._chain_id:
            self._bound = sequential_binding(
                self._chain_id, self._cfg, self._cfg_digest, self._node, self._key.tc_id
            )

    def begin_config(self, cfg: int, cfg_digest: bytes) -> None:
        """Start a new stream at counter 1 in a later configuration; the current one again is a no-op."""
        self._check_running()
        if not self._chain_id:
            raise TrustedRefusal("unprovisioned", "not bound to a chain yet")
        if not 0 <= cfg < ATTEST_CFG or len(cfg_digest) != 32:
            raise TrustedRefusal("malformed", "not a configuration")
        if (cfg, cfg_digest) == (self._cfg, self._cfg_digest):
            return
        if cfg <= self._cfg:
            raise TrustedRefusal("config", f"in configuration {self._cfg}, cannot begin {cfg}")
        self._cfg, self._cfg_digest, self._counter, self._last = cfg, cfg_digest, 0, None
        self._bind()

    def create_ui(self, digest: bytes, statement_kind: int) -> Ui:
        """The next counter value, bound to `statement_kind` (u8, not ATTEST) and `digest` (32 bytes)."""
        self._check_running()
        if not self._chain_id:
            raise TrustedRefusal("unprovisioned", "not bound to a chain yet")
        if len(digest) != 32 or not 0 <= statement_kind <= 255 or statement_kind == ATTEST:
            raise TrustedRefusal("malformed", "not a statement")
        counter = self._counter + 1
        signature = self._key.sign(sequential_preimage(self._bound, counter, statement_kind, digest))
        self._counter = counter
        self._last = Issued(counter, statement_kind, digest, signature)
        return Ui(counter, signature)

    def attest(self, digest: bytes) -> Ui:
        """Prove possession of the key over 32 bytes. Takes no counter value: it is outside the stream."""
        self._check_running()
        if not self._chain_id:
            raise TrustedRefusal("unprovisioned", "not bound to a chain yet")
        if len(digest) != 32:
            raise TrustedRefusal("malformed", "not an ATTEST statement")
        bound = sequential_binding(self._chain_id, ATTEST_CFG, ZERO_DIGEST, self._node, self._key.tc_id)
        return Ui(0, self._key.sign(sequential_preimage(bound, 0, ATTEST, digest)))

    # --- sealing ------------------------------------------------------------------------------

    def seal(self) -> bytes:
        """Halt for ever, and return the sealed state that `restore` accepts exactly once (A8.1)."""
        if self._halted:
            raise TrustedRefusal("halted", "sealed already")
        self._halted = True
        return seal(self.export_state(), self.platform)

    @classmethod
    def restore(
        cls, blob: bytes, platform: Platform, signer: Callable[[bytes], bytes] | None = None
    ) -> SeqUsig:
        """The component in a sealed blob, warm: same key, same counter. `SealRefused` otherwise."""
        return cls.import_state(restore(blob, platform), platform, signer)

    def export_state(self) -> bytes:
        """Canonical bytes of the whole state, secret key included. They must only leave sealed."""
        return encode(
            SeqUsigState(
                secret=self._key.secret(),
                chain_id=self._chain_id,
                node=self._node,
                cfg=self._cfg,
                cfg_digest=self._cfg_digest,
                counter=self._counter,
                last=self._last,
            )
        )

    @classmethod
    def import_state(
        cls, data: bytes, platform: Platform | None = None, signer: Callable[[bytes], bytes] | None = None
    ) -> SeqUsig:
        """Inverse of `export_state`; the component counts as warm. `SealRefused` if malformed."""
        try:
            state = _codec.decode(data)
            key = private_key(state.secret)
        except (PeerFault, ValueError) as error:
            raise SealRefused(f"it does not contain a component ({error})") from None
        component = cls(key, signer=signer, platform=platform)
        component._warm = True
        component._chain_id, component._node = state.chain_id, state.node
        component._cfg, component._cfg_digest = state.cfg, state.cfg_digest
        component._counter, component._last = state.counter, state.last
        component._bind()
        return component


class SeqUiVerifier:
    """Checks statements of `SeqUsig` components for one chain. Never raises on hostile bytes."""

    def __init__(self, chain_id: bytes) -> None:
        if len(chain_id) != 32:
            raise ValueError("a chain_id is 32 bytes")
        self.chain_id = chain_id
        self._components = MemberKeys(partial(sequential_binding, chain_id))

    def verify_ui(self, cfg: Configuration, node: NodeId, kind: int, digest: bytes, ui: Ui) -> bool:
        """True iff the component of `node` in `cfg` gave value `ui.seq` to (`kind`, `digest`).

        `digest` is computed by the caller from the message itself. That values come
        without gaps is the caller's to check.
        """
        if not (1 <= ui.seq < SEQ_LIMIT and 0 <= kind <= 255 and kind != ATTEST and len(digest) == 32):
            return False
        component = self._components.find(cfg, node)
        if component is None:
            return False
        key, bound = component
        return key.verify(sequential_preimage(bound, ui.seq, kind, digest), ui.signature)

    def attested(self, key: bytes, tc_id: bytes, node: NodeId, digest: bytes, ui: Ui) -> bool:
        """True iff the component named `tc_id`, whose key is `key`, attested to `digest` for `node`."""
        public = load_public(key)
        if public is None or tc_id_of(key) != tc_id or ui.seq != 0 or len(digest) != 32:
            return False
        if not 0 <= node < MAX_NODES:
            return False
        bound = sequential_binding(self.chain_id, ATTEST_CFG, ZERO_DIGEST, node, tc_id)
        return public.verify(sequential_preimage(bound, 0, ATTEST, digest), ui.signature)
