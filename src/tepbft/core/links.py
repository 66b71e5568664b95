"""Following the chain of configurations: from one that is trusted to the one that counts (A8.3)."""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.core.admission import AdmissionRule, config_block
from tepbft.core.configuration import Configuration, check_replace, decode_replace, next_configuration
from tepbft.core.verification import Verifier, check_checkpoint_certificate
from tepbft.errors import PeerFault
from tepbft.wire import ConfigLink


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
    that does not hold. Each rests on a checkpoint certificate of the one before."""
    found: list[Configuration] = []
    for link in links:
        change = decode_replace(link.body)
        block = config_block(link.cfg, link.height, link.ts, change)
        certificate, header = link.certificate, link.header
        if link.cfg != cfg.number or header.height != link.height:
            raise PeerFault("bad_link", f"it does not continue configuration {cfg.number}")
        if header.block_digest != block.digest(chain_id):
            raise PeerFault("bad_link", f"its block is not the one in the header at {link.height}")
        if certificate.height != link.height or certificate.digest != header.digest():
            raise PeerFault("bad_link", f"its certificate is not for the header at {link.height}")
        if not check_checkpoint_certificate(cfg, certificate, verifier):
            raise PeerFault("bad_link", f"its certificate at {link.height} does not verify")
        check_replace(cfg, change, link.height, min_gap)
        if not admission.admits(chain_id, cfg, change):
            raise PeerFault("bad_link", f"the change at {link.height} was not admitted by its operator")
        cfg = next_configuration(cfg, block)
        found.append(cfg)
    return found
