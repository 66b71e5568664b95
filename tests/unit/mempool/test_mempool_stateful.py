"""The pool against a plain model, under arbitrary sequences of calls (I-17, A-42, A-28).

What came together is held together until something sets it apart, and nobody can tell: the model does not.
"""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tepbft.core.block import Request
from tepbft.mempool import Mempool, MempoolOptions
from tepbft.mempool.entry import REQUEST_OVERHEAD_BYTES

QUOTA, CAPACITY, PREPARED = 3, 8, 5
keys = st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 4))
contents = st.sampled_from([b"x", b"y"])


def build(key: tuple[int, int, int], content: bytes) -> tuple[Request, bytes]:
    who, session, seq = key
    return Request(bytes([who]) * 16, session, seq, content, b"auth"), repr((key, content)).encode()


def full(key: tuple[int, int, int]) -> tuple[bytes, int, int]:
    return bytes([key[0]]) * 16, key[1], key[2]


class PoolMachine(RuleBasedStateMachine):
    """The model: requests by themselves, key -> [content, state, admitted, first seen], in order of coming;
    and accepted blocks, name -> [requests, first seen]."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Mempool(
            MempoolOptions(
                client_quota=QUOTA, capacity=CAPACITY, minimum=CAPACITY, prepared_capacity=PREPARED
            )
        )
        self.model: dict[tuple[int, int, int], list] = {}
        self.taken: list[tuple[int, int, int]] = []
        self.own: dict[bytes, list[tuple[int, int, int]]] = {}
        self.blocks: dict[bytes, list] = {}
        self.names = 0
        self.now = 0

    @rule(asked=st.lists(st.tuples(keys, contents), max_size=4), step=st.integers(0, 5))
    def admit(self, asked, step):
        """Up to four at once, repetitions and second contents among them."""
        self.now += step
        built = [build(*item) for item in asked]
        refused = self.pool.admit_many([r for r, _ in built], [d for _, d in built], self.now)
        busy = []
        for index, (key, content) in enumerate(asked):
            if key in self.model:
                continue
            admitted = [k for k, entry in self.model.items() if entry[2]]
            if len(admitted) >= CAPACITY or sum(k[0] == key[0] for k in admitted) >= QUOTA:
                busy.append((index, "busy"))
            else:
                self.model[key] = [content, "waiting", True, self.now]
        assert refused == busy

    @rule(who=st.integers(1, 4), first=st.integers(1, 4), count=st.integers(1, 3))
    def admit_a_run(self, who, first, count):
        """As clients ask: numbers one by one."""
        self.admit([((who, 1, first + more), b"x") for more in range(count)], 1)

    @rule(block=st.lists(st.tuples(keys, contents), min_size=1, max_size=4))
    def prepare(self, block):
        built = [build(*item) for item in block]
        self.names += 1
        name = b"%d" % self.names
        self.pool.register_block(name, [r for r, _ in built], [d for _, d in built], self.now)
        for key, _ in block:
            if key in self.model:
                self.model[key][1] = "in flight"
        if sum(len(items) for items, _ in self.blocks.values()) + len(block) <= PREPARED:
            self.blocks[name] = [block, self.now]

    @rule(count=st.integers(1, 9))
    def take(self, count):
        batch = self.pool.take(count, 1 << 20)
        waiting = [k for k, entry in self.model.items() if entry[1] == "waiting"]
        assert len(batch.requests) == min(count, len(waiting))
        shares = {who: 0 for who, _, _ in waiting}
        for request, digest in zip(batch.requests, batch.digests, strict=True):
            key = request.client[0], request.session, request.seq
            assert self.model[key][1] == "waiting"
            assert build(key, self.model[key][0]) == (request, digest)
            self.model[key][1] = "in flight"
            self.taken.append(key)
            shares[key[0]] += 1
        for who, share in shares.items():  # nobody with more to give gets less than the most by two
            left = sum(k[0] == who and self.model[k][1] == "waiting" for k in waiting)
            assert not left or share + 1 >= max(shares.values())

    @rule()
    def propose(self):
        """What was taken has become a block of this node's own."""
        if self.taken:
            self.names += 1
            name = b"%d" % self.names
            self.pool.proposed(name)
            self.own[name], self.taken = self.taken, []

    @rule()
    def execute_an_own_block(self):
        """The oldest, whatever became of its requests meanwhile."""
        if self.own:
            name, done = next(iter(self.own.items()))
            del self.own[name]
            self.pool.executed_block(name, [build(key, b"x")[0] for key in done], self.now)
            for key in done:
                self.model.pop(key, None)

    @rule(runs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), max_size=3))
    def an_ordinary_day(self, runs):
        """Nothing sets these apart."""
        for who, first, count in runs:
            self.admit_a_run(who, first, count)
        self.take(9)
        self.propose()

    @rule(asked=st.lists(keys, max_size=9))
    def surplus(self, asked):
        """Those beyond the room there is, of those not pending."""
        new = [index for index, key in enumerate(asked) if key not in self.model]
        room = CAPACITY - sum(entry[2] for entry in self.model.values())
        found = self.pool.surplus([build(key, b"x")[0] for key in asked])
        assert found == (new[max(room, 0) :] if len(asked) > room else [])

    @rule(choice=st.integers(0, 5))
    def an_own_block_comes_to_nothing(self, choice):
        """Its requests stay in flight until a view change."""
        if self.own:
            self.pool.unpack([list(self.own)[choice % len(self.own)]])

    @rule(done=st.lists(keys, max_size=4), step=st.integers(0, 200))
    def execute(self, done, step):
        self.now += step
        self.pool.executed_many([full(key) for key in done], self.now)
        for key in done:
            self.model.pop(key, None)

    @rule(choice=st.integers(0, 5))
    def execute_a_block(self, choice):
        if not self.blocks:
            return
        name = list(self.blocks)[choice % len(self.blocks)]
        block, _ = self.blocks.pop(name)
        self.pool.executed_block(name, [build(*item)[0] for item in block], self.now)
        for key, _ in block:
            self.model.pop(key, None)

    def unpacked(self, names):
        for name in names:
            block, seen = self.blocks.pop(name)
            for key, content in block:
                self.model.setdefault(key, [content, "in flight", False, seen])
        if names:
            self.model = dict(sorted(self.model.items(), key=lambda item: item[1][3]))

    @rule(count=st.integers(0, 3))
    def drop_blocks(self, count):
        names = list(self.blocks)[:count]
        self.pool.unpack(names)
        self.unpacked(names)

    @rule(again=st.lists(keys, max_size=3), kept=st.integers(0, 3))
    def change_view(self, again, kept):
        names = list(self.blocks)[:kept]
        self.pool.reset_in_flight([full(key) for key in again], names)
        self.unpacked([name for name in self.blocks if name not in names])
        for key, entry in self.model.items():
            entry[1] = "in flight" if key in again else "waiting"

    @invariant()
    def pool_agrees(self):
        pool, entries = self.pool, list(self.model.values())
        assert pool.pending_keys() == [full(key) for key in self.model]
        assert pool.blocks() == list(self.blocks)
        assert len(pool) == len(entries) + sum(len(items) for items, _ in self.blocks.values())
        assert pool.waiting == sum(entry[1] == "waiting" for entry in entries)
        pending = [entry[3] for entry in entries] + [seen for _, seen in self.blocks.values()]
        assert pool.oldest_pending_ms() == min(pending, default=None)
        seen = [entry[3] for entry in entries if entry[1] == "waiting"]
        assert pool.oldest_waiting_ms() == (seen[0] if seen else None)

    @invariant()
    def accounts_are_exact(self):
        pool = copy.deepcopy(self.pool)  # what is asked here sets apart what is together
        prepared = [request for items, _ in self.blocks.values() for request in items]
        size = REQUEST_OVERHEAD_BYTES + len(b"x") + len(b"auth")
        assert pool._bytes == size * (len(self.model) + len(prepared))
        assert pool._admitted == sum(entry[2] for entry in self.model.values())
        assert (pool.waiting_bytes == 0) == (pool.waiting == 0)
        for key, (content, *_) in self.model.items():
            request, digest = build(key, content)
            assert pool.unverified([request], [digest]) == []
            assert pool.unverified([request], [b"another"]) == [0]
        pool._set_apart()
        for who, client in pool._clients.items():
            mine = [entry for k, entry in self.model.items() if full(k)[0] == who]
            assert client.pending == len(mine) and client.admitted == sum(entry[2] for entry in mine)
            assert client.waiting == sum(entry[1] == "waiting" for entry in mine)
        assert sorted(pool._clients) == sorted({full(key)[0] for key in self.model})


PoolMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase
