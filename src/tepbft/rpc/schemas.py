"""What the HTTP port says and takes, as types: the same ones check input and make the OpenAPI document.

Identities and digests are hex; operations, results and authenticators are base64.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tepbft.core.block import CONFIG, NORMAL, STATUS_NAMES, Header, Receipt, Request, decode_body
from tepbft.core.configuration import Configuration
from tepbft.errors import PeerFault
from tepbft.storage.port import StoredBlock
from tepbft.storage.records import decode_receipts
from tepbft.types import MAX_OPERATION_BYTES, U64, Authenticator

ClientHex = Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="Identity of a client, hex.")]
DigestHex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="A SHA-256, hex.")]
Height = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ErrorText(Struct, frozen=True):
    """What went wrong, for a person."""

    thing: str
    reason: str
    remedy: str


class ErrorBody(Struct, frozen=True):
    """Every answer that is not a success."""

    error: ErrorText


class SubmitBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A request, signed by its client over its digest (see the guide on writing clients)."""

    client: ClientHex
    session: U64
    seq: U64
    op: Annotated[bytes, Meta(max_length=MAX_OPERATION_BYTES)]
    auth: Authenticator = b""

    def request(self) -> Request:
        """The request in the core's terms."""
        return Request(bytes.fromhex(self.client), self.session, self.seq, self.op, self.auth)


class ReceiptView(Struct, frozen=True):
    """The outcome of a request. `proof` (with `wait=stable`) is a receipt file that verifies offline."""

    height: Height
    client: ClientHex
    session: Number
    seq: Number
    request_digest: DigestHex
    status: str
    result: bytes
    proof: msgspec.Raw | UnsetType = UNSET


class Pending(Struct, frozen=True):
    """Not finished within the time. The request may still take effect; ask for its outcome."""

    state: str
    """`pending`: not executed here yet; `executed`: executed, no stable checkpoint yet."""
    reason: str
    receipt: ReceiptView | UnsetType = UNSET


class HeaderView(Struct, frozen=True):
    """An executed header; `digest` is what CHECKPOINTs sign."""

    digest: DigestHex
    ts: Number
    parent: DigestHex
    state_root: DigestHex
    receipts_root: DigestHex
    clients_root: DigestHex
    snapshot_root: DigestHex


class RequestView(Struct, frozen=True):
    """A request inside a block."""

    client: ClientHex
    session: Number
    seq: Number
    op: bytes


class BlockView(Struct, frozen=True):
    """A final block. Lists leave `requests` and `receipts` out."""

    height: Height
    cfg: Number
    kind: str
    ts: Number
    count: Number
    digest: DigestHex
    view: Number
    voters: list[int]
    header: HeaderView | None
    requests: list[RequestView] | UnsetType = UNSET
    receipts: list[ReceiptView] | UnsetType = UNSET


class BlockList(Struct, frozen=True):
    """Consecutive blocks; `next` is where to go on, null at the end of what this node has."""

    blocks: list[BlockView]
    next: Height | None


class MemberView(Struct, frozen=True):
    """One member of a configuration."""

    node: int
    tc_id: str
    tc_key: str
    node_key: str
    operator_key: str
    certificate: DigestHex
    host: str
    peer_port: int
    client_port: int
    http_port: int
    replaced_at: Height
    replacements: int


class ConfigurationView(Struct, frozen=True):
    """The current member table."""

    number: int
    floor: Height
    digest: DigestHex
    n: int
    f: int
    commit_quorum: int
    certificate_quorum: int
    members: list[MemberView]


class Health(Struct, frozen=True):
    """Whether this node takes part, or will again without help."""

    healthy: bool
    phase: str
    verdict: str


def receipt_view(height: int, receipt: Receipt) -> ReceiptView:
    """A receipt as the HTTP port shows it."""
    known = receipt.status < len(STATUS_NAMES)
    return ReceiptView(
        height,
        receipt.client.hex(),
        receipt.session,
        receipt.seq,
        receipt.request_digest.hex(),
        STATUS_NAMES[receipt.status] if known else str(receipt.status),
        receipt.result,
    )


def header_view(header: Header) -> HeaderView:
    """A header as the HTTP port shows it."""
    return HeaderView(
        header.digest().hex(),
        header.ts,
        header.parent.hex(),
        header.state_root.hex(),
        header.receipts_root.hex(),
        header.clients_root.hex(),
        header.snapshot_root.hex(),
    )


def block_view(stored: StoredBlock, *, whole: bool) -> BlockView:
    """A block as the HTTP port shows it, with its requests and receipts if `whole`."""
    block, certificate = stored.block, stored.certificate
    view = BlockView(
        height=block.height,
        cfg=block.cfg,
        kind="normal" if block.kind == NORMAL else "config" if block.kind == CONFIG else "null",
        ts=block.ts,
        count=block.count,
        digest=certificate.digest.hex(),
        view=certificate.view,
        voters=[vote.node for vote in certificate.votes],
        header=header_view(stored.header) if stored.header is not None else None,
    )
    if not whole:
        return view
    try:
        requests = decode_body(block.body) if block.kind == NORMAL else []
        receipts = decode_receipts(stored.receipts) if stored.receipts else []
    except PeerFault as fault:
        raise LookupError(f"block {block.height} is unreadable here ({fault.detail})") from None
    return msgspec.structs.replace(
        view,
        requests=[RequestView(r.client.hex(), r.session, r.seq, r.op) for r in requests],
        receipts=[receipt_view(block.height, receipt) for receipt in receipts],
    )


def configuration_view(cfg: Configuration) -> ConfigurationView:
    """A configuration as the HTTP port shows it."""
    quorums = cfg.quorums
    members = [
        MemberView(
            m.node,
            m.tc_id.hex(),
            m.tc_key.hex(),
            m.node_key.hex(),
            m.operator_key.hex(),
            m.certificate.hex(),
            m.host,
            m.peer_port,
            m.client_port,
            m.http_port,
            m.replaced_at,
            m.replacements,
        )
        for m in cfg.members
    ]
    return ConfigurationView(
        cfg.number,
        cfg.floor,
        cfg.digest().hex(),
        quorums.n,
        quorums.f,
        quorums.commit,
        quorums.certificate,
        members,
    )
