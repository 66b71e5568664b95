"""HB-USIG: every row of the table in A2, every refusal, every re-emission."""

from __future__ import annotations

import pytest

from tepbft.errors import TrustedRefusal
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.keys import fresh_key
from tepbft.trusted.port import (
    COMMIT,
    NEW_VIEW,
    PREPARE,
    AdvanceFloor,
    Attest,
    BeginConfig,
    Depart,
    DepartureUi,
    Done,
    EnterView,
    Install,
    Order,
    Refused,
    Register,
    SignCheckpoint,
    TcAnswer,
    TcRequest,
    Ui,
)
from tepbft.trusted.sealing import SealRefused

CHAIN, CFG = b"c" * 32, b"g" * 32
X, Y = b"x" * 32, b"y" * 32
WINDOW = 4


def component(floor: int = 0) -> HbUsig:
    made = HbUsig.fresh()
    made.provision(CHAIN, 1, 0, CFG, floor, WINDOW)
    return made


def code(answer: TcAnswer) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def sealed_component() -> HbUsig:
    made = component()
    made.seal()
    return made


EVERY_REQUEST: list[TcRequest] = [
    Order(PREPARE, 0, 1, X),
    Depart(1, X),
    Install(1, X),
    SignCheckpoint(1, X),
    EnterView(1),
    AdvanceFloor(1),
    BeginConfig(1, X, 1),
    Attest(X),
]


@pytest.mark.parametrize("request_", EVERY_REQUEST, ids=lambda r: type(r).__name__)
def test_nothing_before_provisioning_and_nothing_after_sealing(request_: TcRequest) -> None:
    assert code(HbUsig.fresh().call(request_)) == "unprovisioned"
    made = sealed_component()
    before = made.export_state()
    assert code(made.call(request_)) == "halted"
    assert made.export_state() == before


def test_provisioning_is_for_ever() -> None:
    made = component(floor=5)
    made.provision(CHAIN, 1, 0, CFG, 5, WINDOW)
    made.provision(CHAIN, 1, 7, X, 0, WINDOW)  # the binding is the same; configuration and floor stay
    assert (made.identity().cfg, made.identity().floor) == (0, 5)
    for other in ((X, 1, 0, CFG, 5, WINDOW), (CHAIN, 2, 0, CFG, 5, WINDOW), (CHAIN, 1, 0, CFG, 5, 8)):
        with pytest.raises(TrustedRefusal) as refused:
            made.provision(*other)
        assert refused.value.code == "config"


@pytest.mark.parametrize(
    "arguments",
    [
        (b"", 1, 0, CFG, 0, 4),
        (CHAIN, 64, 0, CFG, 0, 4),
        (CHAIN, -1, 0, CFG, 0, 4),
        (CHAIN, 1, 0xFFFFFFFF, CFG, 0, 4),
        (CHAIN, 1, 0, CFG[1:], 0, 4),
        (CHAIN, 1, 0, CFG, 1 << 63, 4),
        (CHAIN, 1, 0, CFG, 0, 0),
        (CHAIN, 1, 0, CFG, 0, 257),
    ],
)
def test_provisioning_out_of_bounds(arguments: tuple[bytes, int, int, bytes, int, int]) -> None:
    with pytest.raises(TrustedRefusal) as refused:
        HbUsig.fresh().provision(*arguments)
    assert refused.value.code == "malformed"


def test_provisioning_after_sealing() -> None:
    with pytest.raises(TrustedRefusal) as refused:
        sealed_component().provision(CHAIN, 1, 0, CFG, 0, WINDOW)
    assert refused.value.code == "halted"


