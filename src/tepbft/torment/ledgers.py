"""What the nodes' disks hold afterwards: one chain, every acknowledged request in it, each once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tepbft.core.block import OK, REFUSED
from tepbft.core.configuration import Genesis
from tepbft.runtime.layout import NodeLayout
from tepbft.storage.records import decode_receipts
from tepbft.storage.rocks import RocksStore
from tepbft.torment.load import History
from tepbft.types import Height

RequestId = tuple[bytes, int, int]
"""(client, session, seq)."""
MAX_TOLD = 5


@dataclass
class Ledger:
    """One node's blocks above a height."""

    name: str
    headers: dict[Height, bytes] = field(default_factory=dict)
    """Height -> digest of the executed header, which names everything below it."""
    outcomes: dict[Height, list[tuple[RequestId, int, bytes]]] = field(default_factory=dict)
    """Height -> (request, status, leaf of its receipt)."""


@dataclass
class Findings:
    """What the comparison found. `problems` are sentences."""

    forked: bool = False
    lost: int = 0
    twice: int = 0
    blocks: int = 0
    problems: list[str] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Remember the first few."""
        if len(self.problems) < MAX_TOLD:
            self.problems.append(text)


def read_ledger(name: str, layout: NodeLayout, genesis: Genesis, above: Height, head: Height) -> Ledger:
    """The blocks in (above, head] that a stopped node has; it may lack some before a state transfer."""
    found = Ledger(name)
    with contextlib.closing(RocksStore(layout.store, genesis.chain_id)) as store:
        for height in range(above + 1, head + 1):
            stored = store.block(height)
            if stored is None or stored.header is None:
                continue
            found.headers[height] = stored.header.digest()
            found.outcomes[height] = [
                ((receipt.client, receipt.session, receipt.seq), receipt.status, receipt.digest())
                for receipt in (decode_receipts(stored.receipts) if stored.receipts else [])
            ]
    return found


def compare(ledgers: Sequence[Ledger], history: History, clients: Sequence[bytes]) -> Findings:
    """Agreement height by height, then every acknowledged call against the common chain.
    `clients` are the identities of the history's client numbers."""
    findings = Findings()
    chain: dict[Height, tuple[bytes, str]] = {}
    places: dict[RequestId, set[tuple[Height, bytes]]] = {}
    executions: Counter[RequestId] = Counter()
    for ledger in ledgers:
        for height, digest in ledger.headers.items():
            known = chain.get(height)
            if known is None:
                chain[height] = (digest, ledger.name)
                for request, status, leaf in ledger.outcomes[height]:
                    places.setdefault(request, set()).add((height, leaf))
                    executions[request] += status in (OK, REFUSED)
            elif known[0] != digest:
                findings.forked = True
                findings.tell(f"{known[1]} and {ledger.name} have different blocks at height {height}")
    findings.blocks = len(chain)
    for request, count in executions.items():
        if count > 1:
            findings.twice += 1
            findings.tell(f"request {request[2]} of client {request[0].hex()[:8]} took effect {count} times")
    for call, outcome in history.acknowledged():
        request = (clients[call.client], outcome.session, outcome.seq)
        if (outcome.height, outcome.receipt_digest) not in places.get(request, ()):
            findings.lost += 1
            findings.tell(
                f"request {outcome.seq} of client {call.client} was acknowledged at height "
                f"{outcome.height}, and no node has it there"
            )
    return findings
