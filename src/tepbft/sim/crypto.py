"""The keys of a world, all from one seed, in two modes that behave the same.

`real` uses P-256, Ed25519 and the production verifier; ECDSA's random nonces change
signature bytes from run to run, which is why nothing in a trace may depend on them.
`stub` signs with keyed BLAKE2b under keys that only this object holds: unforgeable
inside the world, because a strategy reaches no key but by calling its own component
or its own signer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol

from tepbft.core.block import Request
from tepbft.core.configuration import Configuration, RegisteredClient
from tepbft.core.verification import NodeSigner, Verifier
from tepbft.crypto.hash import digest
from tepbft.crypto.node_key import NodeKey
from tepbft.crypto.port import RequestSigner, RequestVerifier
from tepbft.crypto.schemes import SCHEMES
from tepbft.trusted.keys import PrivateKey, Secp256k1Key, tc_id_of
from tepbft.trusted.port import ATTEST, binding, preimage
from tepbft.trusted.verify import ATTEST_CFG, UiVerifier
from tepbft.types import ZERO_DIGEST, NodeId

MAC_BYTES = 16
_SCALARS = 1 << 255
"""Below this, everything but zero is a private key."""


def derive(seed: int, *names: object) -> bytes:
    """32 bytes that follow from the seed and a name."""
    text = "/".join(str(name) for name in names)
    return blake2b(text.encode(), key=seed.to_bytes(8, "little", signed=True), digest_size=32).digest()


def component_key(seed: int, node: NodeId, generation: int) -> PrivateKey:
    """The key that the `generation`-th cold start of a node's component makes."""
    number = int.from_bytes(derive(seed, "component", node, generation), "big")
    return Secp256k1Key((1 + number % (_SCALARS - 1)).to_bytes(32, "big"))


class Keys(Protocol):
    """What a mode offers. `seed` decides every key."""

    verifier: Verifier
    scheme: str
    """Name of the clients' scheme for the genesis."""

    def component_signer(self, tc_id: bytes) -> Callable[[bytes], bytes] | None:
        """Signature function of a component; None for its own key's."""
        ...

    def host(self, node: NodeId) -> tuple[bytes, NodeSigner]:
        """Public key (32 bytes) and signer of a host."""
        ...

    def client(self, index: int) -> tuple[RegisteredClient, RequestSigner]:
        """Entry in the genesis and signer of a client."""
        ...

    def requests(self, clients: Sequence[RegisteredClient], node: NodeId) -> RequestVerifier:
        """A node's side of the clients' scheme."""
        ...

    def bind(self, chain_id: bytes) -> None:
        """The chain is known now."""
        ...


def operator_seed(seed: int, node: NodeId) -> bytes:
    """Seed of the operator's Ed25519 key: real in both modes, for it is used at readmissions only."""
    return derive(seed, "operator", node)


class RealKeys:
    """Production signatures."""

    scheme = "ed25519"
    verifier: Verifier

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bind(self, chain_id: bytes) -> None:
        """See `Keys`."""
        self.verifier = UiVerifier(chain_id)

    def component_signer(self, tc_id: bytes) -> Callable[[bytes], bytes] | None:
        """See `Keys`."""
        return None

    def host(self, node: NodeId) -> tuple[bytes, NodeSigner]:
        """See `Keys`."""
        key = NodeKey.from_seed(derive(self._seed, "host", node))
        return key.public, key

    def client(self, index: int) -> tuple[RegisteredClient, RequestSigner]:
        """See `Keys`."""
        scheme = SCHEMES[self.scheme]
        secret = derive(self._seed, "client", index)
        return scheme.register(secret, f"client{index:02}"), scheme.signer(secret, 0)

    def requests(self, clients: Sequence[RegisteredClient], node: NodeId) -> RequestVerifier:
        """See `Keys`."""
        return SCHEMES[self.scheme].verifier(clients, node=node)


class _StubSigner:
    """Keyed BLAKE2b under one key."""

    __slots__ = ("_state",)

    def __init__(self, key: bytes) -> None:
        self._state = blake2b(key=key, digest_size=MAC_BYTES)

    def sign(self, message: bytes) -> bytes:
        """16 bytes over `message`."""
        state = self._state.copy()
        state.update(message)
        return state.digest()


