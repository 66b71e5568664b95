"""Executing blocks: determinism (I-2), refusals (A-25), install, rollback, restore (A-32, A-35)."""

from __future__ import annotations

import msgspec
import pytest
from execution_world import (
    CHAIN,
    DictReader,
    Scripted,
    block_of,
    client,
    executor,
    request,
    run,
    run_block,
    settle,
    state_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tepbft.core.block import (
    CONFIG,
    NORMAL,
    OK,
    REFUSED,
    Block,
    Receipt,
    digest_of,
    genesis_header,
    null_block,
)
from tepbft.core.receipt_tree import check_receipt, receipt_proof, receipts_root
from tepbft.crypto.hash import EMPTY_ROOT, digest
from tepbft.errors import ContractBroken
from tepbft.execution import executor as executor_module
from tepbft.execution.executor import CONFIG_KEY, Executor
from tepbft.execution.snapshot import decode_chunk, snapshot_root
from tepbft.types import ZERO_DIGEST
from tepbft.wire import encode

ops = st.sampled_from(
    [
        b"set a 1",
        b"set b 2;del a",
        b"add n",
        b"add n;refuse",
        b"set c 3;crash",
        b"get n",
        b"seed",
        b"now",
        b"del b;del zz",
        b"wrong",
    ]
)
requests = st.builds(request, st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), ops)
blocks = st.lists(st.tuples(st.lists(requests, max_size=5), st.integers(0, 50)), max_size=9)


actions = st.lists(
    st.tuples(st.sampled_from(["execute", "install", "settle", "rollback"]), st.integers(0, 3)), max_size=30
)


@settings(deadline=None)
@given(blocks, actions)
def test_i2_headers_do_not_depend_on_installs_and_rollbacks(chain, schedule):
    """I-2, I-11: one executor runs straight on, the other installs, goes back and executes again."""
    straight = executor(snapshot_interval=3)
    expected = [run(straight, reqs, ts) for reqs, ts in chain]
    headers = [genesis_header(CHAIN, 0)] + [done.header for done in expected]
    reader = DictReader()
    wavering = executor(reader=reader, snapshot_interval=3)
    installed = 0
    for action, number in [*schedule, *[("execute", 0)] * len(chain)]:
        if action == "execute" and wavering.height < len(chain):
            reqs, ts = chain[wavering.height]
            assert run(wavering, reqs, ts) == expected[wavering.height - 1]
        elif action == "install":
            target = max(installed, wavering.height - number)
            layers = wavering.install(target)
            assert [layer.height for layer in layers] == list(range(installed + 1, target + 1))
            reader.install(layers)
            installed = target
        elif action == "settle":
            wavering.settle()
        elif action == "rollback":
            wavering.rollback(headers[max(installed, wavering.height - number)])
    assert wavering.head == straight.head
    assert state_of(wavering) == state_of(straight)


@settings(deadline=None)
@given(blocks, blocks)
def test_snapshot_restore_continues_identically(before, after):
    """A-37, S-44: a node that was sent a snapshot goes on with the same headers and replies."""
    original = executor(snapshot_interval=1)
    executed = None
    for reqs, ts in [*before, ([], 0)]:
        executed = run(original, reqs, ts)
    assert executed is not None and executed.snapshot is not None
    assert executed.header.snapshot_root == snapshot_root(executed.snapshot)
    reader = DictReader()
    other = executor(reader=reader, snapshot_interval=1)
    run(other, [request(9, 1, 1, b"set junk 1")])
    reader.state = dict(pair for chunk in executed.snapshot for pair in decode_chunk(chunk))
    other.restore(executed.header)
    for reqs, ts in after:
        mine, theirs = run(original, reqs, ts), run(other, reqs, ts)
        assert mine == theirs


def test_header_fields_are_what_they_are_said_to_be():
    """The chain over write-sets, the Merkle root over receipts, the parent's digest (A-27)."""
    machine = executor()
    parent = machine.head
    done = run(machine, [request(1, 1, 1, b"set k v"), request(2, 1, 1, b"refuse")], ts=70)
    header = done.header
    assert header.parent == parent.digest()
    assert done.digest == header.digest() == machine.head_digest
    assert header.receipts_root == receipts_root(done.receipts)
    assert check_receipt(done.receipts[1], 1, 2, *receipt_proof(done.receipts, 1), header.receipts_root)
    write_set = msgspec.msgpack.encode([(b"ak", b"v")])
    assert header.state_root == digest(b"TEP1/STA", parent.state_root, digest(write_set))
    assert header.clients_root == digest(
        b"TEP1/CLI", parent.clients_root, digest(encode(list(done.receipts)))
    )
    assert header.snapshot_root == ZERO_DIGEST
    assert header.ts == 70


def test_a26_time_never_goes_back_and_the_seed_is_derived():
    """A-26: the block's timestamp is clamped; the seed binds parent and block."""
    machine = executor()
    assert run(machine, [request(1, 1, 1, b"now")], ts=90).receipts[0].result == b"90 1"
    head = machine.head_digest
    asks = [request(1, 1, 2, b"now"), request(1, 1, 3, b"seed")]
    done = run(machine, asks, ts=50)
    assert done.receipts[0].result == b"90 2"
    block = block_of(2, asks, 50)
    assert done.receipts[1].result == digest(b"TEP1/SEED", head, block.digest(CHAIN))


