"""Small records for storage tests: well-formed, unsigned, cheap."""

from __future__ import annotations

from hashlib import sha256

from tepbft.core.block import NORMAL, Block, Header, Request, encode_body, genesis_header
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import Configuration, Member
from tepbft.storage.port import (
    BodyRecord,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    LinkedConfigRecord,
    PrepareRecord,
    StableRecord,
    StateWrites,
    ViewRecord,
)
from tepbft.wire import ConfigLink, encode

CHAIN = sha256(b"a chain").digest()
OTHER_CHAIN = sha256(b"another chain").digest()
VOTES = (Vote(0, 1, b"v0"), Vote(1, 1, b"v1"))


def block(height: int, salt: int = 0, size: int = 20) -> Block:
    """A block with one request."""
    request = Request(bytes(16), 1, height, bytes([salt]) * size, b"")
    return Block(0, height, NORMAL, 1000 + height, 1, encode_body([request]))


def body(height: int, salt: int = 0, size: int = 20) -> BodyRecord:
    """The body record of `block`."""
    made = block(height, salt, size)
    return BodyRecord(made.digest(CHAIN), made)


def prepare(height: int, salt: int = 0) -> PrepareRecord:
    """A PREPARE for `block`."""
    return PrepareRecord(0, PrepareHead(0, height, block(height, salt).digest(CHAIN), 1, b"sig"))


def commit(height: int, salt: int = 0, view: int = 0) -> CommitRecord:
    """A commit certificate for `block`."""
    return CommitRecord(CommitCertificate(0, view, height, block(height, salt).digest(CHAIN), VOTES))


def header(height: int, salt: int = 0) -> Header:
    """A header that belongs to `block`; parents are not linked."""
    below = genesis_header(CHAIN, 0).digest()
    return Header(height, 5, block(height, salt).digest(CHAIN), below, below, below, below, bytes(32))


def executed(height: int, salt: int = 0) -> HeaderRecord:
    """A header record."""
    return HeaderRecord(header(height, salt), b"receipts %d" % height)


def stable(height: int, salt: int = 0, with_header: bool = True, votes: bool = True) -> StableRecord:
    """A stable checkpoint of `header`."""
    made = header(height, salt)
    certificate = CheckpointCertificate(0, height, made.digest(), VOTES if votes else ())
    return StableRecord(certificate, made if with_header else None)


def view(slot: str, number: int) -> ViewRecord:
    """A view record."""
    return ViewRecord(slot, 0, number, b"message %d" % number)


def config(number: int) -> ConfigRecord:
    """A configuration record."""
    member = Member(0, bytes(16), b"key", b"node", b"operator", bytes(32), "host", 1, 2, 3)
    return ConfigRecord(encode(Configuration(number, number * 10, (member,))))


def linked(number: int) -> LinkedConfigRecord:
    """A configuration record with the link that proved it."""
    made = stable(number * 10)
    assert made.header is not None
    link = ConfigLink(number - 1, number * 10, 7, b"change", made.header, made.certificate)
    return LinkedConfigRecord(config(number).data, encode(link))


def height_records(height: int) -> list[object]:
    """Everything about one height, up to its stability."""
    return [body(height), prepare(height), commit(height), executed(height), stable(height)]


def writes(height: int, **values: bytes | None) -> StateWrites:
    """A write-set of application keys."""
    return StateWrites(height, {b"a" + key.encode(): value for key, value in sorted(values.items())})
