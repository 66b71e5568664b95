"""Where things lie in a cluster's folder and in a node's folder, and how secrets are kept there."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tepbft.errors import TepbftError
from tepbft.runtime.settings import NodeSettings

MAX_SECRET_BYTES = 1 << 20
_MAX_SOCKET_PATH = 107


@dataclass(frozen=True)
class NodeLayout:
    """Paths of one node's folder. `trusted_folder`, `store_folder` and `log_file` are as in
    `NodeSettings`: relative to the folder, or absolute."""

    folder: Path
    trusted_folder: str = "trusted"
    store_folder: str = "store"
    log_file: str = "node.log"

    @classmethod
    def of(cls, folder: Path, settings: NodeSettings) -> NodeLayout:
        """The layout that a node's settings describe."""
        log_file = "node.log" if settings.log_file in ("", "-") else settings.log_file
        return cls(folder, settings.trusted_folder, settings.store_folder, log_file)

    @property
    def settings(self) -> Path:
        """`node.toml`."""
        return self.folder / "node.toml"

    @property
    def genesis(self) -> Path:
        """The node's own copy of the genesis."""
        return self.folder / "genesis.json"

    @property
    def node_key(self) -> Path:
        """Ed25519 seed of the host, hex (secret)."""
        return self.folder / "node.key"

    @property
    def operator_key(self) -> Path:
        """Ed25519 seed that may replace the trusted component, hex (secret). May be kept elsewhere."""
        return self.folder / "operator.key"

    @property
    def tls_key(self) -> Path:
        """PEM private key of the TLS certificate (secret)."""
        return self.folder / "tls.key"

    @property
    def tls_certificate(self) -> Path:
        """PEM, self-signed."""
        return self.folder / "tls.crt"

    @property
    def certificates(self) -> Path:
        """PEM bundle of all members' certificates."""
        return self.folder / "certificates.pem"

    @property
    def macs(self) -> Path:
        """Per-client MAC keys of this node (secret); scheme `mac` only."""
        return self.folder / "macs.json"

    @property
    def trusted(self) -> Path:
        """The trusted component's own folder."""
        return self.folder / self.trusted_folder

    @property
    def trusted_socket(self) -> Path:
        """Unix socket of the trusted component."""
        return self.trusted / "tc.sock"

    @property
    def trusted_pid(self) -> Path:
        """Process id of the trusted component."""
        return self.trusted / "tc.pid"

    @property
    def store(self) -> Path:
        """Journal, state, snapshots."""
        return self.folder / self.store_folder

    @property
    def pid(self) -> Path:
        """Process id of the running node."""
        return self.folder / "node.pid"

    @property
    def lock(self) -> Path:
        """Held while a node runs on this folder."""
        return self.folder / "node.lock"

    @property
    def log(self) -> Path:
        """The node's log, where `log_file` names one; `tepbft up` sends standard error there."""
        return self.folder / self.log_file

    def check_socket_path(self) -> None:
        """TepbftError if the trusted component's socket path is longer than the system permits."""
        path = os.fsencode(self.trusted_socket.absolute())
        if len(path) > _MAX_SOCKET_PATH:
            raise TepbftError(
                str(self.trusted_socket),
                f"the path of a Unix socket has at most {_MAX_SOCKET_PATH} bytes, this one {len(path)}",
                "Move the cluster to a shorter path, or set trusted_folder in node.toml to one.",
            )


@dataclass(frozen=True)
class ClusterLayout:
    """Paths of a cluster's folder, as `tepbft init` makes it."""

    root: Path

    @property
    def genesis(self) -> Path:
        """The genesis of the chain."""
        return self.root / "genesis.json"

    @property
    def clients(self) -> Path:
        """Folder of the clients' secrets."""
        return self.root / "clients"

    def client(self, name: str) -> Path:
        """A client's file (secret)."""
        return self.clients / f"{name}.json"

    def node(self, node: int) -> NodeLayout:
        """A node's folder, with the default places inside it."""
        return NodeLayout(self.root / f"node{node}")

    def nodes(self) -> list[NodeLayout]:
        """The node folders that are here, by node id."""
        found = []
        for path in self.root.glob("node*"):
            number = path.name.removeprefix("node")
            if number.isdecimal() and (path / "node.toml").is_file():
                found.append((int(number), NodeLayout(path)))
        return [layout for _, layout in sorted(found, key=lambda pair: pair[0])]


def write_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read (0600), durably; TepbftError if it exists."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise TepbftError(
            str(path), "this secret exists already and is never overwritten", "Choose another folder."
        ) from None
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be created ({error.strerror})", "Check the folder's permissions."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask says
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> str:
    """Content of a secret file, stripped; TepbftError if it is missing or others may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise TepbftError(
            str(path), "this secret is missing", "Restore it from where the cluster was made."
        ) from None
    except OSError as error:
        raise TepbftError(
            str(path), f"it cannot be read ({error.strerror})", "Run as the owner of the file."
        ) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise TepbftError(str(path), "it is not a regular file", "Put the secret itself there.")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_mode & 0o077:
            raise TepbftError(
                str(path),
                f"others may read this secret (mode {stat.S_IMODE(status.st_mode):04o})",
                f"Run: chmod 600 {path}",
            )
        data = file.read(MAX_SECRET_BYTES + 1)
    if len(data) > MAX_SECRET_BYTES:
        raise TepbftError(str(path), "it is too large for a secret", "Put the secret itself there.")
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise TepbftError(str(path), "it is not text", "Put the secret itself there.") from None


def read_seed(path: Path) -> bytes:
    """The 32 bytes of an Ed25519 seed kept as hex in a secret file."""
    text = read_secret(path)
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise TepbftError(str(path), "it is not a key of 32 bytes in hex", "Restore it from a copy.")
    return seed
