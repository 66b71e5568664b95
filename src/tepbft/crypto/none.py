"""No authentication at all: for measuring everything else.

Weaker than anything: whoever reaches a client port can submit as any client.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import sha256

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.registered import decode_keys


def generate_secret() -> bytes:
    """32 random bytes; they only serve to tell clients apart."""
    return secrets.token_bytes(32)


def id_material(secret: bytes) -> bytes:
    """32 bytes that name the client."""
    return sha256(b"TEP1/NONE/ID" + secret).digest()


def _decode_empty(key: bytes) -> bytes:
    if key:
        raise ValueError("the scheme has no public keys")
    return key


class Signer:
    """Attaches nothing."""

    def sign(self, digest: bytes) -> bytes:
        """No bytes."""
        return b""


class Verifier:
    """Lets registered identities pass, if they attach nothing (one encoding per request). For several
    threads at once."""

    def __init__(self, clients: Sequence[RegisteredClient]) -> None:
        self._clients = decode_keys(clients, "none", _decode_empty)

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        return client in self._clients

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of requests of unknown clients, or with bytes attached."""
        clients = self._clients
        return [
            index
            for index, (client, _, auth) in enumerate(signed(requests, digests))
            if auth or client not in clients
        ]