@pytest.mark.parametrize(
    "request_",
    [
        Order(NEW_VIEW, 0, 1, X),
        Order(PREPARE, -1, 1, X),
        Order(PREPARE, 1 << 63, 1, X),
        Order(PREPARE, 0, 1, X[1:]),
        Depart(1 << 63, X),
        Depart(1, b""),
        Install(1 << 63, X),
        Install(1, b""),
        SignCheckpoint(-1, X),
        SignCheckpoint(1, b""),
        EnterView(1 << 63),
        AdvanceFloor(1 << 63),
        BeginConfig(0xFFFFFFFF, X, 1),
        BeginConfig(1, b"", 1),
        BeginConfig(1, X, -1),
        Attest(b""),
    ],
    ids=repr,
)
def test_requests_out_of_bounds_change_nothing(request_: TcRequest) -> None:
    made = component()
    before = made.export_state()
    assert code(made.call(request_)) == "malformed"
    assert made.export_state() == before


def test_order_registers_a01_i3() -> None:
    made = component()
    first = made.call(Order(PREPARE, 0, 2, X))
    assert isinstance(first, Ui) and first.seq == 1
    assert made.call(Order(PREPARE, 0, 2, X)) == first  # a host that crashed asks again
    assert code(made.call(Order(PREPARE, 0, 2, Y))) == "register"
    assert code(made.call(Order(COMMIT, 0, 2, X))) == "register"
    other = made.call(Order(COMMIT, 0, 1, Y))  # heights in any order
    assert isinstance(other, Ui) and other.seq == 2
    assert code(made.call(Order(PREPARE, 0, 2, Y))) == "register"


@pytest.mark.parametrize(("height", "answer"), [(10, Refused), (11, Ui), (14, Ui), (15, Refused)])
def test_order_window(height: int, answer: type) -> None:
    made = component(floor=10)
    found = made.call(Order(COMMIT, 0, height, X))
    assert isinstance(found, answer)
    if answer is Refused:
        assert code(found) == "window"


def test_order_window_at_the_end_of_numbers() -> None:
    made = component(floor=(1 << 63) - 2)
    assert isinstance(made.call(Order(COMMIT, 0, (1 << 63) - 1, X)), Ui)
    assert code(made.call(Order(COMMIT, 0, 1 << 63, X))) == "window"


def test_a_higher_view_clears_the_registers() -> None:
    made = component()
    made.call(Order(COMMIT, 0, 1, X))
    made.call(Order(COMMIT, 0, 2, X))
    assert isinstance(made.call(Order(COMMIT, 3, 1, Y)), Ui)
    assert (made.identity().view, made.identity().lock_view) == (3, 3)
    assert code(made.call(Order(COMMIT, 0, 1, X))) == "view"
    departed = made.call(Depart(4, X))
    assert isinstance(departed, DepartureUi)
    assert departed.registers == (Register(1, COMMIT, Y),)


def test_departure_attests_the_registers_i4() -> None:
    made = component()
    made.call(Order(COMMIT, 0, 3, X))
    made.call(Order(PREPARE, 0, 1, Y))
    made.call(Order(PREPARE, 0, 2, Y))
    made.call(AdvanceFloor(1))
    departed = made.call(Depart(2, X))
    assert isinstance(departed, DepartureUi)
    assert (departed.lock_view, departed.floor) == (0, 1)
    assert departed.registers == (Register(2, PREPARE, Y), Register(3, COMMIT, X))
    made.call(AdvanceFloor(3))
    assert made.call(Depart(2, X)) == departed  # the very same statement, whatever happened since
    assert code(made.call(Depart(2, Y))) == "view_change"
    assert code(made.call(Depart(1, X))) == "view_change"
    later = made.call(Depart(3, X))
    assert isinstance(later, DepartureUi) and later.registers == () and later.seq == departed.seq + 1
    assert code(made.call(Depart(2, X))) == "view_change"  # only the last one is kept


def test_new_view_once_per_view() -> None:
    made = component()
    first = made.call(Install(3, X))
    assert isinstance(first, Ui) and made.identity().view == 3
    assert made.call(Install(3, X)) == first
    assert code(made.call(Install(3, Y))) == "new_view"
    assert code(made.call(Install(2, X))) == "view"
    made.call(EnterView(5))
    assert code(made.call(Install(4, X))) == "view"
    assert made.call(Install(3, X)) == first and made.identity().view == 5
    assert isinstance(made.call(Install(5, Y)), Ui)


