"""The port of the trusted component: what a host may ask, and what it gets (A2).

Calls are values, so that the core can emit them as effects and the shell can
carry them out after everything they depend on is on disk. The pre-images live
here too: the component signs them, verifiers recompute them.
"""

from __future__ import annotations

import struct
from typing import Annotated, Protocol, TypeAlias

from msgspec import Meta, Struct

from tepbft.types import MAX_WINDOW, U8, U32, U64, Digest, PublicKey, Signature, TcId

# Statement kinds: mandatory domain separation, a signature for one never verifies as another (I-26).
PREPARE, COMMIT, VIEW_CHANGE, NEW_VIEW, CHECKPOINT, ATTEST = 1, 2, 3, 4, 5, 6


class Order(Struct, array_like=True, frozen=True, tag=1):
    """Sign `kind` (PREPARE or COMMIT) for `digest` at (view, height). Answer: `Ui`."""

    kind: U8
    view: U64
    height: U64
    digest: Digest


class Depart(Struct, array_like=True, frozen=True, tag=2):
    """`view_change(to, digest)`: leave for view `to`. Answer: `DepartureUi`."""

    to: U64
    digest: Digest


class Install(Struct, array_like=True, frozen=True, tag=3):
    """`new_view(view, digest)`: the one NEW-VIEW statement of a view. Answer: `Ui`."""

    view: U64
    digest: Digest


class SignCheckpoint(Struct, array_like=True, frozen=True, tag=4):
    """`checkpoint(height, digest)`. Answer: `Ui`."""

    height: U64
    digest: Digest


class EnterView(Struct, array_like=True, frozen=True, tag=5):
    """`enter_view(view)`: nothing is signed in lower views from now on. Answer: `Done`."""

    view: U64


class AdvanceFloor(Struct, array_like=True, frozen=True, tag=6):
    """`advance_floor(height)`: forget registers up to `height`. Answer: `Done`."""

    height: U64


class BeginConfig(Struct, array_like=True, frozen=True, tag=7):
    """`begin_config(cfg, digest, floor)`: clear all registers, view 0. Answer: `Done`."""

    cfg: U32
    digest: Digest
    floor: U64


class Attest(Struct, array_like=True, frozen=True, tag=8):
    """Sign a caller's 32 bytes as an attestation (possession of the key). Answer: `Ui`."""

    digest: Digest


TcRequest: TypeAlias = (
    Order | Depart | Install | SignCheckpoint | EnterView | AdvanceFloor | BeginConfig | Attest
)


class Register(Struct, array_like=True, frozen=True, gc=False):
    """One ORDER statement of `lock_view`, as attested on departure."""

    height: U64
    kind: U8
    digest: Digest


class Ui(Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A unique identifier: the call counter, and the signature over the statement."""

    seq: U64
    signature: Signature


class DepartureUi(Struct, array_like=True, frozen=True, gc=False, tag=2):
    """The UI of a VIEW-CHANGE: with it the component attests what it signed in `lock_view`."""

    seq: U64
    signature: Signature
    lock_view: U64
    floor: U64
    registers: Annotated[tuple[Register, ...], Meta(max_length=MAX_WINDOW)]
    """Sorted by height, all above `floor`."""


class Done(Struct, array_like=True, frozen=True, gc=False, tag=3):
    """An unsigned operation took effect (or had already)."""


class Refused(Struct, array_like=True, frozen=True, gc=False, tag=4):
    """The component declined; `code` as in `TrustedRefusal`."""

    code: Annotated[str, Meta(max_length=32)]
    reason: Annotated[str, Meta(max_length=512)]


TcAnswer: TypeAlias = Ui | DepartureUi | Done | Refused


class Identity(Struct, array_like=True, frozen=True):
    """What a trusted component says of itself (unsigned; for its own host only)."""

    tc_id: TcId
    key: PublicKey
    """Uncompressed X9.62 point, 65 bytes."""
    chain_id: Annotated[bytes, Meta(max_length=32)]
    """Empty until provisioned."""
    node: U32
    cfg: U32
    seq: U64
    view: U64
    lock_view: U64
    floor: U64
    halted: bool
    warm: bool
    """True if it was restored from a sealed state, False if this is a fresh key."""


class TrustedComponent(Protocol):
    """The synchronous port; a device is anything that implements it."""

    def identity(self) -> Identity:
        """Who it is and where its registers stand."""
        ...

    def provision(
        self, chain_id: bytes, node: int, cfg: int, cfg_digest: bytes, floor: int, window: int
    ) -> None:
        """Bind a fresh component, once and for ever, to a chain, a node and a window (BL).
        TrustedRefusal if it is bound to anything else already; the same binding again is a no-op."""
        ...

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request. A refusal is an answer, not an exception."""
        ...

    def seal(self) -> bytes:
        """Halt, and return the sealed state that `restore` accepts exactly once (A8.1)."""
        ...


# --- pre-images -------------------------------------------------------------------------------

_SEQ_STMT = struct.Struct("<QB")
_U32 = struct.Struct("<I")
_TWO = struct.Struct("<QQ")
_ONE = struct.Struct("<Q")
_DEPART = struct.Struct("<QQQI")
_REGISTER = struct.Struct("<QB")


def binding(chain_id: bytes, cfg: int, cfg_digest: bytes, node: int, tc_id: bytes) -> bytes:
    """The part of every pre-image that one component in one configuration has in common."""
    return b"HBUSIG1" + chain_id + _U32.pack(cfg) + cfg_digest + _U32.pack(node) + tc_id


def preimage(bound: bytes, seq: int, statement: int, body: bytes) -> bytes:
    """The signed bytes: `bound | seq u64 | statement u8 | body`, little-endian (A2)."""
    return bound + _SEQ_STMT.pack(seq, statement) + body


def order_body(view: int, height: int, digest: bytes) -> bytes:
    """Body of PREPARE and COMMIT statements."""
    return _TWO.pack(view, height) + digest


def numbered_body(number: int, digest: bytes) -> bytes:
    """Body of NEW_VIEW (number = view) and CHECKPOINT (number = height) statements."""
    return _ONE.pack(number) + digest


def departure_body(
    to: int, lock_view: int, floor: int, registers: tuple[Register, ...], digest: bytes
) -> bytes:
    """Body of a VIEW_CHANGE statement: everything attested, in fixed widths."""
    parts = [_DEPART.pack(to, lock_view, floor, len(registers))]
    parts += [_REGISTER.pack(r.height, r.kind) + r.digest for r in registers]
    parts.append(digest)
    return b"".join(parts)
