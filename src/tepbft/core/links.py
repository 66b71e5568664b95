"""Following the chain of configurations: from one that is trusted to the one that counts (A8.3).

A joining node and whoever verifies a receipt offline do exactly this, nothing less.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tepbft.core.admission import AdmissionRule, config_block
from tepbft.core.block import CONFIG, genesis_header
from tepbft.core.configuration import (
    Configuration,
    Genesis,
    check_replace,
    decode_replace,
    next_configuration,
)
from tepbft.core.verification import Verifier, check_checkpoint_certificate
from tepbft.errors import PeerFault
from tepbft.storage.port import ChainStore
from tepbft.types import ZERO_DIGEST
from tepbft.wire import ConfigLink


def follow_link(
    chain_id: bytes,
    cfg: Configuration,
    link: ConfigLink,
    *,
    verifier: Verifier,
    admission: AdmissionRule,
    min_gap: int,
) -> Configuration:
    """The configuration after `cfg` as `link` proves it (I-19). PeerFault if it proves nothing, its
    code one of `configuration`, `certificate`, `admission`."""
    if link.cfg != cfg.number:
        raise PeerFault("configuration", f"it is a step from configuration {link.cfg}, not {cfg.number}")
    try:
        change = decode_replace(link.body)
        block = config_block(link.cfg, link.height, link.ts, change)
        check_replace(cfg, change, link.height, min_gap)
        following = next_configuration(cfg, block)
    except PeerFault as fault:
        raise PeerFault("configuration", fault.detail or fault.code) from None
    header, certificate = link.header, link.certificate
    if header.height != link.height or header.block_digest != block.digest(chain_id):
        raise PeerFault("configuration", f"header {header.height} is not that of its block")
    if (certificate.height, certificate.digest) != (header.height, header.digest()):
        raise PeerFault("certificate", f"its certificate does not cover header {header.height}")
    if not check_checkpoint_certificate(cfg, certificate, verifier):
        raise PeerFault(
            "certificate", f"it lacks {cfg.quorums.certificate} valid signatures of distinct members"
        )
    if not admission.admits(chain_id, cfg, change):
        raise PeerFault(
            "admission", f"the replacement of node {change.node}'s trusted component was not authorised"
        )
    return following


def follow_links(
    chain_id: bytes,
    cfg: Configuration,
    links: Sequence[ConfigLink],
    *,
    verifier: Verifier,
    admission: AdmissionRule,
    min_gap: int,
) -> list[Configuration]:
    """The configurations that `links` prove to follow `cfg`, in order; PeerFault at the first link
    that does not hold."""
    found: list[Configuration] = []
    for link in links:
        cfg = follow_link(chain_id, cfg, link, verifier=verifier, admission=admission, min_gap=min_gap)
        found.append(cfg)
    return found


def stored_link(store: ChainStore, following: Configuration) -> ConfigLink | None:
    """The step into `following` as this node can prove it: from its ledger, or as it was proven to this
    node when a snapshot took it across. None if it cannot."""
    stored = store.block(following.floor)
    stable = store.stable_at_or_above(following.floor)
    if stored is not None and stored.block.kind == CONFIG and stable is not None:
        certificate, header = stable
        if header.height == following.floor and certificate.votes:
            block = stored.block
            return ConfigLink(block.cfg, block.height, block.ts, block.body, header, certificate)
    recorded = store.link(following.number)
    return msgspec.msgpack.decode(recorded, type=ConfigLink) if recorded is not None else None


def floor_digest(genesis: Genesis, cfg: Configuration, store: ChainStore) -> bytes:
    """cp_hash at the floor of `cfg`: that of the header which the chain begins with, or of the barrier as
    this node executed it or, if a snapshot took it across, as the link into `cfg` proved it."""
    found = store.stable_at_or_above(cfg.floor)
    if found is not None and found[0].height == cfg.floor:
        return found[0].digest
    link = stored_link(store, cfg) if cfg.number else None
    if link is not None:
        return link.header.digest()
    root = genesis.recovered.snapshot_root if genesis.recovered else ZERO_DIGEST
    return genesis_header(genesis.chain_id, cfg.floor, root).digest()
