"""View-change evidence: validity V1..V9, the merge, and new-view certificates (A3.4).

Pure functions of their arguments: every correct replica that is given the same
VIEW-CHANGEs, in whatever order, computes the same new view (I-6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tepbft.core.block import null_block
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration
from tepbft.core.verification import Verifier, check_checkpoint_certificate, check_prepare
from tepbft.errors import PeerFault
from tepbft.protocols.tep.messages import (
    NewViewCertificate,
    ReqVc,
    ViewChange,
    ack_preimage,
    departure_digest,
    req_vc_preimage,
    summary_digest,
)
from tepbft.trusted.port import VIEW_CHANGE, departure_body

Evidence = dict[int, tuple[int, bytes]]
"""height -> (view, digest)"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rules need to know of a configuration."""

    chain_id: bytes
    cfg: Configuration
    floor_digest: bytes
    """cp_hash of the header at the configuration's floor: agreed before the configuration began."""
    window: int
    """BL."""
    verifier: Verifier

    def floor_certificate(self) -> CheckpointCertificate:
        """The vote-less certificate for the configuration's floor."""
        return CheckpointCertificate(self.cfg.number, self.cfg.floor, self.floor_digest, ())


def check_checkpoint(setting: Setting, certificate: CheckpointCertificate) -> bool:
    """V2: the configuration's floor, or f+1 CHECKPOINTs."""
    if certificate.height == setting.cfg.floor:
        return certificate == setting.floor_certificate()
    return check_checkpoint_certificate(setting.cfg, certificate, setting.verifier)


def check_req_vc(setting: Setting, request: ReqVc) -> bool:
    """A REQ-VC by a member of this configuration (A-47)."""
    if request.cfg != setting.cfg.number or request.sender >= len(setting.cfg.members):
        return False
    preimage = req_vc_preimage(setting.chain_id, setting.cfg, request.sender, request.target)
    return setting.verifier.signed(setting.cfg, request.sender, preimage, request.signature)


def check_trigger(setting: Setting, trigger: Sequence[ReqVc], to: int) -> bool:
    """V9: f+1 distinct nodes asked for `to` or more (A-49)."""
    senders = {request.sender for request in trigger}
    return (
        len(senders) == len(trigger) == setting.cfg.quorums.certificate
        and all(request.target >= to for request in trigger)
        and all(check_req_vc(setting, request) for request in trigger)
    )


def check_new_view_certificate(setting: Setting, certificate: NewViewCertificate) -> bool:
    """f+1 distinct members acknowledged exactly this summary (A-52); checkable without VIEW-CHANGEs."""
    cfg = setting.cfg
    if certificate.cfg != cfg.number or certificate.view == 0:
        return False
    if certificate.base != certificate.checkpoint.height or len(certificate.nvc) > setting.window:
        return False
    nodes = {ack.node for ack in certificate.acks}
    if len(nodes) != len(certificate.acks) or len(nodes) < cfg.quorums.certificate:
        return False
    if any(node >= len(cfg.members) for node in nodes):
        return False
    if not check_checkpoint(setting, certificate.checkpoint):
        return False
    summary = summary_digest(cfg.number, certificate.view, certificate.checkpoint, certificate.nvc)
    return all(
        setting.verifier.signed(
            cfg,
            ack.node,
            ack_preimage(setting.chain_id, cfg, ack.node, certificate.view, summary),
            ack.signature,
        )
        for ack in certificate.acks
    )


def _fault(rule: str, message: ViewChange) -> PeerFault:
    return PeerFault("bad_view_change", f"{rule}, from node {message.sender} for view {message.to}")


def check_view_change(setting: Setting, message: ViewChange, to: int) -> Evidence:
    """The evidence map of a VIEW-CHANGE for `to`; PeerFault naming the rule that it breaks."""
    cfg, content, ui = setting.cfg, message.content, message.ui
    if message.cfg != cfg.number or message.sender >= len(cfg.members) or message.to != to:
        raise _fault("V1 header", message)
    body = departure_body(to, ui.lock_view, ui.floor, ui.registers, departure_digest(content))
    if not setting.verifier.ui(cfg, message.sender, ui.seq, VIEW_CHANGE, body, ui.signature):
        raise _fault("V1 signature", message)
    checkpoint, certified = content.checkpoint, content.certified
    if not check_checkpoint(setting, checkpoint):
        raise _fault("V2 checkpoint", message)
    if ui.floor > checkpoint.height:
        raise _fault("V3 floor above checkpoint", message)
    view = certified.view if certified else 0
    if not ui.lock_view <= view < to:
        raise _fault("V4 certified view", message)
    if certified is not None and not check_new_view_certificate(setting, certified):
        raise _fault("V4 certificate", message)
    if checkpoint.height < (certified.base if certified else cfg.floor):
        raise _fault("V5 checkpoint below base", message)
    found = _listed(setting, message, view)
    if ui.lock_view == view and any(
        register.height > checkpoint.height and found.get(register.height) != (view, register.digest)
        for register in ui.registers
    ):
        raise _fault("V8 register without its PREPARE", message)
    if not check_trigger(setting, content.trigger, to):
        raise _fault("V9 trigger", message)
    return found


def _listed(setting: Setting, message: ViewChange, view: int) -> Evidence:
    """V6 and V7: what the certified view re-proposed, and the listed PREPAREs of that view."""
    checkpoint, certified = message.content.checkpoint, message.content.certified
    found: Evidence = {}
    if certified is not None:
        for offset, block_digest in enumerate(certified.nvc, start=certified.base + 1):
            if offset > checkpoint.height:
                found[offset] = (view, block_digest)
    listed: set[int] = set()
    for head in message.content.prepares:
        inside = checkpoint.height < head.height <= checkpoint.height + setting.window
        if head.view != view or not inside or head.height in listed:
            raise _fault("V7 PREPARE out of place", message)
        required = certified.digest_at(head.height) if certified else None
        if required is not None and required != head.digest:
            raise _fault("V7 PREPARE against the new view", message)
        if not check_prepare(setting.cfg, head, setting.verifier):
            raise _fault("V7 PREPARE signature", message)
        listed.add(head.height)
        found[head.height] = (view, head.digest)
    return found


def merge(
    setting: Setting, checked: Sequence[tuple[ViewChange, Evidence]]
) -> tuple[CheckpointCertificate, tuple[bytes, ...]]:
    """(base certificate, digests from base+1 on): per height the highest certified view wins,
    gaps become NULL blocks (A-53, A-54)."""
    base = max(
        (message.content.checkpoint for message, _ in checked), key=lambda found: (found.height, found.digest)
    )
    best: Evidence = {}
    for _, evidence in checked:
        for height, entry in evidence.items():
            if height <= base.height:
                continue
            known = best.get(height)
            if known is None or entry[0] > known[0]:
                best[height] = entry
            elif entry[0] == known[0] and entry[1] != known[1]:
                raise PeerFault("trusted_component_broken", f"two digests at height {height}")
    top = max(best, default=base.height)
    nvc = tuple(
        best[height][1] if height in best else null_block(setting.cfg.number, height).digest(setting.chain_id)
        for height in range(base.height + 1, top + 1)
    )
    return base, nvc
