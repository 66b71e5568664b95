"""Every decoder that faces a peer, a client, a file or the trusted component (I-25).

A target takes bytes and either returns or raises one of its documented errors. What it
accepts, it accepts in one encoding only (`encode`), where the format promises that.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from hypothesis import strategies as st

from fuzz.fuzz_shapes import values
from support.world import World
from tepbft.client.credentials import encode_credentials, load_credentials, new_credentials
from tepbft.client.credentials import load_genesis as load_client_genesis
from tepbft.client.link import Frames
from tepbft.client.receipt_file import receipt_from_json, receipt_to_json
from tepbft.client.receipts import verify_receipt
from tepbft.core.block import Receipt, Request, decode_body, encode_body
from tepbft.core.configuration import (
    Configuration,
    Genesis,
    ReplaceTc,
    decode_genesis,
    decode_replace,
    encode_genesis,
    encode_replace,
)
from tepbft.errors import OperationRefused, PeerFault, TepbftError
from tepbft.execution.apps import bank, kv, notary
from tepbft.execution.snapshot import decode_chunk, make_chunks
from tepbft.protocols.tep.messages import Message
from tepbft.protocols.tep.messages import codec as peer_codec
from tepbft.rpc.app import _decode as decode_http_body
from tepbft.rpc.endpoints import HttpError
from tepbft.rpc.schemas import SubmitBody
from tepbft.runtime.layout import read_secret, read_seed
from tepbft.runtime.peers import Hello, hello_codec
from tepbft.runtime.process import _load_mac_keys, load_genesis
from tepbft.runtime.settings import NodeSettings, dump_settings, load_settings
from tepbft.runtime.transport import Budget, FrameProtocol
from tepbft.storage.folder import check_format, read_manifest
from tepbft.storage.journal import Journal
from tepbft.storage.port import ConfigRecord, Record
from tepbft.storage.records import (
    decode_configuration,
    decode_receipts,
    decode_record,
)
from tepbft.storage.segments import segment_path
from tepbft.storage.snapshots import SnapshotFile, SnapshotFolder, SnapshotHead
from tepbft.trusted.device_wire import DeviceReply, DeviceRequest, reply_codec, request_codec
from tepbft.trusted.hbusig import HbUsig, HbUsigState
from tepbft.trusted.port import TcRequest
from tepbft.trusted.sealing import FilePlatform, MemoryPlatform, restore, seal
from tepbft.trusted.sequsig import SeqUsig, SeqUsigState
from tepbft.wire import ClientMessage, ProvenReceipt, client_codec, encode

CHAIN = bytes(range(32))


@dataclass(frozen=True)
class Target:
    """One decoder. `errors` are the documented ones; `encode`, if given, inverts it."""

    name: str
    decode: Callable[[bytes], Any]
    valid: st.SearchStrategy[bytes]
    errors: tuple[type[BaseException], ...] = (PeerFault,)
    encode: Callable[[Any], bytes] | None = None


def encoded(type_: Any) -> st.SearchStrategy[bytes]:
    """Valid encodings of a message type."""
    return values(type_).map(encode)


# --- files ------------------------------------------------------------------------------------


def from_file(load: Callable[[Path], Any], name: str = "file", mode: int = 0o600) -> Callable[[bytes], Any]:
    """A loader of files as a function of their bytes."""

    def decode(data: bytes) -> Any:
        with tempfile.TemporaryDirectory(prefix="tepfuzz") as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            os.chmod(path, mode)
            return load(path)

    return decode


def _genesis() -> Genesis:
    return World(3).genesis


def usable(load: Callable[[Path], Genesis]) -> Callable[[Path], Genesis]:
    """A genesis that was accepted has a name, a configuration, quorums and a primary."""

    def decode(path: Path) -> Genesis:
        genesis = load(path)
        cfg = genesis.configuration()
        assert len(genesis.chain_id) == len(cfg.digest()) == 32
        assert cfg.quorums.n == len(genesis.members) and cfg.primary(7) < cfg.quorums.n
        return genesis

    return decode


def _journal_bytes(payloads: list[bytes]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tepfuzz") as folder:
        journal = Journal(Path(folder), CHAIN, sync=False)
        list(journal.replay())
        journal.append(payloads)
        journal.close()
        return segment_path(Path(folder), 1).read_bytes()


def read_journal(path: Path) -> list[Any]:
    """All records of a journal that consists of this file."""
    journal = Journal(path.parent, CHAIN, sync=False)
    try:
        return [decode_record(payload) for _, payload in journal.replay()]
    finally:
        journal.close()


def checked_record(data: bytes) -> list[Any]:
    """A journal whose checksums are right, around a payload that may be anything."""
    return from_file(read_journal, "00000001.log")(_journal_bytes([data]))


def read_snapshot(path: Path) -> list[bytes]:
    """Head and chunks of a snapshot file."""
    return SnapshotFile(path, CHAIN).chunks()


def _snapshot_bytes(chunks: list[bytes]) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tepfuzz") as folder:
        SnapshotFolder(Path(folder), CHAIN).save(8, chunks)
        return next(Path(folder).glob("*.snapshot")).read_bytes()


def checked_snapshot(data: bytes) -> list[bytes]:
    """A snapshot file whose head may be anything, under a right checksum."""
    start = struct.pack("<8sII", b"TEPSNAP\n", 1, len(data))
    content = start + struct.pack("<I", crc32(data, crc32(start))) + data
    return from_file(read_snapshot, "snapshot")(content)


def checked_manifest(data: bytes) -> Any:
    """A store's manifest that may be anything, under a right checksum."""
    content = data + b"\n" + sha256(data).hexdigest().encode() + b"\n"
    return from_file(lambda path: read_manifest(path.parent), "store.manifest")(content)


