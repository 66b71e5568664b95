"""Ed25519 (libsodium by way of PyNaCl) over the 32-byte request digest.

libsodium's rule is the strict, cofactorless one, and single verification is the
only one used: nodes agree on every input, well-formed or not.

Where requests stand in a table, the extension calls the library for all of them (ADR 0018).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.node_key import SEED_BYTES, NodeKey, verify_ed25519
from tepbft.crypto.registered import decode_keys
from tepbft.native import AVAILABLE, native

PUBLIC_KEY_BYTES = 32


def _find_open() -> int:
    """Address of libsodium's crypto_sign_open; 0 where the extension, or PyNaCl's binding as it is now, is
    not to be had: then signatures are verified one by one."""
    if not AVAILABLE:
        return 0
    try:
        from nacl._sodium import ffi, lib
    except ImportError:
        return 0
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, "crypto_sign_open")))


_OPEN = _find_open()


def generate_secret() -> bytes:
    """A random 32-byte seed."""
    return secrets.token_bytes(SEED_BYTES)


def public_key(secret: bytes) -> bytes:
    """Public key, 32 bytes, of a seed; ValueError for a seed of another length."""
    return NodeKey.from_seed(secret).public


def _decode_key(key: bytes) -> bytes:
    # libsodium decompresses the point anew each time; only its length can be settled here.
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"{PUBLIC_KEY_BYTES} bytes expected, {len(key)} found")
    return key


class Signer:
    """Signs request digests."""

    def __init__(self, secret: bytes) -> None:
        self._key = NodeKey.from_seed(secret)

    def sign(self, digest: bytes) -> bytes:
        """64-byte signature over 32 bytes; ValueError for another length."""
        if len(digest) != 32:
            raise ValueError(f"a request digest is 32 bytes, not {len(digest)}")
        return self._key.sign(digest)


class Verifier:
    """Verifies the requests of one chain's clients. For several threads at once: it only reads keys,
    and libsodium keeps nothing between calls. The GIL is released in them."""

    def __init__(self, clients: Sequence[RegisteredClient]) -> None:
        self._keys = decode_keys(clients, "Ed25519", _decode_key)

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        return client in self._keys

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of requests that are not their client's; never raises for what they contain."""
        if _OPEN:
            bad = native.verify_eddsa(_OPEN, self._keys, requests, digests)
            if bad is not None:
                return bad
        return self._verify_each(digests, requests)

    def _verify_each(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        keys = self._keys
        bad: list[int] = []
        for index, (client, digest, auth) in enumerate(signed(requests, digests)):
            key = keys.get(client)
            if key is None or not verify_ed25519(key, digest, auth):
                bad.append(index)
        return bad
