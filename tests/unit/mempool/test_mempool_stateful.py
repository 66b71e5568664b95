"""The pool against a plain model, under arbitrary sequences of calls (I-17, A-42, A-28)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tepbft.core.block import Request
from tepbft.mempool import Mempool, MempoolOptions

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
        self.blocks: dict[bytes, list] = {}
        self.names = 0
        self.now = 0

    @rule(key=keys, content=contents, step=st.integers(0, 5))
    def admit(self, key, content, step):
        self.now += step
        code = self.pool.admit(*build(key, content), self.now)
        if key in self.model:
            assert code is None
            return
        admitted = [k for k, entry in self.model.items() if entry[2]]
        busy = len(admitted) >= CAPACITY or sum(k[0] == key[0] for k in admitted) >= QUOTA
        assert (code == "busy") == busy
        if not busy:
            self.model[key] = [content, "waiting", True, self.now]

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

    @rule(count=st.integers(1, 5))
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
            shares[key[0]] += 1
        for who, share in shares.items():  # nobody with more to give gets less than the most by two
            left = sum(k[0] == who and self.model[k][1] == "waiting" for k in waiting)
            assert not left or share + 1 >= max(shares.values())

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
        pool = self.pool
        assert (pool._bytes == 0) == (not self.model and not self.blocks)
        assert (pool.waiting_bytes == 0) == (pool.waiting == 0)
        for key, (content, *_) in self.model.items():
            assert pool.verified(*build(key, content))
        for who, client in pool._clients.items():
            mine = [entry for k, entry in self.model.items() if full(k)[0] == who]
            assert client.pending == len(mine) and client.admitted == sum(entry[2] for entry in mine)
            assert client.waiting == sum(entry[1] == "waiting" for entry in mine)
        assert sorted(pool._clients) == sorted({full(key)[0] for key in self.model})


PoolMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase
