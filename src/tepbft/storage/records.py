"""What a store needs to know about records: bytes, height, and which ones are singletons."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from tepbft.core.block import Receipt
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration
from tepbft.errors import ContractBroken, PeerFault
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    LinkedConfigRecord,
    PrepareRecord,
    Record,
    StableRecord,
    ViewRecord,
)
from tepbft.types import MAX_BLOCK_REQUESTS, MAX_FRAME_BYTES, Height
from tepbft.wire import ConfigLink

MAX_RECORD_BYTES = MAX_FRAME_BYTES + 4096
"""A record is a blob of at most one frame, and a few fields around it."""
VIEW_SLOTS = ("new_view_certificate", "view_change", "new_view")

T = TypeVar("T")
_encode = msgspec.msgpack.Encoder().encode
_decode_record: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
_decode_configuration = msgspec.msgpack.Decoder(Configuration)
_decode_link = msgspec.msgpack.Decoder(ConfigLink)
_Receipts = Annotated[list[Receipt], Meta(max_length=MAX_BLOCK_REQUESTS)]
_decode_receipts: msgspec.msgpack.Decoder[list[Receipt]] = msgspec.msgpack.Decoder(_Receipts)


def encode_record(record: Record) -> bytes:
    """Journal payload of a record; ContractBroken if it is larger than any record may be."""
    data = _encode(record)
    if len(data) > MAX_RECORD_BYTES:
        raise ContractBroken(f"a record of {len(data)} bytes exceeds the bound of {MAX_RECORD_BYTES}")
    return data


def _decode_canonical(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        found = decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, ValueError) as error:
        raise PeerFault("malformed", str(error)[:200]) from None
    if _encode(found) != data:
        raise PeerFault("malformed", "not the canonical encoding")
    return found


def decode_record(payload: bytes) -> Record:
    """Inverse of `encode_record`; PeerFault if the bytes are no record (the journal's checks passed,
    so another version of the program wrote them, or somebody who recomputed the checks)."""
    record = _decode_canonical(_decode_record, payload)
    if isinstance(record, ViewRecord) and record.slot not in VIEW_SLOTS:
        raise PeerFault("malformed", f"no view slot {record.slot!r}")
    if isinstance(record, ConfigRecord):
        decode_configuration(record.data)
    if isinstance(record, LinkedConfigRecord):
        _decode_canonical(_decode_link, record.link)
    return record


def decode_receipts(data: bytes) -> list[Receipt]:
    """`HeaderRecord.receipts`, in order; PeerFault if malformed. Empty bytes stand for no receipts."""
    if not data:
        return []
    return _decode_canonical(_decode_receipts, data)


def decode_configuration(data: bytes) -> Configuration:
    """The configuration inside a ConfigRecord; PeerFault if malformed."""
    return _decode_canonical(_decode_configuration, data)


def height_of(record: Record) -> Height | None:
    """The height that a record is about; None for the view and configuration records."""
    match record:
        case BodyRecord():
            return record.block.height
        case PrepareRecord():
            return record.prepare.height
        case CommitRecord() | StableRecord():
            return record.certificate.height
        case HeaderRecord():
            return record.header.height
        case ViewRecord() | ConfigRecord():
            return None


def singletons_of(record: Record) -> tuple[str, ...]:
    """Names of the slots of which only the newest record counts, and which `recover` always returns.

    ContractBroken for a view slot that the port does not know: an unbounded set of names
    would make every restart slower.
    """
    match record:
        case StableRecord():
            return ("stable",) if record.header is None else ("stable", "stable_with_header")
        case ConfigRecord():
            return ("configuration",)
        case ViewRecord():
            if record.slot not in VIEW_SLOTS:
                raise ContractBroken(f"no view slot {record.slot!r}")
            return ("view:" + record.slot,)
        case _:
            return ()


def stable_rank(certificate: CheckpointCertificate, has_header: bool) -> int:
    """Which of several stable records of one height to keep: votes first (a vote-less certificate of
    a configuration's floor proves nothing to others), then the one that carries its header."""
    return (2 if certificate.votes else 0) + (1 if has_header else 0)