# --- the trusted component --------------------------------------------------------------------


def import_hbusig(data: bytes) -> Any:
    """A component from its state; one that was accepted answers whatever it is asked."""
    component = HbUsig.import_state(data)
    for request in _REQUESTS:
        component.call(request)
    return component


_REQUESTS = [
    msgspec.msgpack.decode(encode(request), type=TcRequest)
    for request in (
        [8, bytes(32)],
        [1, 1, 1, 1, bytes(32)],
        [1, 2, 2**63 - 1, 2**63 - 1, bytes(32)],
        [4, 1, bytes(32)],
        [3, 1, bytes(32)],
        [6, 1],
        [5, 1],
        [2, 2, bytes(32)],
        [7, 1, bytes(32), 9],
    )
]
_PLATFORM_KEY = bytes(range(32))


def restore_blob(data: bytes) -> bytes:
    """A sealed blob on a platform at counter 1."""
    platform = MemoryPlatform(_PLATFORM_KEY)
    platform.advance()
    return restore(data, platform)


# --- frames, text, applications ---------------------------------------------------------------


class _Reader(FrameProtocol):
    def __init__(self) -> None:
        super().__init__(1 << 16, Budget(1 << 20), 64)
        self.frames: list[bytes] = []
        self.broken = ""
        self.transport = object()  # type: ignore[assignment]

    def frames_received(self, frames: list[bytes]) -> None:
        self.frames += frames

    def refused(self, code: str, detail: str) -> None:
        self.broken = code


def read_frames(data: bytes) -> tuple[list[bytes], str]:
    """A stream in pieces of odd sizes; what came out, and why it was refused. It never holds more than
    twice what came in."""
    reader, at, step = _Reader(), 0, 1
    while at < len(data) and not reader.broken:
        space = reader.get_buffer(-1)
        piece = data[at : at + min(len(space), step)]
        space[: len(piece)] = piece
        reader.buffer_updated(len(piece))
        at, step = at + len(piece), step * 3 % 61 + 1
    assert len(reader._buffer) <= max(64, 4 * len(data))
    return reader.frames, reader.broken


def read_client_frames(data: bytes) -> list[bytes]:
    """The client's side of the same."""
    frames = Frames()
    return [found for at in range(0, len(data), 7) for found in frames.feed(data[at : at + 7])]


class _Memory:
    """A context over a dictionary."""

    def __init__(self) -> None:
        self.height, self.timestamp_ms, self.seed, self.client = 7, 1, bytes(32), bytes(16)
        self.state: dict[bytes, bytes] = {}
        self.get, self.put = self.state.get, self.state.__setitem__

    def delete(self, key: bytes) -> None:
        self.state.pop(key, None)

    def range(self, start: bytes, end: bytes, limit: int = 1000) -> Any:
        return iter([(k, v) for k, v in sorted(self.state.items()) if start <= k < end][:limit])


def execute_with(module: Any) -> Callable[[bytes], Any]:
    """An operation, executed twice from an empty state; and its result as the command line shows it."""
    application = next(found for found in vars(module).values() if hasattr(found, "execute"))

    def decode(data: bytes) -> Any:
        context = _Memory()
        module.render(data, application().execute(context, data))
        return module.render(data, application().execute(context, data))

    return decode


def http_request(data: bytes) -> Request:
    """The body of a POST, as a request."""
    found: Request = decode_http_body(SubmitBody, data).request()
    return found


def _toml(settings: dict[str, Any]) -> bytes:
    return (
        dump_settings(NodeSettings(node=1)).encode()
        + "".join(f"{key} = {value!r}\n" for key, value in settings.items()).encode()
    )


_submit_bodies = values(SubmitBody).map(msgspec.json.encode)
_pairs = st.dictionaries(
    st.binary(max_size=20).map(lambda key: b"a" + key), st.binary(max_size=40), min_size=1, max_size=5
)
_requests = st.lists(values(Request), max_size=4)
_frames = st.lists(st.binary(min_size=1, max_size=50), max_size=6).map(
    lambda frames: b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
)
_mac_file = msgspec.json.encode({"00" * 16: "11" * 32})
_platform_file = msgspec.json.encode({"key": "22" * 32, "counter": 3})
_manifest = msgspec.json.encode(
    {"format": 1, "chain_id": CHAIN.hex(), "journal_end": (1, 64, 5), "files": {"FORMAT": (3, "00")}}
)
_format_file = msgspec.json.encode({"format": 1, "chain_id": CHAIN.hex()}) + b"\n"


