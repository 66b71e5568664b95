"""Proven receipts: what a node hands out, and anybody verifies from the genesis alone (A9)."""

from __future__ import annotations

from itertools import pairwise

from tepbft.core.block import Header, Receipt
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration, Genesis
from tepbft.core.links import stored_link
from tepbft.core.receipt_tree import receipt_proof
from tepbft.errors import PeerFault
from tepbft.storage.port import ChainStore
from tepbft.storage.records import decode_configuration, decode_receipts
from tepbft.types import Height
from tepbft.wire import ConfigLink, ProvenReceipt

MAX_HEADERS = 4096
"""A proof goes from the receipt's height to a certified one at most this far above (see `ProvenReceipt`)."""


def prove(
    store: ChainStore, genesis: Genesis, client: bytes, session: int, seq: int, height: Height
) -> ProvenReceipt:
    """The proven receipt of a request whose outcome stands in the block at `height`.

    LookupError, whose text says why, if this node cannot prove it (now).
    """
    index, receipts = _find_receipt(store, client, session, seq, height)
    certificate, certified = _next_certificate(store, height)
    if certified.height - height >= MAX_HEADERS:
        raise LookupError(f"the next certified height, {certified.height}, is too far above {height}")
    headers = [_header(store, h) for h in range(height, certified.height)] + [certified]
    _check_links(headers, certificate)
    neighbours, path = receipt_proof(receipts, index)
    return ProvenReceipt(
        chain_id=genesis.chain_id,
        receipt=receipts[index],
        index=index,
        count=len(receipts),
        neighbours=neighbours,
        path=path,
        headers=headers,
        certificate=certificate,
        links=configuration_links(store, certificate.cfg),
    )


def configuration_links(store: ChainStore, number: int) -> list[ConfigLink]:
    """The chain from the genesis to configuration `number`, one link for each change.

    LookupError if a part of it is not in this node's ledger.
    """
    found = [_configuration(data) for data in store.configurations()]
    by_number = {configuration.number: configuration for configuration in found}
    links = []
    for following in range(1, number + 1):
        configuration = by_number.get(following)
        if configuration is None:
            raise LookupError(f"this node does not know configuration {following}")
        links.append(_link(store, configuration))
    return links


def _configuration(data: bytes) -> Configuration:
    try:
        return decode_configuration(data)
    except PeerFault as fault:
        raise LookupError(f"a stored configuration is unreadable ({fault.detail})") from None


def _find_receipt(
    store: ChainStore, client: bytes, session: int, seq: int, height: Height
) -> tuple[int, list[Receipt]]:
    """Index of the request's first receipt in the block (a repetition further on is a mere DUPLICATE)."""
    stored = store.block(height)
    if stored is None or stored.receipts is None:
        raise LookupError(f"block {height} is not (or not any more) in this node's ledger")
    try:
        receipts = decode_receipts(stored.receipts)
    except PeerFault as fault:
        raise LookupError(f"the receipts of block {height} are unreadable ({fault.detail})") from None
    for index, receipt in enumerate(receipts):
        if (receipt.client, receipt.session, receipt.seq) == (client, session, seq):
            return index, receipts
    raise LookupError(f"that request has no outcome in block {height}")


def _next_certificate(store: ChainStore, height: Height) -> tuple[CheckpointCertificate, Header]:
    """The lowest stable checkpoint at or above `height` that others can verify."""
    at = height
    while (found := store.stable_at_or_above(at)) is not None:
        if found[0].votes:
            return found
        at = found[0].height + 1  # the vote-less one of a configuration's floor proves nothing
    raise LookupError(f"no checkpoint at or above height {height} is stable yet; ask again shortly")


def _header(store: ChainStore, height: Height) -> Header:
    stored = store.block(height)
    if stored is None or stored.header is None:
        raise LookupError(f"the header of block {height} is not in this node's ledger")
    return stored.header


def _check_links(headers: list[Header], certificate: CheckpointCertificate) -> None:
    """A proof that does not verify is worse than none: refuse to hand it out."""
    for below, above in pairwise(headers):
        if above.parent != below.digest():
            raise LookupError(f"the headers at {below.height} and {above.height} do not fit together")
    if headers[-1].digest() != certificate.digest:
        raise LookupError(f"the certificate at {certificate.height} is for another header")


def _link(store: ChainStore, configuration: Configuration) -> ConfigLink:
    link = stored_link(store, configuration)
    if link is None:
        raise LookupError(
            f"block {configuration.floor}, which began configuration {configuration.number}, is not in this"
            " node's ledger together with its checkpoint certificate"
        )
    return link
