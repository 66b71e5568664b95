"""Execution: from an agreed block to an executed header (A3.3, A9).

Blocks come strictly in height order, each exactly once (I-11). What a block does is
a function of the header below it, the state below it, and its bytes: every correct
node gets the same header (I-2). Results are tentative until the store has installed
them (A-32): `execute` -> `install` -> the store writes -> `settle`. A node that turns
out to have diverged goes back with `rollback`, one that received a snapshot starts
over with `restore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec
from msgspec import Struct

from tepbft.core.block import (
    CONFIG,
    NORMAL,
    OK,
    REFUSED,
    Block,
    Header,
    Receipt,
    Request,
)
from tepbft.core.requests import Run
from tepbft.crypto.hash import digest as hash_parts
from tepbft.errors import ContractBroken, OperationRefused
from tepbft.execution.client_table import ClientTable
from tepbft.execution.context import BlockContext
from tepbft.execution.outcomes import Outcomes, new_outcomes
from tepbft.execution.overlay import Overlay, StateReader
from tepbft.execution.port import Application
from tepbft.execution.snapshot import PREFIXES, make_chunks, snapshot_root
from tepbft.execution.writes import write_set_digest
from tepbft.storage.port import StateWrites
from tepbft.types import MAX_OPERATION_BYTES, ZERO_DIGEST, Height

CONFIG_KEY = b"s/config"
"""State key of the encoded configuration that follows the newest CONFIG block."""
MAX_RESULT_BYTES = MAX_OPERATION_BYTES
MAX_REFUSAL_BYTES = 256
MAX_BLOCK_RESULT_BYTES = 8 << 20
"""Results of one block together; with refusals and receipts this stays below one record's bound."""

_encode = msgspec.msgpack.Encoder().encode


class Executed(Struct, frozen=True):
    """What one block became."""

    header: Header
    digest: bytes
    """`cp_hash`: the header's digest."""
    receipts: Outcomes
    """One per request of the block, in order: what `receipts_root` commits to."""
    encoded_receipts: bytes
    """The same in the wire encoding."""
    kept: dict[int, tuple[Height, Receipt]]
    """For the requests that were skipped, by index, what their clients are to be told and when it took
    effect: for a duplicate the kept answer."""
    writes: StateWrites
    snapshot: list[bytes] | None
    """Chunks of the whole state, at snapshot heights."""

    @property
    def replies(self) -> list[tuple[Height, Receipt]]:
        """Per request what its client is to be told, and at which height that took effect."""
        height, kept = self.header.height, self.kept
        return [kept.get(index) or (height, receipt) for index, receipt in enumerate(self.receipts)]


def _refusal_text(refusal: OperationRefused) -> bytes:
    try:
        text = str(refusal)
    except Exception as error:
        text = f"refused ({type(error).__name__})"
    return text.encode("utf-8", "backslashreplace")[:MAX_REFUSAL_BYTES]


