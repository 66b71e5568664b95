"""Where in the journal everything is: in memory above the installed height, in RocksDB below.

RocksDB holds, under one-byte prefixes: `s` the state; `h` + height the `Places` of a
height; `k` + height a mark for each stable checkpoint (to find the next one); `c` +
number the place of a configuration record; `m` the `Meta` of the whole store.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec
from msgspec import Struct

from tepbft.core.block import Header
from tepbft.errors import TepbftError
from tepbft.storage.errors import StoreDamaged
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    PrepareRecord,
    Record,
    StableRecord,
    ViewRecord,
)
from tepbft.storage.records import decode_configuration, singletons_of, stable_rank
from tepbft.storage.segments import POSITION_BYTES, Position, unpack_position
from tepbft.types import U32, U64, Digest, Height

STATE_PREFIX, STATE_END = b"s", b"t"
HEIGHT_PREFIX, STABLE_PREFIX, CONFIGURATION_PREFIX = b"h", b"k", b"c"
META_KEY = b"m"
META_VERSION = 1
_U64 = struct.Struct(">Q")
_NOWHERE = bytes(POSITION_BYTES)


def after(prefix: bytes) -> bytes:
    """The first key that does not begin with a one-byte prefix."""
    return bytes([prefix[0] + 1])


def height_key(height: Height) -> bytes:
    """Key of a height's `Places`."""
    return HEIGHT_PREFIX + _U64.pack(height)


def stable_key(height: Height) -> bytes:
    """Key of the mark that there is a stable checkpoint at a height."""
    return STABLE_PREFIX + _U64.pack(height)


def stable_key_height(key: bytes) -> Height:
    """Inverse of `stable_key`."""
    return int(_U64.unpack(key[1:])[0])


def configuration_key(number: int) -> bytes:
    """Key of a configuration's place."""
    return CONFIGURATION_PREFIX + _U64.pack(number)


class Places(NamedTuple):
    """Where the records of one height stand; None for what there is not."""

    body: Position | None = None
    commit: Position | None = None
    header: Position | None = None
    stable: Position | None = None

    def pack(self) -> bytes:
        """80 bytes."""
        return b"".join(place.pack() if place else _NOWHERE for place in self)


def unpack_places(data: bytes) -> Places:
    """Inverse of `Places.pack`."""
    found = (unpack_position(data[i : i + POSITION_BYTES]) for i in range(0, len(data), POSITION_BYTES))
    return Places(*(place if place.segment else None for place in found))


class Meta(Struct, array_like=True, frozen=True):
    """What RocksDB says of the store as a whole; written with every install, in the same batch."""

    version: U32
    chain_id: Digest
    installed: U64
    header: Header | None
    replay: tuple[U32, U64, U32, U32]
    """First record that a starting node may need (a `Position`)."""
    flushed: tuple[U32, U64, U32, U32]
    """End of the journal at the last install: what stands before it is in this index already."""
    void: tuple[U32, U64, U32, U32]
    """Headers recorded before this place and not installed then were superseded by a state transfer."""
    base: U64 | None
    """Height of the snapshot that this node's ledger starts from; None: it starts from the genesis."""
    replacing: U64 | None
    """A state transfer to this height is under way; it has to be completed before anything else."""
    singletons: dict[str, tuple[U32, U64, U32, U32]]


_encode = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(Meta)


def encode_meta(meta: Meta) -> bytes:
    """Bytes under `META_KEY`."""
    return _encode(meta)


def decode_meta(data: bytes) -> Meta:
    """Inverse of `encode_meta`; msgspec's errors if malformed."""
    return _decode_meta.decode(data)


class HeightPlaces:
    """The records of one height that is not installed yet. `bodies` may hold several proposals."""

    __slots__ = ("bodies", "commit", "digest", "first", "header", "rank", "stable")

    def __init__(self, first: Position) -> None:
        self.first = first
        self.bodies: dict[bytes, Position] = {}
        self.commit: Position | None = None
        self.digest = b""
        self.header: Position | None = None
        self.stable: Position | None = None
        self.rank = -1

    def places(self) -> Places:
        """What this is in the index: the body is the one that was committed."""
        return Places(self.bodies.get(self.digest), self.commit, self.header, self.stable)


class Tail:
    """Index of the records that RocksDB does not know yet. It shrinks with every install."""

    def __init__(self) -> None:
        self.heights: dict[Height, HeightPlaces] = {}
        self.configurations: dict[int, Position] = {}
        self.singletons: dict[str, Position] = {}

    def note(self, record: Record, position: Position) -> None:
        """Take up a record that stands at `position`."""
        match record:  # the first four are written for every block
            case BodyRecord():
                self._at(record.block.height, position).bodies.setdefault(record.digest, position)
            case PrepareRecord():
                self._at(record.prepare.height, position)
            case CommitRecord():
                places = self._at(record.certificate.height, position)
                if places.commit is None:
                    places.commit, places.digest = position, record.certificate.digest
            case HeaderRecord():
                self._at(record.header.height, position).header = position
            case StableRecord():
                places = self._at(record.certificate.height, position)
                rank = stable_rank(record.certificate, record.header is not None)
                if rank >= places.rank:
                    places.stable, places.rank = position, rank
                self._note_singleton(record, position)
            case ConfigRecord():
                self.configurations[decode_configuration(record.data).number] = position
                self._note_singleton(record, position)
            case ViewRecord():
                self._note_singleton(record, position)
            case _:
                assert_never(record)

    def _at(self, height: Height, position: Position) -> HeightPlaces:
        places = self.heights.get(height)
        if places is None:
            places = self.heights[height] = HeightPlaces(position)
        return places

    def _note_singleton(self, record: Record, position: Position) -> None:
        for name in singletons_of(record):
            known = self.singletons.get(name)
            if known is None or known.before(position):
                self.singletons[name] = position

    def up_to(self, height: Height) -> list[tuple[Height, HeightPlaces]]:
        """Entries that an install of `height` moves into RocksDB, ascending."""
        found = [(h, places) for h, places in self.heights.items() if h <= height]
        return sorted(found, key=lambda item: item[0])

    def first_above(self, height: Height) -> Position | None:
        """The first record about anything above `height`."""
        found = [places.first for h, places in self.heights.items() if h > height]
        return min(found, key=lambda place: (place.segment, place.offset), default=None)

    def settle(self, height: Height) -> None:
        """Forget what RocksDB knows now."""
        self.heights = {h: places for h, places in self.heights.items() if h > height}
        self.configurations.clear()

    def forget_headers(self, installed: Height) -> None:
        """A state transfer superseded what was executed above `installed`."""
        for height, places in self.heights.items():
            if height > installed:
                places.header = None


def check_meta(data: bytes, chain_id: bytes, path: Path) -> Meta:
    """The description of a state database at `path`, if it is one that this program and this chain
    may use; StoreDamaged or TepbftError if not."""
    try:
        meta = decode_meta(data)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(path, None, f"its description is malformed ({error})") from None
    if meta.version > META_VERSION:
        raise TepbftError(
            str(path), f"its format is {meta.version}", "Use the version of tepbft that wrote it"
        )
    if meta.chain_id != chain_id:
        raise TepbftError(
            str(path), "it belongs to another chain", "Use the folder and the genesis that belong together"
        )
    return meta
