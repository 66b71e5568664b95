"""ECDSA over P-256 (OpenSSL by way of `cryptography`): the curve of hardware tokens.

The 32-byte request digest is the message (prehashed). An authenticator is the 64
bytes r | s, big-endian, with s in the lower half: OpenSSL accepts both halves, so
the rule is enforced here, and nobody can turn one valid signature into another.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.registered import decode_keys

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 33
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_HALF_ORDER = ORDER // 2
_ALGORITHM = ec.ECDSA(Prehashed(SHA256()))


def _private_key(secret: bytes) -> ec.EllipticCurvePrivateKey:
    if len(secret) != 32:
        raise ValueError(f"a P-256 scalar is 32 bytes, not {len(secret)}")
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())


def generate_secret() -> bytes:
    """32 random bytes that are a valid scalar."""
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    return numbers.private_value.to_bytes(32, "big")


def public_key(secret: bytes) -> bytes:
    """Compressed public point, 33 bytes; ValueError if `secret` is no scalar."""
    return _private_key(secret).public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _decode_key(key: bytes) -> ec.EllipticCurvePublicKey:
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"{PUBLIC_KEY_BYTES} bytes expected, {len(key)} found")
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)


def verify_p256(key: ec.EllipticCurvePublicKey, digest: bytes, signature: bytes) -> bool:
    """True iff `signature` (r | s, low s) is that of `key` over the 32-byte `digest`; never raises."""
    if len(signature) != SIGNATURE_BYTES or len(digest) != 32:
        return False
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    if not (0 < r < ORDER and 0 < s <= _HALF_ORDER):
        return False
    try:
        key.verify(encode_dss_signature(r, s), digest, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


class Signer:
    """Signs request digests. Nonces are random: two signatures over one digest differ."""

    def __init__(self, secret: bytes) -> None:
        self._key = _private_key(secret)

    def sign(self, digest: bytes) -> bytes:
        """r | s over 32 bytes; ValueError for another length."""
        if len(digest) != 32:
            raise ValueError(f"a request digest is 32 bytes, not {len(digest)}")
        r, s = decode_dss_signature(self._key.sign(digest, _ALGORITHM))
        return r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")


class Verifier:
    """Verifies the requests of one chain's clients. For several threads at once: OpenSSL only reads a
    public key, and makes a context for each verification. The GIL is released meanwhile."""

    def __init__(self, clients: Sequence[RegisteredClient]) -> None:
        self._keys = decode_keys(clients, "P-256", _decode_key)

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        return client in self._keys

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of requests that are not their client's; never raises for what they contain."""
        keys = self._keys
        bad: list[int] = []
        for index, (client, digest, auth) in enumerate(signed(requests, digests)):
            key = keys.get(client)
            if key is None or not verify_p256(key, digest, auth):
                bad.append(index)
        return bad
