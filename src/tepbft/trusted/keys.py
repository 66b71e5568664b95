"""The key of a trusted component: ECDSA over P-256 with SHA-256, and its name.

A component's identity is derived from its key (`tc_id`, A2), so that a new key is
always a new component (A8.2). Points travel in one form only: uncompressed X9.62.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tepbft.crypto.hash import digest

_ECDSA = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()
_POINT_BYTES = 65
SECRET_BYTES = 32


def tc_id_of(public: bytes) -> bytes:
    """The name of the component that holds the key to `public`: 16 bytes (A2)."""
    return digest(public)[:16]


def load_public(public: bytes) -> ec.EllipticCurvePublicKey | None:
    """The key in an uncompressed point of 65 bytes; None for anything else."""
    if len(public) != _POINT_BYTES or public[0] != 4:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def verify(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
    """True iff `signature` (DER) is over `message` by `key`. Never raises on bad bytes."""
    try:
        key.verify(signature, message, _ECDSA)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class ComponentKey:
    """A key pair inside a trusted component.

    `signer` replaces the signature function, for a simulated world that checks cheaper ones.
    """

    def __init__(
        self, private: ec.EllipticCurvePrivateKey, signer: Callable[[bytes], bytes] | None = None
    ) -> None:
        if not isinstance(private.curve, ec.SECP256R1):
            raise ValueError(f"a trusted component's key is on P-256, not {private.curve.name}")
        self.private = private
        self.public = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.tc_id = tc_id_of(self.public)
        self.sign: Callable[[bytes], bytes] = signer or self._sign

    def _sign(self, message: bytes) -> bytes:
        return self.private.sign(message, _ECDSA)

    def secret(self) -> bytes:
        """The private scalar, 32 bytes big-endian: for sealing only."""
        return self.private.private_numbers().private_value.to_bytes(SECRET_BYTES, "big")

    @classmethod
    def fresh(cls) -> ComponentKey:
        """A new random key: a new component."""
        return cls(ec.generate_private_key(_CURVE))

    @classmethod
    def from_secret(cls, secret: bytes, signer: Callable[[bytes], bytes] | None = None) -> ComponentKey:
        """The key with this private scalar; ValueError if it is none."""
        return cls(ec.derive_private_key(int.from_bytes(secret, "big"), _CURVE), signer)
