"""The key of a trusted component, on one of two curves, and its name.

ECDSA with SHA-256 either way. `secp256k1` is what a component in software gets: it takes half
the time to verify, and touches a fraction of the memory, which is what counts where caches are
cold. `p256` is the curve that hardware has. A member table may hold both kinds.

A component's identity is derived from its key (`tc_id`, A2), so that a new key is always a new
component (A8.2). The kind of a public key follows from its encoding, one for each kind: a P-256
point travels uncompressed (65 bytes, the first is 4), one on secp256k1 compressed (33 bytes, the
first is 2 or 3). Signatures are DER, and 64 bytes r | s with the lower s. Sealed secrets tell their
kind in the same way: 32 bytes of a scalar, and a byte 2 before them.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Protocol, TypeAlias, get_args

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from tepbft.crypto import secp256k1
from tepbft.crypto.hash import digest

KeyKind: TypeAlias = Literal["secp256k1", "p256"]
KINDS: Final[tuple[KeyKind, ...]] = get_args(KeyKind)
DEFAULT_KIND: Final[KeyKind] = "secp256k1"
Secret: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=33)]
_SCALAR_BYTES = 32
_ON_SECP256K1 = b"\x02"
_ECDSA = ec.ECDSA(hashes.SHA256())
_CURVE = ec.SECP256R1()
_POINT_BYTES = 65


class PublicKey(Protocol):
    """What checks a component's statements."""

    def verify(self, message: bytes, signature: bytes) -> bool:
        """True iff `signature` is over `message` by this key. Never raises on bad bytes."""
        ...


class PrivateKey(Protocol):
    """What signs them."""

    kind: KeyKind
    public: bytes
    """The encoded public key."""

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`."""
        ...

    def secret(self) -> bytes:
        """The private scalar, big-endian, in the encoding of its kind: for sealing only."""
        ...


def tc_id_of(public: bytes) -> bytes:
    """The name of the component that holds the key to `public`: 16 bytes (A2)."""
    return digest(public)[:16]


# --- P-256 --------------------------------------------------------------------------------------


class P256Public:
    """A point on P-256; ValueError unless it is in 65 bytes, uncompressed."""

    def __init__(self, public: bytes) -> None:
        if len(public) != _POINT_BYTES or public[0] != 4:
            raise ValueError("a P-256 key is an uncompressed point of 65 bytes")
        self._key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """See `PublicKey.verify`; the signature is DER."""
        try:
            self._key.verify(signature, message, _ECDSA)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True


class P256Key:
    """A key pair on P-256 with this private scalar of 32 bytes; ValueError if it is none."""

    kind: KeyKind = "p256"

    def __init__(self, scalar: bytes) -> None:
        self._private = ec.derive_private_key(int.from_bytes(scalar, "big"), _CURVE)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, message: bytes) -> bytes:
        """See `PrivateKey.sign`. Nonces are random."""
        return self._private.sign(message, _ECDSA)

    def secret(self) -> bytes:
        """See `PrivateKey.secret`."""
        return self._private.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")


# --- secp256k1 ----------------------------------------------------------------------------------


class Secp256k1Public:
    """A point on secp256k1; ValueError unless it is in 33 bytes, compressed."""

    def __init__(self, public: bytes) -> None:
        self._key: Any = secp256k1.decode_key(public)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """See `PublicKey.verify`; the signature is 64 bytes, with the lower s."""
        return secp256k1.verify_digest(self._key, sha256(message).digest(), signature)


class Secp256k1Key:
    """A key pair on secp256k1 with this private scalar of 32 bytes; ValueError if it is none."""

    kind: KeyKind = "secp256k1"

    def __init__(self, scalar: bytes) -> None:
        self.public = secp256k1.public_key(scalar)
        self._scalar = scalar
        self._sign = secp256k1.Signer(scalar).sign

    def sign(self, message: bytes) -> bytes:
        """See `PrivateKey.sign`. Nonces follow from key and message (RFC 6979)."""
        return self._sign(sha256(message).digest())

    def secret(self) -> bytes:
        """See `PrivateKey.secret`."""
        return _ON_SECP256K1 + self._scalar


# --- either -------------------------------------------------------------------------------------


def load_public(public: bytes) -> PublicKey | None:
    """The key in these bytes; None if they are no key in the encoding of its kind."""
    try:
        return P256Public(public) if public[:1] == b"\x04" else Secp256k1Public(public)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def private_key(secret: bytes) -> PrivateKey:
    """Inverse of `PrivateKey.secret`; ValueError if it is none."""
    if len(secret) == _SCALAR_BYTES:
        return P256Key(secret)
    if secret[:1] == _ON_SECP256K1:
        return Secp256k1Key(secret[1:])
    raise ValueError("no kind of key has such a secret")


def fresh_key(kind: KeyKind = DEFAULT_KIND) -> PrivateKey:
    """A new random key: a new component."""
    if kind == "p256":
        made = ec.generate_private_key(_CURVE).private_numbers().private_value
        return P256Key(made.to_bytes(_SCALAR_BYTES, "big"))
    return Secp256k1Key(secp256k1.generate_secret())


class ComponentKey:
    """A key pair inside a trusted component.

    `signer` replaces the signature function, for a simulated world that checks cheaper ones.
    """

    def __init__(self, private: PrivateKey, signer: Callable[[bytes], bytes] | None = None) -> None:
        self.kind = private.kind
        self.public = private.public
        self.tc_id = tc_id_of(private.public)
        self.sign: Callable[[bytes], bytes] = signer or private.sign
        self.secret = private.secret
