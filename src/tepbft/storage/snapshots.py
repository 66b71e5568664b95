"""Snapshot files: a state's chunks as they are sent to others, each with its own checksum.

A file is written whole, forced to disk and only then given its name. Its head says
which chain and height it belongs to; the snapshot that a node's ledger starts from
(the *base*, see `replace_state`) carries the header and the certificate that it was
accepted with as well.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta, Struct

from tepbft.core.block import Header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged
from tepbft.storage.files import replace_durably, sync_folder
from tepbft.types import MAX_CHUNK_BYTES, U32, U64, Digest, Height

MAGIC = b"TEPSNAP\n"
VERSION = 1
KEPT = 2
MAX_CHUNKS = 1 << 20
_HEAD = struct.Struct("<8sIII")
_NAME = re.compile(r"(\d{20})\.(snapshot|base)")
_ChunkBytes = Annotated[int, Meta(ge=0, le=4 * MAX_CHUNK_BYTES)]
_encode = msgspec.msgpack.Encoder().encode


class SnapshotHead(Struct, array_like=True, frozen=True):
    """What stands before the chunks: sizes and CRC-32 of each, and for a base what proves it."""

    chain_id: Digest
    height: U64
    chunks: Annotated[list[tuple[_ChunkBytes, U32]], Meta(max_length=MAX_CHUNKS)]
    header: Header | None
    certificate: CheckpointCertificate | None


_decode_head = msgspec.msgpack.Decoder(SnapshotHead)


class SnapshotFile:
    """One snapshot file, opened for reading. Construct: head checked, chunks not read yet.

    StoreDamaged, naming the byte, for anything that is not as it was written.
    """

    def __init__(self, path: Path, chain_id: bytes) -> None:
        self.path = path
        with path.open("rb") as file:
            start = file.read(_HEAD.size)
            if len(start) < _HEAD.size:
                raise StoreDamaged(path, 0, "the snapshot's head is incomplete")
            magic, version, length, checksum = _HEAD.unpack(start)
            if magic != MAGIC:
                raise StoreDamaged(path, 0, "it is not a snapshot file")
            size = os.fstat(file.fileno()).st_size
            data = file.read(length) if length <= size else b""
        if len(data) != length or crc32(data, crc32(start[:16])) != checksum:
            raise StoreDamaged(path, 0, "the snapshot's head does not match its checksum")
        if version != VERSION:
            raise TepbftError(
                str(path), f"it is in snapshot format {version}", "Use the version of tepbft that wrote it"
            )
        try:
            self.head = _decode_head.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise StoreDamaged(path, 0, f"the snapshot's head is malformed ({error})") from None
        if self.head.chain_id != chain_id:
            raise TepbftError(
                str(path),
                "it belongs to another chain",
                "Use the folder and the genesis that belong together",
            )
        self._offsets = [_HEAD.size + length]
        for chunk, _ in self.head.chunks:
            self._offsets.append(self._offsets[-1] + chunk)
        if size != self._offsets[-1]:
            raise StoreDamaged(
                path, min(size, self._offsets[-1]), f"it has {size} bytes instead of {self._offsets[-1]}"
            )

    def chunk(self, index: int) -> bytes:
        """One chunk, checked."""
        length, checksum = self.head.chunks[index]
        with self.path.open("rb") as file:
            file.seek(self._offsets[index])
            data = file.read(length)
        if len(data) != length or crc32(data) != checksum:
            raise StoreDamaged(self.path, self._offsets[index], f"chunk {index} does not match its checksum")
        return data

    def chunks(self) -> list[bytes]:
        """All chunks, checked."""
        return [self.chunk(index) for index in range(len(self.head.chunks))]


def list_snapshots(folder: Path) -> list[tuple[Height, str, Path]]:
    """(height, `base` or `snapshot`, file), ascending; other files are not looked at."""
    found = [(m, folder / name) for name in sorted(os.listdir(folder)) if (m := _NAME.fullmatch(name))]
    return [(int(match[1]), match[2], path) for match, path in found]


class SnapshotFolder:
    """The snapshots of one store: the last `KEPT`, and the base."""

    def __init__(self, folder: Path, chain_id: bytes) -> None:
        self._folder = folder
        self._chain_id = chain_id
        for name in os.listdir(folder):
            if name.endswith(".new"):  # a crash interrupted its writing
                (folder / name).unlink()
        self._open: dict[Height, SnapshotFile] = {}
        for height, _, path in list_snapshots(folder):  # a base comes before a snapshot of its height
            self._open.setdefault(height, SnapshotFile(path, chain_id))

    def save(self, height: Height, chunks: Sequence[bytes]) -> None:
        """Write a snapshot and drop those that are not kept any more."""
        held = self._open.get(height)
        if held is None or held.head.header is None:  # the base itself is never written over
            self._write(height, "snapshot", chunks, None, None)
        self._prune()

    def save_base(
        self, height: Height, chunks: Sequence[bytes], header: Header, certificate: CheckpointCertificate
    ) -> None:
        """Write the snapshot that the ledger starts from. Drop no other one yet: see `keep_base`."""
        self._write(height, "base", chunks, header, certificate)

    def keep_base(self, height: Height) -> None:
        """From now on `height` is the only base, and no snapshot above it is to be trusted."""
        for found, kind, path in list_snapshots(self._folder):
            if found == height and kind == "snapshot":
                path.unlink()
            elif found > height or (found != height and kind == "base"):
                path.unlink()
                self._open.pop(found, None)
        self._prune()

    def base(self, height: Height) -> SnapshotFile:
        """The base at `height`; StoreDamaged if it is missing."""
        path = self._path(height, "base")
        if not path.exists():
            raise StoreDamaged(path, None, "the snapshot that the ledger starts from is missing")
        return SnapshotFile(path, self._chain_id)

    def _path(self, height: Height, kind: str) -> Path:
        return self._folder / f"{height:020d}.{kind}"

    def _write(
        self,
        height: Height,
        kind: str,
        chunks: Sequence[bytes],
        header: Header | None,
        certificate: CheckpointCertificate | None,
    ) -> None:
        sizes = [(len(chunk), crc32(chunk)) for chunk in chunks]
        data = _encode(SnapshotHead(self._chain_id, height, sizes, header, certificate))
        start = _HEAD.pack(MAGIC, VERSION, len(data), 0)[:16]
        path = self._path(height, kind)
        replace_durably(path, [start, struct.pack("<I", crc32(data, crc32(start))), data, *chunks])
        self._open[height] = SnapshotFile(path, self._chain_id)

    def _prune(self) -> None:
        kept = [(height, path) for height, kind, path in list_snapshots(self._folder) if kind == "snapshot"]
        for height, path in kept[:-KEPT]:
            path.unlink()
            self._open.pop(height, None)
        sync_folder(self._folder)

    def chunk(self, height: Height, index: int) -> bytes | None:
        """A chunk of a kept snapshot, checked; None if there is no such chunk."""
        file = self._open.get(height)
        if file is None or not 0 <= index < len(file.head.chunks):
            return None
        return file.chunk(index)

    def heights(self) -> list[tuple[Height, int]]:
        """(height, number of chunks), ascending."""
        return [(height, len(self._open[height].head.chunks)) for height in sorted(self._open)]