class StubKeys:
    """Fast signatures. Also a `core.verification.Verifier`."""

    scheme = "stub"

    def __init__(self, seed: int) -> None:
        self._secret = derive(seed, "stub")
        self._components: dict[bytes, _StubSigner] = {}
        self._hosts: dict[bytes, _StubSigner] = {}
        self._clients: dict[bytes, _StubSigner] = {}
        self._bound: dict[tuple[int, bytes, NodeId], tuple[bytes, _StubSigner]] = {}
        self._chain_id = b""
        self.verifier: Verifier = self

    def bind(self, chain_id: bytes) -> None:
        """See `Keys`."""
        self._chain_id = chain_id

    def _signer(self, table: dict[bytes, _StubSigner], domain: bytes, name: bytes) -> _StubSigner:
        found = table.get(name)
        if found is None:
            found = table[name] = _StubSigner(digest(domain, self._secret, name))
        return found

    def component_signer(self, tc_id: bytes) -> Callable[[bytes], bytes] | None:
        """See `Keys`."""
        return self._signer(self._components, b"component", tc_id).sign

    def host(self, node: NodeId) -> tuple[bytes, NodeSigner]:
        """See `Keys`."""
        public = digest(b"host", self._secret, node.to_bytes(4, "little"))
        return public, self._signer(self._hosts, b"host key", public)

    def client(self, index: int) -> tuple[RegisteredClient, RequestSigner]:
        """See `Keys`."""
        name = digest(b"client", self._secret, index.to_bytes(4, "little"))[:16]
        signer = self._signer(self._clients, b"client key", name)
        return RegisteredClient(name, f"client{index:02}", b""), signer

    def requests(self, clients: Sequence[RegisteredClient], node: NodeId) -> RequestVerifier:
        """See `Keys`."""
        found = {c.client: self._signer(self._clients, b"client key", c.client) for c in clients}
        return _StubRequests(found)

    # --- the verifier ---

    def ui(
        self, cfg: Configuration, node: NodeId, seq: int, statement: int, body: bytes, signature: bytes
    ) -> bool:
        """See `core.verification.Verifier`."""
        if not (0 <= node < len(cfg.members) and 0 <= statement <= 255):
            return False
        place = (cfg.number, cfg.digest(), node)
        found = self._bound.get(place)
        if found is None:
            member = cfg.members[node]
            if tc_id_of(member.tc_key) != member.tc_id:
                return False
            bound = binding(self._chain_id, cfg.number, cfg.digest(), node, member.tc_id)
            found = bound, self._signer(self._components, b"component", member.tc_id)
            self._bound[place] = found
        return found[1].sign(preimage(found[0], seq, statement, body)) == signature

    def signed(self, cfg: Configuration, node: NodeId, message: bytes, signature: bytes) -> bool:
        """See `core.verification.Verifier`."""
        if not 0 <= node < len(cfg.members):
            return False
        public = cfg.members[node].node_key
        return self._signer(self._hosts, b"host key", public).sign(message) == signature

    def attested(
        self, key: bytes, tc_id: bytes, node: NodeId, seq: int, digest: bytes, signature: bytes
    ) -> bool:
        """See `core.verification.Verifier`."""
        if tc_id_of(key) != tc_id or len(digest) != 32:
            return False
        bound = binding(self._chain_id, ATTEST_CFG, ZERO_DIGEST, node, tc_id)
        signer = self._signer(self._components, b"component", tc_id)
        return signer.sign(preimage(bound, seq, ATTEST, digest)) == signature


class _StubRequests:
    """`crypto.port.RequestVerifier` over stub signatures."""

    def __init__(self, clients: dict[bytes, _StubSigner]) -> None:
        self._clients = clients

    def known(self, client: bytes) -> bool:
        """See `RequestVerifier`."""
        return client in self._clients

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """See `RequestVerifier`."""
        bad = []
        for index, (request_digest, request) in enumerate(zip(digests, requests, strict=True)):
            signer = self._clients.get(request.client)
            if signer is None or signer.sign(request_digest) != request.auth:
                bad.append(index)
        return bad


def make_keys(mode: str, seed: int) -> Keys:
    """`stub` or `real`."""
    if mode == "stub":
        return StubKeys(seed)
    if mode == "real":
        return RealKeys(seed)
    raise ValueError(f"signatures are 'stub' or 'real', not {mode!r}")
