"""What the edges (HTTP, dashboards) may see and ask of a running node, and nothing else."""

from __future__ import annotations

from typing import Protocol

from tepbft.core.block import Receipt, Request
from tepbft.core.configuration import Configuration, Genesis
from tepbft.node.status import NodeStatus
from tepbft.runtime.bridge import Answer, Bridge
from tepbft.runtime.core import Core
from tepbft.runtime.metrics import Metrics
from tepbft.storage.port import ChainStore
from tepbft.storage.proofs import prove
from tepbft.types import Height
from tepbft.wire import NoProof, ProvenReceipt, WantProof


class Running(Protocol):
    """The shell, as far as this module needs it."""

    core: Core

    def status(self) -> NodeStatus:
        """See `Shell.status`."""
        ...


def answer_want_proof(core: Core, genesis: Genesis, want: WantProof) -> ProvenReceipt | NoProof:
    """The answer to a client that asks for a proof."""

    def declined(reason: str) -> NoProof:
        return NoProof(want.client, want.session, want.seq, reason[:256])

    found = core.node.find_outcome(want.client, want.session, want.seq)
    if found is None:
        return declined("this node knows no outcome of that request")
    try:
        return prove(core.store, genesis, want.client, want.session, want.seq, found[0])
    except LookupError as error:
        return declined(str(error))


class NodeView:
    """One running node, read from and submitted to. Use it on the node's loop only."""

    def __init__(
        self,
        genesis: Genesis,
        shell: Running,
        bridge: Bridge,
        metrics: Metrics,
        *,
        timeout_ms: int,
    ) -> None:
        self.genesis = genesis
        self.timeout_ms = timeout_ms
        """How long `submit` waits by default, and at most."""
        self._shell = shell
        self._bridge = bridge
        self._metrics = metrics

    @property
    def store(self) -> ChainStore:
        """The ledger. Read only."""
        return self._shell.core.store

    def status(self) -> NodeStatus:
        """What the node says of itself."""
        return self._shell.status()

    def configuration(self) -> Configuration:
        """The current member table."""
        return self._shell.core.node.configuration

    def find_outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The cached outcome of a request."""
        return self._shell.core.node.find_outcome(client, session, seq)

    def prove(self, client: bytes, session: int, seq: int) -> ProvenReceipt | NoProof:
        """The proven receipt of a request, or why there is none."""
        return answer_want_proof(self._shell.core, self.genesis, WantProof(client, session, seq))

    async def submit(self, request: Request, timeout_s: float) -> Answer | None:
        """See `Bridge.submit`."""
        return await self._bridge.submit(request, timeout_s)

    async def wait_stable(self, height: Height, timeout_s: float) -> bool:
        """See `Bridge.wait_stable`."""
        return await self._bridge.wait_stable(height, timeout_s)

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._metrics.render()
