"""Ed25519 keys of hosts and operators: plain signatures over whole messages.

Signatures are deterministic (RFC 8032), so a node that replays its journal signs
the same bytes again. libsodium refuses non-canonical scalars, non-canonical or
small-order public keys; every verifier here uses the same routine, so all agree.
"""

from __future__ import annotations

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

SEED_BYTES = 32
SIGNATURE_BYTES = 64


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """True iff `signature` (64 bytes) is that of `public` (32 bytes) over `message`; never raises."""
    if len(signature) != SIGNATURE_BYTES or len(public) != 32:
        return False
    try:
        crypto_sign_open(signature + message, public)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


class NodeKey:
    """A host's or an operator's signing key; a `core.verification.NodeSigner`."""

    __slots__ = ("_secret", "public")

    def __init__(self, public: bytes, secret: bytes) -> None:
        self.public = public
        """32 bytes: what stands in the member table."""
        self._secret = secret

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKey:
        """The key that grows from a 32-byte seed; ValueError for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed is {SEED_BYTES} bytes, not {len(seed)}")
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(public, secret)

    def sign(self, message: bytes) -> bytes:
        """64-byte signature over `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"NodeKey(public={self.public.hex()})"