class Executor:
    """Executes blocks of one chain and keeps what is tentative. Raises what the reader raises, after
    which nothing of the block has happened; raises ContractBroken for calls out of order."""

    def __init__(
        self,
        *,
        chain_id: bytes,
        application: Application,
        reader: StateReader,
        header: Header,
        client_window: int,
        snapshot_interval: int,
    ) -> None:
        self.chain_id = chain_id
        self.application_errors = 0
        """Operations refused because the application raised something other than OperationRefused."""
        self._application = application
        self._overlay = Overlay(reader)
        self._table = ClientTable(self._overlay, client_window)
        self._snapshot_interval = snapshot_interval
        self._set_head(header)
        self._handed_out = self._settled = header.height

    def _set_head(self, header: Header, digest: bytes | None = None) -> None:
        self._head = header
        self._head_digest = digest or header.digest()

    @property
    def head(self) -> Header:
        """Header of the newest executed block."""
        return self._head

    @property
    def head_digest(self) -> bytes:
        """`cp_hash` of the head."""
        return self._head_digest

    @property
    def height(self) -> Height:
        """Height of the newest executed block."""
        return self._head.height

    # --- executing ----------------------------------------------------------------------------

    def execute(
        self,
        block: Block,
        digest: bytes,
        requests: Sequence[Request],
        digests: Sequence[bytes],
        config: bytes | None = None,
    ) -> Executed:
        """Execute the block above the head. `requests` are those of a NORMAL block, already checked
        statically, with their digests; `config` is the encoded next configuration that a CONFIG
        block brings about (None if it has no effect)."""
        self._check_call(block, requests, digests, config)
        self._overlay.failure = None
        try:
            return self._execute(block, digest, requests, digests, config)
        except BaseException:
            self._table.forget()
            raise

    def _check_call(
        self, block: Block, requests: Sequence[Request], digests: Sequence[bytes], config: bytes | None
    ) -> None:
        if block.height != self.height + 1:
            raise ContractBroken(f"block {block.height} cannot be executed above {self.height}")
        if len(requests) != len(digests) or (requests and block.kind != NORMAL):
            raise ContractBroken(f"block {block.height} of kind {block.kind} with {len(requests)} requests")
        if config is not None and block.kind != CONFIG:
            raise ContractBroken(f"block {block.height} is no CONFIG block")

    def _execute(
        self,
        block: Block,
        digest: bytes,
        requests: Sequence[Request],
        digests: Sequence[bytes],
        config: bytes | None,
    ) -> Executed:
        parent, height = self._head, block.height
        ts = max(parent.ts, block.ts)
        seed = hash_parts(b"TEP1/SEED", self._head_digest, digest)
        context = BlockContext(self._overlay, height, ts, seed)
        outcomes, kept, retired = self._run(context, requests, digests)
        if self._overlay.failure is not None:
            # The disk failed, not the operation, even if the application made a refusal of it.
            raise self._overlay.failure
        changed: dict[bytes, bytes | None] = context.block_writes()
        if config is not None:
            changed[CONFIG_KEY] = config
        state_root, clients_root = parent.state_root, parent.clients_root
        if changed:
            state_root = hash_parts(b"TEP1/STA", state_root, write_set_digest(changed))
        encoded = outcomes.encoded()
        changes = encoded if outcomes else b""
        if kept:
            told = [r for index, r in enumerate(outcomes) if index not in kept or index in retired]
            changes = _encode(told) if told else b""
        if changes:
            clients_root = hash_parts(b"TEP1/CLI", clients_root, sha256(changes).digest())
        changed.update(self._table.finish_block())
        writes = StateWrites(height, changed, context.written_bytes)
        snapshot, root = None, ZERO_DIGEST
        self._overlay.add(writes)
        if height % self._snapshot_interval == 0:
            try:
                snapshot = self.snapshot_chunks()
            except BaseException:
                self._overlay.drop_above(height - 1)
                raise
            root = snapshot_root(snapshot)
        header = Header(
            height, ts, digest, self._head_digest, state_root, outcomes.root(), clients_root, root
        )
        self._set_head(header)
        return Executed(header, self._head_digest, outcomes, encoded, kept, writes, snapshot)

    def _run(
        self, context: BlockContext, requests: Sequence[Request], digests: Sequence[bytes]
    ) -> tuple[Outcomes, dict[int, tuple[Height, Receipt]], set[int]]:
        """Receipts; what is to be told about the requests that were skipped; which of those retired a
        session, and so changed the client table all the same."""
        kept: dict[int, tuple[Height, Receipt]] = {}
        retired: set[int] = set()
        outcomes, table, apply = new_outcomes(requests, digests), self._table, self._apply
        table.begin_block(context.height, outcomes)
        room = outcomes.advance(table.lanes, context, apply, MAX_BLOCK_RESULT_BYTES)
        while (index := len(outcomes)) < len(requests):
            request, digest = requests[index], digests[index]
            client, session, seq = request.client, request.session, request.seq
            answers = table.take_up(client, session, seq)
            if answers is None:
                outcomes.add(table.classify(client, session, seq, digest), b"")
                receipt = outcomes[index]
                kept[index] = self._reply_to_skipped(context.height, receipt)
                if table.skip(receipt):
                    retired.add(index)
            else:
                context.client = client
                status, result = apply(context, request.op, room)
                if status == OK:
                    room -= len(result)
                outcomes.add(status, result)
                answers.append(index)
            room = outcomes.advance(table.lanes, context, apply, room)
        return outcomes, kept, retired

    def _reply_to_skipped(self, height: Height, receipt: Receipt) -> tuple[Height, Receipt]:
        kept = self._table.outcome(receipt.client, receipt.session, receipt.seq)
        if kept is not None and kept[1].request_digest == receipt.request_digest:
            return kept
        return height, receipt

    def _apply(self, context: BlockContext, operation: bytes, room: int) -> tuple[int, bytes]:
        """Status and result of one operation, with its writes committed or discarded (A-25)."""
        try:
            result = self._application.execute(context, operation)
            if type(result) is not bytes:
                raise TypeError
            if len(result) > MAX_RESULT_BYTES:
                raise OperationRefused(f"a result may have at most {MAX_RESULT_BYTES} bytes")
            if len(result) > room:
                raise OperationRefused("the results of this block leave no room for this one")
        except OperationRefused as refusal:
            context.discard()
            return REFUSED, _refusal_text(refusal)
        except MemoryError:
            raise  # says something about this machine, not about the operation
        except Exception as error:
            # The type's name only: messages may hold addresses or paths, which replicas do not share.
            context.discard()
            self.application_errors += 1
            name = type(error).__name__.encode("utf-8", "backslashreplace")
            return REFUSED, (b"application error: " + name)[:MAX_REFUSAL_BYTES]
        context.commit()
        return OK, result

    # --- moving the installed state -----------------------------------------------------------

    def install(self, height: Height) -> list[StateWrites]:
        """Write-sets for the store, in order: everything up to `height` that was not handed out yet.
        They stay readable here until `settle`."""
        if height > self.height:
            raise ContractBroken(f"height {height} is not executed yet")
        writes = self._overlay.layers(self._handed_out, height)
        self._handed_out = max(self._handed_out, height)
        return writes

    def settle(self, height: Height | None = None) -> None:
        """The store has carried out what `install` handed out (up to `height` if given)."""
        done = self._handed_out if height is None else min(height, self._handed_out)
        if done > self._settled:
            self._overlay.drop_installed(done)
            self._settled = done

    def rollback(self, header: Header) -> None:
        """Forget what was executed above `header`, which must not lie below what was handed out."""
        if not self._handed_out <= header.height <= self.height:
            raise ContractBroken(f"cannot go back from {self.height} to {header.height}")
        self._overlay.drop_above(header.height)
        self._table.forget()
        self._set_head(header)

    def restore(self, header: Header) -> None:
        """The reader now holds the state at `header` (a snapshot was put in place): start over from it."""
        self._overlay.clear()
        self._table.forget()
        self._set_head(header)
        self._handed_out = self._settled = header.height

    # --- reading ------------------------------------------------------------------------------

    def outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept answer to a request, as of the head."""
        return self._table.outcome(client, session, seq)

    def classify(self, client: bytes, session: int, seq: int, digest: bytes) -> int:
        """What executing that request next would come to: `client_table.EXECUTE` or a status of A9."""
        return self._table.classify(client, session, seq, digest)

    def all_fresh(self, runs: Sequence[Run]) -> bool:
        """True if all of these can be executed as things stand; False if that takes `classify` to tell."""
        return self._table.all_fresh(runs)

    def is_decided(self, client: bytes, session: int, seq: int) -> bool:
        """True if that request was executed or can never be: nothing to wait for any more."""
        return self._table.is_decided(client, session, seq)

    def get(self, key: bytes) -> bytes | None:
        """Value of a state key (with its prefix) as of the head, tentative or not."""
        return self._overlay.get(key)

    def snapshot_chunks(self) -> list[bytes]:
        """The whole state at the head, in chunks; the same on every correct node."""
        return make_chunks(
            pair for prefix in PREFIXES for pair in self._overlay.scan(prefix, bytes([prefix[0] + 1]))
        )
