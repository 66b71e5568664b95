"""One process of those that verify signatures for a node (`verifying_parallel.WorkerVerifier`).

A fresh interpreter, not a fork: it has nothing of the node but a socket, its standard input. Over it come
the scheme and the public keys once, then batches; back go the indices of bad requests. Frames are a length
(u32, little-endian) and MessagePack of lists, bytes and numbers.

A worker ends when the node's end of the socket is gone, however the node ended, and for no other reason:
signals meant for the node do not concern it.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from tepbft.core.block import Request
from tepbft.core.configuration import RegisteredClient
from tepbft.core.requests import signed
from tepbft.crypto.schemes import scheme_named

MAX_FRAME_BYTES = 256 << 20
_LENGTH = struct.Struct("<I")
_Setup = tuple[str, list[tuple[bytes, bytes]]]
_Batch = tuple[list[bytes], list[bytes], list[bytes]]
_setup_decoder = msgspec.msgpack.Decoder(_Setup)
_batch_decoder = msgspec.msgpack.Decoder(_Batch)
_answer_decoder = msgspec.msgpack.Decoder(list[int])


def send_frame(sock: socket.socket, content: bytes) -> None:
    """Send one frame; OSError if it does not get through."""
    sock.sendall(_LENGTH.pack(len(content)) + content)


def receive_frame(sock: socket.socket) -> bytes:
    """The next frame; EOFError at the end, OSError if it does not come in time."""
    (size,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    if size > MAX_FRAME_BYTES:
        raise EOFError(f"a frame of {size} bytes")
    return _exactly(sock, size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        count = sock.recv_into(rest)
        if not count:
            raise EOFError("the other end is closed")
        rest = rest[count:]
    return bytes(found)


def encode_setup(scheme: str, clients: Sequence[RegisteredClient]) -> bytes:
    """What a worker is told first."""
    return msgspec.msgpack.encode((scheme, [(entry.client, entry.key) for entry in clients]))


def encode_batch(digests: Sequence[bytes], requests: Sequence[Request]) -> bytes:
    """One question: what a signature's verification needs of the requests, and no more."""
    found = list(signed(requests, digests))  # they may be views of a table
    clients, names, auths = zip(*found, strict=True) if found else ((), (), ())
    return msgspec.msgpack.encode((names, clients, auths))


def decode_answer(content: bytes, count: int) -> list[int]:
    """Indices of bad requests among `count`; ValueError if the answer is none."""
    try:
        found = _answer_decoder.decode(content)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if any(not 0 <= index < count for index in found):
        raise ValueError("an index outside the batch")
    return found


def serve(sock: socket.socket) -> NoReturn:
    """Answer until the other end is gone, which raises EOFError or OSError."""
    scheme, entries = _setup_decoder.decode(receive_frame(sock))
    clients = [RegisteredClient(client, "", key) for client, key in entries]
    verifier = scheme_named(scheme).verifier(clients, node=0)
    while True:
        digests, owners, auths = _batch_decoder.decode(receive_frame(sock))
        requests = [Request(client, 0, 0, b"", auth) for client, auth in zip(owners, auths, strict=True)]
        send_frame(sock, msgspec.msgpack.encode(verifier.verify(digests, requests)))


def main() -> int:
    """The process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=sys.stdin.fileno()) as sock:
        try:
            serve(sock)
        except (EOFError, OSError):  # the node has ended
            return 0


if __name__ == "__main__":
    sys.exit(main())