def test_s47_null_blocks_change_only_the_header():
    """S-47, A-54: no receipts, no writes, roots as they were."""
    machine = executor()
    run(machine, [request(1, 1, 1, b"set k v")], ts=5)
    before = machine.head
    done = run_block(machine, null_block(0, 2))
    assert done.header.receipts_root == EMPTY_ROOT
    assert (done.header.state_root, done.header.clients_root) == (before.state_root, before.clients_root)
    assert done.header.ts == 5
    assert done.writes.writes == {}
    assert done.header.parent == before.digest()


def test_config_block_writes_the_next_configuration_into_the_state():
    """A8.3: the configuration is part of state and snapshots."""
    machine = executor()
    done = run_block(machine, Block(0, 1, CONFIG, 3, 0, b"change"), b"next configuration")
    assert machine.get(CONFIG_KEY) == b"next configuration"
    assert done.header.state_root != ZERO_DIGEST
    assert (CONFIG_KEY, b"next configuration") in decode_chunk(state_of(machine)[0])


def test_a25_refusals_are_outcomes_without_effect():
    """A-25: refused, crashed and mistyped operations are recorded; none of their writes counts."""
    machine = executor()
    done = run(
        machine,
        [
            request(1, 1, 1, b"set k v;refuse"),
            request(1, 1, 2, b"set k v;crash"),
            request(1, 1, 3, b"set k v;wrong"),
            request(1, 1, 4, b"get k"),
        ],
    )
    assert [(r.status, r.result) for r in done.receipts] == [
        (REFUSED, b"no"),
        (REFUSED, b"application error: KeyError"),
        (REFUSED, b"application error: TypeError"),
        (OK, b"-"),
    ]
    assert machine.application_errors == 2
    assert machine.outcome(client(1), 1, 1) == (1, done.receipts[0])


def test_results_are_bounded(monkeypatch):
    """I-17: one result, and the results of a block together, have a bound."""
    monkeypatch.setattr(executor_module, "MAX_RESULT_BYTES", 100)
    monkeypatch.setattr(executor_module, "MAX_BLOCK_RESULT_BYTES", 150)
    sizes = (b"101", b"100", b"90", b"50")
    asks = [request(1, 1, i, b"set k%d v;result %b" % (i, size)) for i, size in enumerate(sizes, 1)]
    machine = executor()
    assert [r.status for r in run(machine, asks).receipts] == [REFUSED, OK, REFUSED, OK]
    assert machine.get(b"ak1") is None and machine.get(b"ak3") is None


def test_a_failing_disk_stops_the_block_and_is_no_outcome():
    """I-2: what fails on one machine only must not become a refusal, even if the application hides it."""
    reader = DictReader({b"ak": b"v"})
    machine = executor(reader=reader)
    for op in (b"get k", b"swallow k"):
        reader.broken = True
        with pytest.raises(OSError):
            run(machine, [request(1, 1, 1, op)])
        reader.broken = False
        assert machine.height == 0
    assert run(machine, [request(1, 1, 1, b"get k")]).receipts[0].result == b"v"


def test_a_disk_that_fails_during_the_snapshot_leaves_the_head():
    reader = DictReader()
    machine = executor(reader=reader, snapshot_interval=1)
    run(machine, [request(1, 1, 1, b"add n")])
    reader.broken = True
    with pytest.raises(OSError):
        run(machine, [request(1, 1, 2, b"add n")])
    reader.broken = False
    assert run(machine, [request(1, 1, 2, b"add n")]).receipts[0].result == b"2"


def test_calls_out_of_order_are_refused():
    """A-58, I-11: a height executes once, in order."""
    machine = executor()
    run(machine, [])
    for height in (1, 3):
        with pytest.raises(ContractBroken):
            run_block(machine, null_block(0, height))
    with pytest.raises(ContractBroken):
        run_block(machine, Block(0, 2, NORMAL, 0, 0, b"\x90"), b"config")
    with pytest.raises(ContractBroken):
        machine.install(2)
    machine.install(1)
    with pytest.raises(ContractBroken):
        machine.rollback(genesis_header(CHAIN, 0))


def test_reads_stay_correct_between_install_and_settle():
    """A-32: what was handed to the store stays readable until it is settled, and after."""
    reader = DictReader()
    machine = executor(reader=reader)
    run(machine, [request(1, 1, 1, b"set k 1")])
    run(machine, [request(1, 1, 2, b"set k 2")])
    layers = machine.install(1)
    assert machine.get(b"ak") == b"2"
    reader.install(layers)
    machine.settle()
    assert machine.get(b"ak") == b"2"
    assert machine.install(1) == []
    settle(machine, reader, 2)
    assert machine.get(b"ak") == reader.state[b"ak"] == b"2"
    machine.rollback(machine.head)
    assert machine.get(b"ak") == b"2"


def test_cached_reads_follow_installs():
    """A value read from the store before it is overwritten is not served afterwards."""
    reader = DictReader({b"ak": b"0"})
    machine = executor(reader=reader)
    assert machine.get(b"ak") == b"0"
    for seq in range(1, 4):
        run(machine, [request(1, 1, seq, b"add k")])
        settle(machine, reader, seq)
        assert machine.get(b"ak") == b"%d" % seq


def test_recovered_chain_continues_above_its_base():
    """A8.4: a chain may begin at the height of an old one."""
    machine = Executor(
        chain_id=CHAIN,
        application=Scripted(),
        reader=DictReader({b"an": b"41"}),
        header=genesis_header(CHAIN, 500, b"\x01" * 32),
        client_window=4,
        snapshot_interval=100,
    )
    done = run(machine, [request(1, 1, 1, b"add n")])
    assert done.header.height == 501
    ask = request(1, 1, 1, b"add n")
    assert done.receipts == [Receipt(client(1), 1, 1, digest_of(CHAIN, ask), OK, b"42")]
