"""HB-USIG, the height-bound unique sequential identifier generator (A2).

The whole trusted part of TEP-BFT. It never looks at a certificate: it keeps one
register per height of the view it last signed in, so that

* a second, different ORDER statement for one (configuration, view, height) does not exist (A-01);
* no ORDER statement exists below a view that it was told to leave (A-06);
* a departure attests exactly what it had signed (I-4), whatever the host would rather forget.

Everything else that a host could lie about (the floor, entering a view, voting for
garbage) is caught by those who check its VIEW-CHANGE, and only excludes the liar.

This module is pure state: no clock, no files, no sockets. Statements are signed
before any register changes, so that a failing signer leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, assert_never

from msgspec import Meta, Struct

from tepbft.errors import PeerFault, TrustedRefusal
from tepbft.trusted.keys import (
    DEFAULT_KIND,
    ComponentKey,
    KeyKind,
    PrivateKey,
    Secret,
    fresh_key,
    private_key,
)
from tepbft.trusted.port import (
    ATTEST,
    CHECKPOINT,
    COMMIT,
    NEW_VIEW,
    PREPARE,
    VIEW_CHANGE,
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Identity,
    Install,
    Order,
    Refused,
    Register,
    SignCheckpoint,
    TcAnswer,
    TcRequest,
    Ui,
    binding,
    departure_body,
    numbered_body,
    order_body,
    preimage,
)
from tepbft.trusted.sealing import MemoryPlatform, Platform, SealRefused, restore, seal
from tepbft.trusted.verify import ATTEST_CFG
from tepbft.types import MAX_NODES, MAX_WINDOW, U8, U32, U64, ZERO_DIGEST, Digest, Signature
from tepbft.wire import Codec, encode

_LIMIT = 1 << 63
_DONE = Done()


class Slot(Struct, array_like=True, frozen=True, gc=False):
    """A statement that may be emitted again: `place` is its height, view or target view."""

    place: U64
    kind: U8
    digest: Digest
    seq: U64
    signature: Signature


class Departed(Struct, array_like=True, frozen=True):
    """The last VIEW_CHANGE statement, as it was answered."""

    to: U64
    digest: Digest
    answer: DepartureUi


class HbUsigState(Struct, array_like=True, frozen=True, tag=1):
    """Everything that a component is, secret key included: what sealing protects."""

    secret: Secret
    chain_id: Annotated[bytes, Meta(max_length=32)]
    node: U32
    window: U32
    cfg: U32
    cfg_digest: Digest
    seq: U64
    view: U64
    lock_view: U64
    floor: U64
    registers: Annotated[tuple[Slot, ...], Meta(max_length=MAX_WINDOW)]
    installed: Slot | None
    departed: Departed | None
    checkpointed: Slot | None


_codec: Codec[HbUsigState] = Codec(HbUsigState)


def _within(number: int) -> bool:
    return 0 <= number < _LIMIT


class HbUsig:
    """One component: implements `trusted.port.TrustedComponent`.

    Made with a private key (`HbUsig(key)`), with a random one (`HbUsig.fresh()`),
    or from a sealed blob (`HbUsig.restore`). `signer` replaces the signature function,
    `platform` is what `seal` seals under; without one, seals last as long as the object
    `self.platform`. Not thread-safe: the caller serialises.
    """

    def __init__(
        self,
        key: PrivateKey,
        *,
        signer: Callable[[bytes], bytes] | None = None,
        platform: Platform | None = None,
    ) -> None:
        self.platform: Platform = platform if platform is not None else MemoryPlatform()
        self._key = ComponentKey(key, signer)
        self._warm = False
        self._halted = False
        self._chain_id = b""
        self._node = 0
        self._window = 0
        self._cfg = 0
        self._cfg_digest = ZERO_DIGEST
        self._seq = 0
        self._view = 0
        self._lock_view = 0
        self._floor = 0
        self._registers: dict[int, Slot] = {}
        self._installed: Slot | None = None
        self._departed: Departed | None = None
        self._checkpointed: Slot | None = None
        self._bound = b""

    @classmethod
    def fresh(cls, platform: Platform | None = None, kind: KeyKind = DEFAULT_KIND) -> HbUsig:
        """A component with a new random key: a new identity, with empty registers (A8.2)."""
        return cls(fresh_key(kind), platform=platform)

    # --- who it is ----------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Who it is and where its registers stand (unsigned)."""
        return Identity(
            tc_id=self._key.tc_id,
            key=self._key.public,
            chain_id=self._chain_id,
            node=self._node,
            cfg=self._cfg,
            seq=self._seq,
            view=self._view,
            lock_view=self._lock_view,
            floor=self._floor,
            halted=self._halted,
            warm=self._warm,
        )

    def provision(
        self, chain_id: bytes, node: int, cfg: int, cfg_digest: bytes, floor: int, window: int
    ) -> None:
        """Bind to a chain, a node and a window, once and for ever (A-11).

        A bound component accepts the same chain, node and window again and changes nothing:
        configuration and floor only ever move by `BeginConfig` and `AdvanceFloor`.
        Raises TrustedRefusal: `halted`, `malformed`, or `config` if bound to something else.
        """
        if self._halted:
            raise TrustedRefusal("halted", "sealed: it runs again only where it is restored")
        sizes_ok = len(chain_id) == 32 and len(cfg_digest) == 32
        if not (sizes_ok and 0 <= node < MAX_NODES and 0 <= cfg < ATTEST_CFG and _within(floor)):
            raise TrustedRefusal("malformed", "a binding out of bounds")
        if not 1 <= window <= MAX_WINDOW:
            raise TrustedRefusal("malformed", f"a window of 1..{MAX_WINDOW} blocks, not {window}")
        if self._chain_id:
            if (chain_id, node, window) != (self._chain_id, self._node, self._window):
                raise TrustedRefusal("config", "bound to another chain, node or window already")
            return
        self._chain_id, self._node, self._window = bytes(chain_id), node, window
        self._cfg, self._cfg_digest, self._floor = cfg, bytes(cfg_digest), floor
        self._bind()

    def _bind(self) -> None:
        if self._chain_id:
            self._bound = binding(self._chain_id, self._cfg, self._cfg_digest, self._node, self._key.tc_id)

    # --- requests -----------------------------------------------------------------------------

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request, as the table in A2 says; `Refused` if it contradicts a register."""
        try:
            if self._halted:
                raise TrustedRefusal("halted", "sealed: it runs again only where it is restored")
            if not self._chain_id:
                raise TrustedRefusal("unprovisioned", "not bound to a chain yet")
            return self._dispatch(request)
        except TrustedRefusal as refusal:
            return Refused(refusal.code, refusal.reason)

    def _dispatch(self, request: TcRequest) -> TcAnswer:
        match request:
            case Order():
                return self._order(request)
            case SignCheckpoint():
                return self._checkpoint(request)
            case AdvanceFloor():
                return self._advance_floor(request)
            case EnterView():
                return self._enter_view(request)
            case Depart():
                return self._depart(request)
            case Install():
                return self._install(request)
            case Attest():
                return self._attest(request)
            case BeginConfig():
                return self._begin_config(request)
            case _:
                assert_never(request)

    def _sign(self, statement: int, body: bytes) -> tuple[int, bytes]:
        """The next statement: its counter and signature. Callers change state after this only."""
        seq = self._seq + 1
        signature = self._key.sign(preimage(self._bound, seq, statement, body))
        self._seq = seq
        return seq, signature

    def _order(self, request: Order) -> Ui:
        kind, view, height, digest = request.kind, request.view, request.height, request.digest
        if kind not in (PREPARE, COMMIT) or not _within(view) or len(digest) != 32:
            raise TrustedRefusal("malformed", "not an ORDER statement")
        if view < self._view:
            raise TrustedRefusal("view", f"left view {view} for {self._view}")
        if not self._floor < height <= self._floor + self._window or not _within(height):
            raise TrustedRefusal(
                "window", f"height {height} is not in {self._floor + 1}..{self._floor + self._window}"
            )
        if view == self._lock_view:  # never above view: a register is of this view or there is none
            slot = self._registers.get(height)
            if slot is not None:
                if (slot.kind, slot.digest) != (kind, digest):
                    raise TrustedRefusal("register", f"signed another statement at ({view}, {height})")
                return Ui(slot.seq, slot.signature)
        seq, signature = self._sign(kind, order_body(view, height, digest))
        if view > self._lock_view:
            self._registers.clear()
            self._lock_view = view
        self._view = view
        self._registers[height] = Slot(height, kind, digest, seq, signature)
        return Ui(seq, signature)

    def _depart(self, request: Depart) -> DepartureUi:
        to, digest = request.to, request.digest
        if not _within(to) or len(digest) != 32:
            raise TrustedRefusal("malformed", "not a VIEW_CHANGE statement")
        last = self._departed
        if last is not None and (last.to, last.digest) == (to, digest):
            return last.answer
        if to <= self._view:
            raise TrustedRefusal("view_change", f"in view {self._view}, cannot leave for view {to}")
        registers = tuple(
            Register(height, slot.kind, slot.digest) for height, slot in sorted(self._registers.items())
        )
        body = departure_body(to, self._lock_view, self._floor, registers, digest)
        seq, signature = self._sign(VIEW_CHANGE, body)
        self._view = to
        answer = DepartureUi(seq, signature, self._lock_view, self._floor, registers)
        self._departed = Departed(to, digest, answer)
        return answer

    def _install(self, request: Install) -> Ui:
        view, digest = request.view, request.digest
        if not _within(view) or len(digest) != 32:
            raise TrustedRefusal("malformed", "not a NEW_VIEW statement")
        last = self._installed
        if last is not None and (last.place, last.digest) == (view, digest):
            return Ui(last.seq, last.signature)
        if view < self._view:
            raise TrustedRefusal("view", f"left view {view} for {self._view}")
        if last is not None and view <= last.place:
            raise TrustedRefusal("new_view", f"installed view {last.place} already")
        seq, signature = self._sign(NEW_VIEW, numbered_body(view, digest))
        self._view = view
        self._installed = Slot(view, NEW_VIEW, digest, seq, signature)
        return Ui(seq, signature)

    def _checkpoint(self, request: SignCheckpoint) -> Ui:
        height, digest = request.height, request.digest
        if not _within(height) or len(digest) != 32:
            raise TrustedRefusal("malformed", "not a CHECKPOINT statement")
        last = self._checkpointed
        if last is not None and (last.place, last.digest) == (height, digest):
            return Ui(last.seq, last.signature)
        if last is not None and height <= last.place:
            raise TrustedRefusal("checkpoint", f"signed a checkpoint at height {last.place} already")
        seq, signature = self._sign(CHECKPOINT, numbered_body(height, digest))
        self._checkpointed = Slot(height, CHECKPOINT, digest, seq, signature)
        return Ui(seq, signature)

    def _attest(self, request: Attest) -> Ui:
        if len(request.digest) != 32:
            raise TrustedRefusal("malformed", "not an ATTEST statement")
        seq = self._seq + 1
        bound = binding(self._chain_id, ATTEST_CFG, ZERO_DIGEST, self._node, self._key.tc_id)
        signature = self._key.sign(preimage(bound, seq, ATTEST, request.digest))
        self._seq = seq
        return Ui(seq, signature)

    def _enter_view(self, request: EnterView) -> Done:
        if not _within(request.view):
            raise TrustedRefusal("malformed", "not a view")
        self._view = max(self._view, request.view)
        return _DONE

    def _advance_floor(self, request: AdvanceFloor) -> Done:
        height = request.height
        if not _within(height):
            raise TrustedRefusal("malformed", "not a height")
        if height > self._floor:
            self._floor = height
            for place in [place for place in self._registers if place <= height]:
                del self._registers[place]
        return _DONE

    def _begin_config(self, request: BeginConfig) -> Done:
        cfg, digest, floor = request.cfg, request.digest, request.floor
        if not 0 <= cfg < ATTEST_CFG or len(digest) != 32 or not _within(floor):
            raise TrustedRefusal("malformed", "not a configuration")
        if cfg == self._cfg and digest == self._cfg_digest and floor <= self._floor:
            return _DONE  # begun already, perhaps with a floor that has moved on: nothing to clear
        if cfg <= self._cfg:
            raise TrustedRefusal("config", f"in configuration {self._cfg}, cannot begin {cfg}")
        self._cfg, self._cfg_digest, self._floor = cfg, digest, floor
        self._view = self._lock_view = 0
        self._registers.clear()
        self._installed = self._departed = self._checkpointed = None
        self._bind()
        return _DONE

    # --- sealing ------------------------------------------------------------------------------

    def seal(self) -> bytes:
        """Halt for ever, and return the sealed state that `restore` accepts exactly once (A8.1).

        Raises TrustedRefusal (`halted`) the second time: there is one blob or none.
        """
        if self._halted:
            raise TrustedRefusal("halted", "sealed already")
        self._halted = True
        return seal(self.export_state(), self.platform)

    @classmethod
    def restore(
        cls, blob: bytes, platform: Platform, signer: Callable[[bytes], bytes] | None = None
    ) -> HbUsig:
        """The component in a sealed blob, warm: same key, same registers. `SealRefused` otherwise."""
        return cls.import_state(restore(blob, platform), platform, signer)

    def export_state(self) -> bytes:
        """Canonical bytes of the whole state, secret key included. They must only leave sealed."""
        return encode(
            HbUsigState(
                secret=self._key.secret(),
                chain_id=self._chain_id,
                node=self._node,
                window=self._window,
                cfg=self._cfg,
                cfg_digest=self._cfg_digest,
                seq=self._seq,
                view=self._view,
                lock_view=self._lock_view,
                floor=self._floor,
                registers=tuple(slot for _, slot in sorted(self._registers.items())),
                installed=self._installed,
                departed=self._departed,
                checkpointed=self._checkpointed,
            )
        )

    @classmethod
    def import_state(
        cls, data: bytes, platform: Platform | None = None, signer: Callable[[bytes], bytes] | None = None
    ) -> HbUsig:
        """Inverse of `export_state`; the component counts as warm. `SealRefused` if malformed.

        Anyone who can call this with old bytes rolls the component back: that is what
        the platform's counter is for.
        """
        try:
            state = _codec.decode(data)
            key = private_key(state.secret)
        except (PeerFault, ValueError) as error:
            raise SealRefused(f"it does not contain a component ({error})") from None
        component = cls(key, signer=signer, platform=platform)
        component._warm = True
        component._chain_id, component._node, component._window = state.chain_id, state.node, state.window
        component._cfg, component._cfg_digest = state.cfg, state.cfg_digest
        component._seq, component._view, component._lock_view = state.seq, state.view, state.lock_view
        component._floor = state.floor
        component._registers = {slot.place: slot for slot in state.registers}
        component._installed, component._departed = state.installed, state.departed
        component._checkpointed = state.checkpointed
        component._bind()
        return component
