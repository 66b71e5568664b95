"""A store in memory and a chain of blocks, for tests of execution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tepbft.core.block import (
    NORMAL,
    Block,
    Header,
    Request,
    digest_of,
    encode_body,
    genesis_header,
)
from tepbft.execution.executor import Executed, Executor
from tepbft.execution.port import Application, Context, OperationRefused
from tepbft.storage.port import StateWrites

CHAIN = b"\x07" * 32


class DictReader:
    """The installed state as a dict."""

    def __init__(self, state: dict[bytes, bytes] | None = None) -> None:
        self.state = dict(state or {})
        self.broken = False

    def get(self, key: bytes) -> bytes | None:
        if self.broken:
            raise OSError("disk")
        return self.state.get(key)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        if self.broken:
            raise OSError("disk")
        return iter(sorted((k, v) for k, v in self.state.items() if start <= k < end))

    def install(self, layers: Sequence[StateWrites]) -> None:
        for layer in layers:
            for key, value in layer.writes.items():
                if value is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = value


class Scripted:
    """An application whose operations say what they do: `set k v`, `del k`, `get k`, `refuse`,
    `crash`, `seed`, `now`, joined by `;`."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        result = b""
        for step in operation.split(b";"):
            match step.split(b" "):
                case [b"set", key, value]:
                    context.put(key, value)
                case [b"del", key]:
                    context.delete(key)
                case [b"get", key]:
                    result = context.get(key) or b"-"
                case [b"add", key]:
                    value = b"%d" % (int(context.get(key) or b"0") + 1)
                    context.put(key, value)
                    result = value
                case [b"refuse"]:
                    raise OperationRefused("no")
                case [b"crash"]:
                    raise KeyError(f"at {id(context)}")
                case [b"swallow", key]:
                    try:
                        context.get(key)
                    except Exception:
                        result = b"swallowed"
                case [b"seed"]:
                    result = context.seed
                case [b"now"]:
                    result = b"%d %d" % (context.timestamp_ms, context.height)
                case [b"result", size]:
                    result = bytes(int(size))
                case [b"wrong"]:
                    return "text"  # type: ignore[return-value]
        return result


def client(number: int) -> bytes:
    return bytes([number]) * 16


def request(who: int, session: int, seq: int, op: bytes) -> Request:
    return Request(client(who), session, seq, op, b"")


def executor(
    application: Application | None = None,
    reader: DictReader | None = None,
    header: Header | None = None,
    window: int = 4,
    snapshot_interval: int = 1000,
) -> Executor:
    return Executor(
        chain_id=CHAIN,
        application=application or Scripted(),
        reader=reader or DictReader(),
        header=header or genesis_header(CHAIN, 0),
        client_window=window,
        snapshot_interval=snapshot_interval,
    )


def block_of(height: int, requests: Sequence[Request], ts: int = 0) -> Block:
    return Block(0, height, NORMAL, ts, len(requests), encode_body(list(requests)))


def run(machine: Executor, requests: Sequence[Request], ts: int = 0) -> Executed:
    """Execute the next block."""
    block = block_of(machine.height + 1, requests, ts)
    digests = [digest_of(CHAIN, r) for r in requests]
    return machine.execute(block, block.digest(CHAIN), requests, digests, None)


def run_block(machine: Executor, block: Block, config: bytes | None = None) -> Executed:
    """Execute a block without requests."""
    return machine.execute(block, block.digest(CHAIN), [], [], config)


def settle(machine: Executor, reader: DictReader, height: int) -> None:
    """Install everything up to `height`."""
    reader.install(machine.install(height))
    machine.settle()


def state_of(machine: Executor) -> list[bytes]:
    return machine.snapshot_chunks()
