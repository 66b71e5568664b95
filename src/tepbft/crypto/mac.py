"""A vector of message authentication codes, one per node: fast, and weaker.

Each client shares a 32-byte key with each node, derived from the client's secret;
an authenticator is n times 16 bytes of keyed BLAKE2b, in the order of the nodes.
A node holds its own keys only and can check its own entry only.

Weaker, because a MAC vector does not transfer: a client that lies may satisfy the
primary and poison the backups, and nobody can prove to a third party that a client
asked for something.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from hmac import compare_digest

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.registered import decode_keys
from tepbft.errors import TepbftError

MAC_BYTES = 16
KEY_BYTES = 32


def generate_secret() -> bytes:
    """32 random bytes, from which the keys shared with the nodes are derived."""
    return secrets.token_bytes(KEY_BYTES)


def id_material(secret: bytes) -> bytes:
    """32 bytes that name the owner of `secret` without giving it away."""
    return sha256(b"TEP1/MAC/ID" + secret).digest()


def node_key(secret: bytes, client: bytes, node: int) -> bytes:
    """The 32-byte key that `client` shares with `node`: what that node's `macs.json` holds."""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a MAC secret is {KEY_BYTES} bytes, not {len(secret)}")
    message = b"TEP1/MAC/KEY" + client + node.to_bytes(4, "little")
    return blake2b(message, key=secret, digest_size=KEY_BYTES).digest()


def _decode_empty(key: bytes) -> bytes:
    if key:
        raise ValueError("the scheme has no public keys")
    return key


class Signer:
    """Authenticates request digests to each of n nodes."""

    def __init__(self, secret: bytes, client: bytes, nodes: int) -> None:
        self._states = [
            blake2b(key=node_key(secret, client, node), digest_size=MAC_BYTES) for node in range(nodes)
        ]

    def sign(self, digest: bytes) -> bytes:
        """n MACs over 32 bytes; ValueError for another length."""
        if len(digest) != 32:
            raise ValueError(f"a request digest is 32 bytes, not {len(digest)}")
        macs = []
        for state in self._states:
            hasher = state.copy()  # the key block is hashed once, not for every request
            hasher.update(digest)
            macs.append(hasher.digest())
        return b"".join(macs)


class Verifier:
    """Checks one node's entry of the vectors. For several threads at once: the prepared states are only
    copied."""

    def __init__(self, clients: Sequence[RegisteredClient], node: int, keys: Mapping[bytes, bytes]) -> None:
        self._at = MAC_BYTES * node
        self._states = {}
        for client in decode_keys(clients, "MAC", _decode_empty):
            key = keys.get(client)
            if key is None or len(key) != KEY_BYTES:
                raise TepbftError(
                    f"MAC keys of node {node}",
                    f"there is no {KEY_BYTES}-byte key for client {client.hex()}",
                    "Restore the node's macs.json, or make the cluster anew.",
                )
            self._states[client] = blake2b(key=key, digest_size=MAC_BYTES)

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        return client in self._states

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of requests whose entry for this node is not their client's; never raises for
        what they contain."""
        states, at = self._states, self._at
        bad: list[int] = []
        for index, (client, digest, auth) in enumerate(signed(requests, digests)):
            state = states.get(client)
            if state is None or len(auth) % MAC_BYTES:
                bad.append(index)
                continue
            hasher = state.copy()
            hasher.update(digest)
            if not compare_digest(hasher.digest(), auth[at : at + MAC_BYTES]):
                bad.append(index)
        return bad
