"""The schemes by which clients authenticate requests, by the name that a genesis gives.

Every node of a chain uses the same scheme, so that they agree on which requests
are good. The names `mac` and `none` are marked weaker: see their notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tepbft.core.configuration import RegisteredClient
from tepbft.crypto import ed25519, mac, none, p256, secp256k1
from tepbft.crypto.port import RequestSigner, RequestVerifier
from tepbft.errors import TepbftError

VerifierFactory = Callable[[Sequence[RegisteredClient], int, Mapping[bytes, bytes] | None], RequestVerifier]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to authenticate requests. Secrets are the client's; nothing else is secret but
    the MAC keys that a node holds."""

    name: str
    weaker: bool
    """True if it does not give what a signature gives; `note` says why."""
    note: str
    generate_secret: Callable[[], bytes]
    """A fresh secret from the operating system's randomness."""
    public_key: Callable[[bytes], bytes]
    """What a genesis lists as `RegisteredClient.key`: empty for schemes without public keys.
    ValueError if the secret is none."""
    id_material: Callable[[bytes], bytes]
    """secret -> the public bytes that `client_id` takes: the public key if there is one."""
    signer: Callable[[bytes, int], RequestSigner]
    """(secret, number of nodes) -> the client's side; ValueError if the secret is none."""
    _verifier: VerifierFactory
    node_mac_keys: Callable[[bytes, bytes, int], bytes] | None = None
    """(secret, client, node) -> the key that this node holds; None for schemes without such keys."""

    def client_id(self, material: bytes) -> bytes:
        """Identity, 16 bytes, from `id_material`: names a client of this scheme."""
        return sha256(b"TEP1/CLIENT" + self.name.encode() + b"\x00" + material).digest()[:16]

    def identify(self, secret: bytes) -> bytes:
        """Identity, 16 bytes, of the client that owns `secret`."""
        return self.client_id(self.id_material(secret))

    def register(self, secret: bytes, name: str) -> RegisteredClient:
        """The entry of a genesis for the client that owns `secret`."""
        return RegisteredClient(self.identify(secret), name, self.public_key(secret))

    def verifier(
        self,
        clients: Sequence[RegisteredClient],
        *,
        node: int,
        mac_keys: Mapping[bytes, bytes] | None = None,
    ) -> RequestVerifier:
        """A node's side. Keys are decoded here, once: TepbftError for a bad or missing one.
        `mac_keys` (client -> key of this node) is for the scheme `mac` only. What it returns may
        be used by several threads at once, whatever the scheme."""
        return self._verifier(clients, node, mac_keys)


def _no_public_key(secret: bytes) -> bytes:
    return b""


def _mac_signer(secret: bytes, nodes: int) -> RequestSigner:
    return mac.Signer(secret, SCHEMES["mac"].identify(secret), nodes)


def _mac_verifier(
    clients: Sequence[RegisteredClient], node: int, mac_keys: Mapping[bytes, bytes] | None
) -> RequestVerifier:
    if mac_keys is None:
        raise TepbftError(
            f"node {node}", "the scheme 'mac' needs this node's keys", "Restore the node's macs.json."
        )
    return mac.Verifier(clients, node, mac_keys)


_ALL = (
    Scheme(
        name="secp256k1",
        weaker=False,
        note="ECDSA over secp256k1; the fastest to verify.",
        generate_secret=secp256k1.generate_secret,
        public_key=secp256k1.public_key,
        id_material=secp256k1.public_key,
        signer=lambda secret, nodes: secp256k1.Signer(secret),
        _verifier=lambda clients, node, keys: secp256k1.Verifier(clients),
    ),
    Scheme(
        name="ed25519",
        weaker=False,
        note="Ed25519; deterministic signatures.",
        generate_secret=ed25519.generate_secret,
        public_key=ed25519.public_key,
        id_material=ed25519.public_key,
        signer=lambda secret, nodes: ed25519.Signer(secret),
        _verifier=lambda clients, node, keys: ed25519.Verifier(clients),
    ),
    Scheme(
        name="p256",
        weaker=False,
        note="ECDSA over P-256; the curve that hardware tokens speak.",
        generate_secret=p256.generate_secret,
        public_key=p256.public_key,
        id_material=p256.public_key,
        signer=lambda secret, nodes: p256.Signer(secret),
        _verifier=lambda clients, node, keys: p256.Verifier(clients),
    ),
    Scheme(
        name="mac",
        weaker=True,
        note="Weaker: a MAC vector does not transfer. A faulty client can please the primary and poison "
        "the backups, and nobody can prove to a third party what a client asked for.",
        generate_secret=mac.generate_secret,
        public_key=_no_public_key,
        id_material=mac.id_material,
        signer=_mac_signer,
        _verifier=_mac_verifier,
        node_mac_keys=mac.node_key,
    ),
    Scheme(
        name="none",
        weaker=True,
        note="Weaker: nothing is authenticated. Whoever reaches a client port can submit as any client.",
        generate_secret=none.generate_secret,
        public_key=_no_public_key,
        id_material=none.id_material,
        signer=lambda secret, nodes: none.Signer(),
        _verifier=lambda clients, node, keys: none.Verifier(clients),
    ),
)

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _ALL}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name; TepbftError if there is none."""
    found = SCHEMES.get(name)
    if found is None:
        raise TepbftError(f"scheme {name!r}", "it is not known", f"Choose one of: {', '.join(SCHEMES)}.")
    return found
