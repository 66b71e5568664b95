"""A notary: who registered a document's digest first, and when.

State: `d` + digest holds the entry; `n` + client the number of its entries (8 bytes,
big-endian); `l` + client + index (8 bytes, big-endian) the digest of each.
Results are msgpack: register returns the entry, lookup the entry or nil, list
([(index, digest, entry)], next index or nil).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from tepbft.errors import ContractBroken, TepbftError
from tepbft.execution.apps.words import parse_number, usage_error
from tepbft.execution.port import Context, OperationRefused
from tepbft.types import U64, ClientId, Digest

MAX_NAME_BYTES = 4096
MAX_MEDIA_TYPE_BYTES = 255
MAX_LIST = 100
MAX_LIST_BYTES = 200 << 10
_MAX_INDEX = 2**63 - 1

USAGE = """\
register DIGEST NAME SIZE [MEDIA_TYPE]  enter a document (SHA-256 in hexadecimal, size in bytes)
lookup DIGEST                           who registered it, and when
list [CLIENT|- [FROM [LIMIT]]]          entries of a client (-: your own), oldest first"""

# Bounds of msgspec count characters; `execute` checks the bytes of a name as well.
_Name = Annotated[str, Meta(max_length=MAX_NAME_BYTES)]
_MediaType = Annotated[str, Meta(max_length=MAX_MEDIA_TYPE_BYTES)]


class Register(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Enter a document under its digest; refused if it is there already."""

    digest: Digest
    name: _Name
    size: U64
    media_type: _MediaType


class Lookup(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """Read the entry of a digest in agreed order."""

    digest: Digest


class List(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """At most `limit` entries of `client` (None: of who asks), from index `start` on."""

    client: ClientId | None
    start: U64 = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = MAX_LIST


Operation: TypeAlias = Register | Lookup | List


class Entry(Struct, array_like=True, frozen=True):
    """One registered document."""

    client: bytes
    timestamp_ms: int
    """Agreed time of the block, Unix milliseconds."""
    height: int
    index: int
    """Position among the entries of this client, from 0."""
    name: str
    size: int
    media_type: str


_Page: TypeAlias = tuple[list[tuple[int, bytes, Entry]], int | None]
_decoder: msgspec.msgpack.Decoder[Operation] = msgspec.msgpack.Decoder(Operation)
_decode_entry = msgspec.msgpack.Decoder(Entry)
_decode_lookup = msgspec.msgpack.Decoder(Entry | None)
_decode_page: msgspec.msgpack.Decoder[_Page] = msgspec.msgpack.Decoder(_Page)
_encode = msgspec.msgpack.Encoder().encode


def encode(operation: Operation) -> bytes:
    """Bytes of an operation, to put into a request."""
    return _encode(operation)


class Notary:
    """The application `notary`."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        """Carry out one operation; see the module for results."""
        try:
            op = _decoder.decode(operation)
        except (msgspec.MsgspecError, ValueError):
            raise OperationRefused("not an operation of notary") from None
        if isinstance(op, Register):
            return self._register(context, op)
        if isinstance(op, Lookup):
            return context.get(b"d" + op.digest) or _encode(None)
        return self._list(context, op)

    def _register(self, context: Context, op: Register) -> bytes:
        known = context.get(b"d" + op.digest)
        if known is not None:
            first = _decode_entry.decode(known)
            raise OperationRefused(
                f"already registered by client {first.client.hex()} at height {first.height}, "
                f"time {first.timestamp_ms} ms"
            )
        if len(op.name.encode()) > MAX_NAME_BYTES or len(op.media_type.encode()) > MAX_MEDIA_TYPE_BYTES:
            raise OperationRefused("the name or media type is too long")
        client = context.client
        count = context.get(b"n" + client)
        index = 0 if count is None else int.from_bytes(count, "big")
        entry = _encode(
            Entry(client, context.timestamp_ms, context.height, index, op.name, op.size, op.media_type)
        )
        context.put(b"d" + op.digest, entry)
        context.put(b"l" + client + index.to_bytes(8, "big"), op.digest)
        context.put(b"n" + client, (index + 1).to_bytes(8, "big"))
        return entry

    def _list(self, context: Context, op: List) -> bytes:
        prefix = b"l" + (context.client if op.client is None else op.client)
        page: list[tuple[int, bytes, Entry]] = []
        size = 0
        end = prefix + b"\xff" * 9
        for key, digest in context.range(prefix + op.start.to_bytes(8, "big"), end, op.limit + 1):
            index = int.from_bytes(key[-8:], "big")
            data = context.get(b"d" + digest)
            if data is None:
                raise ContractBroken(f"entry {index} of a client has no document")
            size += len(data) + 64
            if len(page) == op.limit or size > MAX_LIST_BYTES:
                return _encode((page, index))
            page.append((index, digest, _decode_entry.decode(data)))
        return _encode((page, None))


# --- command line -----------------------------------------------------------------------------


def _parse_hex(word: str, name: str, size: int) -> bytes:
    try:
        data = bytes.fromhex(word.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != size:
        raise TepbftError(
            f"{name} {word[:80]!r}", "not what it should be", f"Give {2 * size} hexadecimal digits"
        )
    return data


def _parse_list(words: list[str]) -> List:
    client = None if not words or words[0] == "-" else _parse_hex(words[0], "CLIENT", 16)
    start = parse_number(words[1], "FROM", 0, _MAX_INDEX) if len(words) > 1 else 0
    limit = parse_number(words[2], "LIMIT", 1, MAX_LIST) if len(words) > 2 else MAX_LIST
    return List(client, start, limit)


def parse(words: Sequence[str]) -> bytes:
    """Words of a command line to an operation; TepbftError with the usage on nonsense."""
    match list(words):
        case ["register", digest, name, size, *rest] if len(rest) <= 1:
            media_type = rest[0] if rest else "application/octet-stream"
            if (
                len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES
                or len(media_type.encode("utf-8", "replace")) > MAX_MEDIA_TYPE_BYTES
            ):
                raise TepbftError("name or media type", "too long", f"At most {MAX_NAME_BYTES} bytes of name")
            operation: Operation = Register(
                _parse_hex(digest, "DIGEST", 32),
                name,
                parse_number(size, "SIZE", 0, _MAX_INDEX),
                media_type,
            )
        case ["lookup", digest]:
            operation = Lookup(_parse_hex(digest, "DIGEST", 32))
        case ["list", *rest] if len(rest) <= 3:
            operation = _parse_list(rest)
        case _:
            raise usage_error(" ".join(words), USAGE)
    try:
        return _encode(operation)
    except UnicodeEncodeError:
        raise TepbftError("name", "not valid Unicode text", "Give it in UTF-8") from None


def _render_entry(digest: bytes, entry: Entry) -> dict[str, object]:
    return {
        "digest": digest.hex(),
        "client": entry.client.hex(),
        "timestamp_ms": entry.timestamp_ms,
        "height": entry.height,
        "index": entry.index,
        "name": entry.name,
        "size": entry.size,
        "media_type": entry.media_type,
    }


def render(operation: bytes, result: bytes) -> object:
    """The result of an operation as plain values for JSON."""
    op = _decoder.decode(operation)
    if isinstance(op, List):
        page, following = _decode_page.decode(result)
        return {"entries": [_render_entry(digest, entry) for _, digest, entry in page], "next": following}
    entry = _decode_lookup.decode(result)
    return None if entry is None else _render_entry(op.digest, entry)