def test_checkpoints_only_go_up() -> None:
    made = component()
    first = made.call(SignCheckpoint(8, X))
    assert isinstance(first, Ui)
    assert made.call(SignCheckpoint(8, X)) == first
    assert code(made.call(SignCheckpoint(8, Y))) == "checkpoint"
    assert code(made.call(SignCheckpoint(7, X))) == "checkpoint"
    assert isinstance(made.call(SignCheckpoint(9, X)), Ui)


def test_views_and_floors_never_go_back_and_repeating_is_harmless() -> None:
    made = component()
    for request in (
        EnterView(4),
        EnterView(4),
        EnterView(2),
        AdvanceFloor(6),
        AdvanceFloor(6),
        AdvanceFloor(3),
    ):
        assert isinstance(made.call(request), Done)
    identity = made.identity()
    assert (identity.view, identity.floor, identity.lock_view, identity.seq) == (4, 6, 0, 0)
    assert code(made.call(Order(COMMIT, 3, 7, X))) == "view"
    assert code(made.call(Order(COMMIT, 4, 6, X))) == "window"


def test_begin_config_clears_everything_but_the_counter() -> None:
    made = component()
    for request in EVERY_REQUEST[:6]:
        assert not isinstance(made.call(request), Refused), request
    seq = made.identity().seq
    assert isinstance(made.call(BeginConfig(1, X, 9)), Done)
    identity = made.identity()
    assert (identity.cfg, identity.view, identity.lock_view, identity.floor) == (1, 0, 0, 9)
    next_ui = made.call(Order(PREPARE, 0, 10, X))
    assert isinstance(next_ui, Ui) and next_ui.seq == seq + 1
    made.call(AdvanceFloor(10))
    before = made.export_state()
    assert isinstance(made.call(BeginConfig(1, X, 9)), Done)  # again, after the floor moved: nothing happens
    assert made.export_state() == before
    for request in (BeginConfig(1, Y, 9), BeginConfig(0, CFG, 0), BeginConfig(1, X, 99)):
        assert code(made.call(request)) == "config"
    assert made.export_state() == before


def test_a_failing_signer_changes_nothing() -> None:
    def broken(message: bytes) -> bytes:
        raise OSError("no device")

    made = HbUsig(fresh_key(), signer=broken)
    made.provision(CHAIN, 1, 0, CFG, 0, WINDOW)
    before = made.export_state()
    for request in EVERY_REQUEST:
        if isinstance(request, EnterView | AdvanceFloor | BeginConfig):
            continue
        with pytest.raises(OSError):
            made.call(request)
        assert made.export_state() == before


def test_state_survives_export_and_import_exactly() -> None:
    made = component()
    for request in EVERY_REQUEST[:6]:
        made.call(request)
    made.call(Order(COMMIT, 1, 2, Y))
    data = made.export_state()
    back = HbUsig.import_state(data)
    assert back.export_state() == data and back.identity().warm
    assert back.call(Order(COMMIT, 1, 2, Y)) == made.call(Order(COMMIT, 1, 2, Y))
    assert code(back.call(Order(COMMIT, 1, 2, X))) == "register"
    for bad in (b"", data[:-1], data + b"\x00", data[:6] + bytes(32) + data[38:]):
        with pytest.raises(SealRefused):
            HbUsig.import_state(bad)


def test_the_largest_state_can_be_sealed() -> None:
    made = HbUsig.fresh()
    made.provision(CHAIN, 1, 0, CFG, 0, 256)
    for height in range(1, 257):
        made.call(Order(COMMIT, 0, height, X))
    departed = made.call(Depart(1, X))
    assert isinstance(departed, DepartureUi) and len(departed.registers) == 256
    back = HbUsig.restore(made.seal(), made.platform)
    assert back.call(Depart(1, X)) == departed
