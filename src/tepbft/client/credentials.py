"""What a client reads from a cluster folder: the genesis, and its own file with the secret it signs with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from tepbft.core.configuration import Genesis, RegisteredClient, decode_genesis
from tepbft.core.quorum import quorums
from tepbft.crypto.mac import MAC_BYTES
from tepbft.crypto.port import RequestSigner
from tepbft.crypto.schemes import scheme_named
from tepbft.errors import TepbftError
from tepbft.types import MAX_OPERATION_BYTES

_MAX_BYTES = 1 << 16


class Credentials(Struct, frozen=True):
    """One client: `secret` is in the form of its scheme."""

    client: bytes
    name: str
    scheme: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Credentials(client={self.client.hex()}, name={self.name!r}, scheme={self.scheme!r})"

    def registration(self) -> RegisteredClient:
        """What a genesis lists for this client."""
        return RegisteredClient(self.client, self.name, scheme_named(self.scheme).public_key(self.secret))

    def signer(self, genesis: Genesis) -> RequestSigner:
        """The signing side for a chain; TepbftError if the client is not registered there with
        exactly this key."""
        thing = f"client {self.name}"
        if self.scheme != genesis.scheme:
            raise TepbftError(
                thing,
                f"its secret is of scheme {self.scheme!r}, the chain's is {genesis.scheme!r}",
                "Use a client file of this cluster.",
            )
        mine = [client for client in genesis.clients if client.client == self.client]
        try:
            if not mine or mine[0].key != self.registration().key:
                raise TepbftError(
                    thing, "the genesis does not list it with this key", "Use a client file of this cluster."
                )
            return scheme_named(self.scheme).signer(self.secret, len(genesis.members))
        except ValueError as error:
            raise TepbftError(thing, f"its secret is unusable ({error})", "Restore its file.") from None


class _File(Struct, forbid_unknown_fields=True):
    client: str
    name: str
    scheme: str
    secret: str


def new_credentials(scheme: str, name: str) -> Credentials:
    """A new client with a random secret."""
    chosen = scheme_named(scheme)
    secret = chosen.generate_secret()
    return Credentials(chosen.identify(secret), name, scheme, secret)


def encode_credentials(credentials: Credentials) -> str:
    """The content of a client's file (a secret: mode 0600)."""
    file = _File(credentials.client.hex(), credentials.name, credentials.scheme, credentials.secret.hex())
    return msgspec.json.format(msgspec.json.encode(file), indent=2).decode() + "\n"


def load_credentials(path: Path) -> Credentials:
    """The client in a file; TepbftError if it is missing, malformed, or readable by others."""
    thing = f"client file {path}"
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        raise TepbftError(thing, f"it cannot be read ({error.strerror})", "Check the path.") from None
    if status.st_mode & 0o077:
        raise TepbftError(thing, "others may read this secret", f"Run: chmod 600 {path}")
    try:
        parsed = msgspec.json.decode(data, type=_File)
        found = Credentials(
            bytes.fromhex(parsed.client), parsed.name, parsed.scheme, bytes.fromhex(parsed.secret)
        )
        if scheme_named(found.scheme).identify(found.secret) != found.client:
            raise ValueError("the identity is not that of the secret")
    except (msgspec.DecodeError, ValueError) as error:
        raise TepbftError(thing, f"it is not a client file ({error})", "Restore it.") from None
    return found


def load_genesis(path: Path) -> Genesis:
    """The genesis in a file; TepbftError if it is missing or malformed."""
    try:
        genesis = decode_genesis(path.read_bytes())
        quorums(len(genesis.members))
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be read ({error.strerror})", "Name the folder that `tepbft init` made."
        ) from None
    except (msgspec.DecodeError, ValueError) as error:
        raise TepbftError(str(path), f"it is not a genesis ({error})", "Restore it from a copy.") from None
    return genesis


def client_file(folder: Path, client: str | None) -> Path:
    """The file of a client in a cluster folder: that of the name, or the first by name."""
    if client is not None:
        if not client or Path(client).name != client:
            raise TepbftError(f"client {client!r}", "it is not a name", "Name a file in clients/.")
        return folder / "clients" / f"{client}.json"
    files = sorted((folder / "clients").glob("*.json"))
    if not files:
        raise TepbftError(
            str(folder / "clients"), "there is no client file", "Name the folder that `tepbft init` made."
        )
    return files[0]


def largest_operation(genesis: Genesis) -> int:
    """Bytes of the largest operation that fits a block of this chain with everything around it."""
    authenticator = max(80, MAC_BYTES * len(genesis.members))
    return max(0, min(MAX_OPERATION_BYTES, genesis.parameters.block_bytes - authenticator - 64))