def _verify(data: bytes) -> Any:
    return verify_receipt(_GENESIS, receipt_from_json(data))


_GENESIS = _genesis()
FILES = (TepbftError,)
REFUSED = (OperationRefused,)
_records = st.one_of(
    encoded(Record), values(Configuration).map(lambda cfg: encode(ConfigRecord(encode(cfg))))
)
_receipts = st.lists(values(Receipt), min_size=1, max_size=3)


def _own_receipt(proof: ProvenReceipt) -> bytes:
    return receipt_to_json(msgspec.structs.replace(proof, chain_id=_GENESIS.chain_id))


TARGETS: tuple[Target, ...] = (
    Target("peer_message", peer_codec.decode, encoded(Message), encode=encode),
    Target("client_message", client_codec.decode, encoded(ClientMessage), encode=encode),
    Target("hello", hello_codec.decode, encoded(Hello), encode=encode),
    Target("device_request", request_codec.decode, encoded(DeviceRequest), encode=encode),
    Target("device_reply", reply_codec.decode, encoded(DeviceReply), encode=encode),
    Target("block_body", decode_body, _requests.map(encode_body), encode=encode_body),
    Target("replace", decode_replace, values(ReplaceTc).map(encode_replace), encode=encode_replace),
    Target("genesis", decode_genesis, st.just(encode_genesis(_GENESIS)), (msgspec.MsgspecError,)),
    Target("genesis_file", from_file(usable(load_genesis)), st.just(encode_genesis(_GENESIS)), FILES),
    Target(
        "client_genesis_file",
        from_file(usable(load_client_genesis)),
        st.just(encode_genesis(_GENESIS)),
        FILES,
    ),
    Target("hbusig_state", import_hbusig, encoded(HbUsigState), FILES),
    Target("sequsig_state", SeqUsig.import_state, encoded(SeqUsigState), FILES),
    Target(
        "sealed_blob",
        restore_blob,
        st.binary(max_size=60).map(lambda state: seal(state, MemoryPlatform(_PLATFORM_KEY))),
        FILES,
    ),
    Target(
        "platform_file",
        from_file(lambda path: FilePlatform(path.parent).advance(), "platform.json"),
        st.just(_platform_file),
        FILES,
    ),
    Target("record", decode_record, _records, encode=encode),
    Target("receipts", decode_receipts, _receipts.map(encode)),
    Target("configuration", decode_configuration, encoded(Configuration), encode=encode),
    Target(
        "journal_file",
        from_file(read_journal, "00000001.log"),
        st.lists(_records, max_size=3).map(_journal_bytes),
        (TepbftError, PeerFault),
    ),
    Target("journal_payload", checked_record, _records, (TepbftError, PeerFault)),
    Target(
        "snapshot_file",
        from_file(read_snapshot),
        st.lists(st.binary(max_size=40), max_size=3).map(_snapshot_bytes),
        FILES,
    ),
    Target("snapshot_head", checked_snapshot, encoded(SnapshotHead), FILES),
    Target(
        "snapshot_chunk",
        decode_chunk,
        _pairs.map(lambda pairs: make_chunks(sorted(pairs.items()))[0]),
        encode=encode,
    ),
    Target(
        "store_format",
        from_file(lambda path: check_format(path.parent, CHAIN), "FORMAT"),
        st.just(_format_file),
        FILES,
    ),
    Target("store_manifest", checked_manifest, st.just(_manifest), FILES),
    Target(
        "receipt_file",
        receipt_from_json,
        values(ProvenReceipt).map(receipt_to_json),
        FILES,
        receipt_to_json,
    ),
    Target("receipt_verified", _verify, values(ProvenReceipt).map(_own_receipt), FILES),
    Target(
        "client_credentials",
        from_file(load_credentials),
        st.sampled_from(["ed25519", "secp256k1", "p256", "mac", "none"]).map(
            lambda scheme: encode_credentials(new_credentials(scheme, "c")).encode()
        ),
        FILES,
    ),
    Target("settings", from_file(load_settings), st.just(_toml({})), FILES),
    Target("secret", from_file(read_secret), st.just(b"abc\n"), FILES),
    Target("seed", from_file(read_seed), st.just(b"00" * 32), FILES),
    Target("mac_keys", from_file(_load_mac_keys), st.just(_mac_file), FILES),
    Target("http_body", http_request, _submit_bodies, (HttpError,)),
    Target("kv_operation", execute_with(kv), encoded(kv.Operation), REFUSED),
    Target("bank_operation", execute_with(bank), encoded(bank.Operation), REFUSED),
    Target("notary_operation", execute_with(notary), encoded(notary.Operation), REFUSED),
    Target("peer_frames", read_frames, _frames, ()),
    Target("client_frames", read_client_frames, _frames),
)
