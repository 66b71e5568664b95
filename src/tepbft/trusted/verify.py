"""Checking the signatures of trusted components and of their hosts (A2, A-03, A-09).

The key comes from the member table of the configuration, never from the message;
the signed bytes are computed anew from what the message says, never shipped with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from tepbft.core.configuration import Configuration
from tepbft.trusted.keys import PublicKey, load_public, tc_id_of
from tepbft.trusted.port import ATTEST, binding, preimage
from tepbft.types import MAX_NODES, ZERO_DIGEST, NodeId

ATTEST_CFG = 0xFFFFFFFF
"""Configuration number in the pre-image of an attestation; no configuration may have it."""
SEQ_LIMIT = 1 << 63
_CACHE_ENTRIES = 16 * MAX_NODES
_ED25519_BYTES = 64

K = TypeVar("K")
V = TypeVar("V")


def _remember(cache: dict[K, V], key: K, value: V) -> V:
    """Put into a cache of bounded size; the oldest entry gives way."""
    if len(cache) >= _CACHE_ENTRIES:
        cache.pop(next(iter(cache)), None)
    cache[key] = value
    return value


class MemberKeys:
    """Keys and bindings of components, loaded from member tables, at most `16 * MAX_NODES`.

    `bind` computes the part of every pre-image that one component has in common in one
    configuration, from (number, digest, node, tc_id).
    """

    def __init__(self, bind: Callable[[int, bytes, NodeId, bytes], bytes]) -> None:
        self._bind = bind
        self._found: dict[tuple[bytes, NodeId], tuple[PublicKey, bytes] | None] = {}

    def find(self, cfg: Configuration, node: NodeId) -> tuple[PublicKey, bytes] | None:
        """Key and binding of the component of `node` in `cfg`; None if the table names no valid one."""
        place = (cfg.digest(), node)
        try:
            return self._found[place]
        except KeyError:
            return _remember(self._found, place, self._load(cfg, node))

    def _load(self, cfg: Configuration, node: NodeId) -> tuple[PublicKey, bytes] | None:
        if not 0 <= node < len(cfg.members):
            return None
        member = cfg.members[node]
        key = load_public(member.tc_key)
        if key is None or tc_id_of(member.tc_key) != member.tc_id:
            return None
        return key, self._bind(cfg.number, cfg.digest(), node, member.tc_id)


class UiVerifier:
    """The production `core.verification.Verifier`, for one chain.

    Loaded keys and bindings are kept per (configuration digest, node), a
    bounded number of them. Nothing here raises on hostile bytes: what cannot be
    parsed does not verify.
    """

    def __init__(self, chain_id: bytes) -> None:
        if len(chain_id) != 32:
            raise ValueError("a chain_id is 32 bytes")
        self.chain_id = chain_id
        self._components = MemberKeys(partial(binding, chain_id))
        self._hosts: dict[bytes, VerifyKey | None] = {}

    def ui(
        self, cfg: Configuration, node: NodeId, seq: int, statement: int, body: bytes, signature: bytes
    ) -> bool:
        """True iff the trusted component of `node` in `cfg` made this statement as its `seq`-th."""
        if not (0 <= seq < SEQ_LIMIT and 0 <= statement <= 255):
            return False
        component = self._components.find(cfg, node)
        if component is None:
            return False
        key, bound = component
        return key.verify(preimage(bound, seq, statement, body), signature)

    def signed(self, cfg: Configuration, node: NodeId, message: bytes, signature: bytes) -> bool:
        """True iff the host key of `node` in `cfg` signed `message` (Ed25519)."""
        if not 0 <= node < len(cfg.members) or len(signature) != _ED25519_BYTES:
            return False
        raw = cfg.members[node].node_key
        try:
            key = self._hosts[raw]
        except KeyError:
            key = _remember(self._hosts, raw, _load_host(raw))
        if key is None:
            return False
        try:
            key.verify(message, signature)
        except (CryptoError, ValueError, TypeError):
            return False
        return True

    def attested(
        self, key: bytes, tc_id: bytes, node: NodeId, seq: int, digest: bytes, signature: bytes
    ) -> bool:
        """True iff the component named `tc_id`, whose key is `key`, attested to `digest` for `node`."""
        if not (0 <= seq < SEQ_LIMIT and 0 <= node < MAX_NODES and len(digest) == 32):
            return False
        if tc_id_of(key) != tc_id:
            return False
        public = load_public(key)
        if public is None:
            return False
        bound = binding(self.chain_id, ATTEST_CFG, ZERO_DIGEST, node, tc_id)
        return public.verify(preimage(bound, seq, ATTEST, digest), signature)


def _load_host(raw: bytes) -> VerifyKey | None:
    try:
        return VerifyKey(raw)
    except (CryptoError, ValueError, TypeError):
        return None
