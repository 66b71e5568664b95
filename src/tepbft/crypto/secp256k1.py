"""ECDSA over secp256k1 (libsecp256k1 by way of coincurve): the fastest signature to verify.

The 32-byte request digest is itself the message that ECDSA signs. An authenticator
is the 64 bytes r | s, big-endian. There is one encoding per signature, and one
signature per message and key that a third party could derive: libsecp256k1 accepts
only the lower of s and n - s. Verification releases the GIL.

Where requests stand in a table, the extension calls the library for all of them (ADR 0018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coincurve import PrivateKey, PublicKey
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.registered import decode_keys
from tepbft.native import AVAILABLE, native

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 33
_RAW_BYTES = 64
"""Of a key, and of a signature, as libsecp256k1 holds them."""


def generate_secret() -> bytes:
    """32 random bytes that are a valid scalar."""
    return PrivateKey().secret


def _private_key(secret: bytes) -> PrivateKey:
    if len(secret) != 32:  # the library would fill up what is shorter
        raise ValueError(f"a secp256k1 scalar is 32 bytes, not {len(secret)}")
    return PrivateKey(secret)


def public_key(secret: bytes) -> bytes:
    """Compressed public point, 33 bytes; ValueError if `secret` is no scalar."""
    return _private_key(secret).public_key.format(compressed=True)


def decode_key(key: bytes) -> Any:
    """The point in a compressed encoding (the only one that is taken), as the library holds it; ValueError
    for anything else."""
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"{PUBLIC_KEY_BYTES} bytes expected, {len(key)} found")
    return PublicKey(key).public_key


def verify_digest(key: Any, digest: bytes, signature: bytes) -> bool:
    """True iff `signature` (r | s, low s) is that of `key` (`decode_key`) over the 32-byte `digest`; never
    raises."""
    if len(signature) != SIGNATURE_BYTES or len(digest) != 32:  # the library reads so many, whatever is there
        return False
    raw = ffi.new("secp256k1_ecdsa_signature *")  # for each call: callers may be threads
    context = GLOBAL_CONTEXT.ctx
    parsed = lib.secp256k1_ecdsa_signature_parse_compact(context, raw, signature)
    return bool(parsed and lib.secp256k1_ecdsa_verify(context, raw, digest, key))


def _address_of(function: str) -> int:
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, function)))


def _as_expected() -> bool:
    """True if the library holds keys and signatures as the extension thinks it does."""
    kinds = ("secp256k1_pubkey", "secp256k1_ecdsa_signature")
    return all(ffi.sizeof(kind) == _RAW_BYTES for kind in kinds)


_NATIVE = AVAILABLE and _as_expected()


class Signer:
    """Signs request digests; deterministic nonces (RFC 6979)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = _private_key(secret).secret
        self._context = GLOBAL_CONTEXT.ctx

    def sign(self, digest: bytes) -> bytes:
        """r | s over 32 bytes; ValueError for another length."""
        if len(digest) != 32:
            raise ValueError(f"a request digest is 32 bytes, not {len(digest)}")
        raw = ffi.new("secp256k1_ecdsa_signature *")
        output = ffi.new("unsigned char[64]")
        if not lib.secp256k1_ecdsa_sign(self._context, raw, digest, self._secret, ffi.NULL, ffi.NULL):
            raise ValueError("the private key is not valid")
        lib.secp256k1_ecdsa_signature_serialize_compact(self._context, output, raw)
        return bytes(ffi.buffer(output, SIGNATURE_BYTES))


class Verifier:
    """Verifies the requests of one chain's clients. For several threads at once: keys and context are
    only read, and each call has its own buffer."""

    def __init__(self, clients: Sequence[RegisteredClient]) -> None:
        self._keys = decode_keys(clients, "secp256k1", decode_key)
        self._context = GLOBAL_CONTEXT.ctx
        self._raw_keys: dict[bytes, bytes] = {}
        self._library = (0, 0, 0)
        if _NATIVE:
            self._raw_keys = {
                client: bytes(ffi.buffer(key, _RAW_BYTES)) for client, key in self._keys.items()
            }
            self._library = (
                _address_of("secp256k1_ecdsa_signature_parse_compact"),
                _address_of("secp256k1_ecdsa_verify"),
                int(ffi.cast("uintptr_t", self._context)),
            )

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        return client in self._keys

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of requests that are not their client's; never raises for what they contain."""
        if _NATIVE:
            bad = native.verify_ecdsa(*self._library, self._raw_keys, requests, digests)
            if bad is not None:
                return bad
        return self._verify_each(digests, requests)

    def _verify_each(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        keys = self._keys
        bad: list[int] = []
        for index, (client, digest, auth) in enumerate(signed(requests, digests)):
            key = keys.get(client)
            if key is None or not verify_digest(key, digest, auth):
                bad.append(index)
        return bad
