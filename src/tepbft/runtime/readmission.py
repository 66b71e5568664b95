"""Getting a trusted component that lost its state back into the cluster (A8.2).

A cold-started component has a new key, which no configuration names: the node stays
silent until the cluster has ordered the replacement. Where the operator's key lies in
the node's folder, the node signs for it by itself, and asks again until it is a member.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from tepbft.core.configuration import Configuration, ReplaceTc
from tepbft.core.events import AdmissionRequested
from tepbft.crypto.operator import sign_replacement
from tepbft.errors import TepbftError
from tepbft.trusted.port import Attest, Identity, TcAnswer
from tepbft.types import Millis, NodeId

INTERVAL_MS = 1000
log = structlog.get_logger("tepbft.readmission")


class Readmission:
    """Asks for admission every `interval_ms` while the component is not a member."""

    def __init__(
        self, chain_id: bytes, me: NodeId, operator_seed: bytes, interval_ms: Millis = INTERVAL_MS
    ) -> None:
        self._chain_id = chain_id
        self._me = me
        self._seed = operator_seed
        self._interval_ms = interval_ms
        self._next_ms: Millis = 0
        self._change: ReplaceTc | None = None
        self._given_up = False

    def due(
        self,
        cfg: Configuration,
        identity: Identity,
        attest: Callable[[Attest], TcAnswer],
        now_ms: Millis,
    ) -> AdmissionRequested | None:
        """The request for admission, if it is time for one."""
        member = cfg.members[self._me]
        if member.tc_id == identity.tc_id:
            self._change = None
            return None
        if now_ms < self._next_ms or self._given_up:
            return None
        self._next_ms = now_ms + self._interval_ms
        change = self._change
        if (
            change is None
            or change.old_tc_id != member.tc_id  # somebody else replaced it in the meantime
            or change.new_tc_id != identity.tc_id
        ):
            try:
                change = sign_replacement(self._chain_id, cfg, self._me, self._seed, identity, attest)
            except TepbftError as error:
                self._given_up = True
                log.error("readmission_impossible", reason=error.reason, remedy=error.remedy)
                return None
            self._change = change
            log.warning("readmission_requested", old_tc_id=member.tc_id.hex(), new_tc_id=identity.tc_id.hex())
        return AdmissionRequested(change)
