"""Is there one order that explains what the clients of a key-value store saw?

A checker after Wing and Gong, with Lowe's memory of configurations seen. A history is
linearizable if each operation can be given one moment between its call and its return
such that carrying them out in that order gives every result. Histories are decomposed
first (linearizability is local): operations on distinct keys are checked apart, but for
keys that some range read covers, which are checked together with it.

An operation that has not returned may take effect at any later moment, or never. One
that was refused has no effect. Two moments in the same millisecond are unordered, so a
report of a violation is never an artefact of coarse clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tepbft.execution.apps import kv

MAX_CONFIGURATIONS = 500_000
"""Configurations looked at in one `check`, before it gives up: `undecided`."""
MAX_TRIALS = 2_000
"""Smaller histories tried while a counter-example is made minimal."""
_NEVER = 1 << 62

Kind: TypeAlias = Literal["put", "get", "delete", "cas", "range"]
State: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""The map as sorted pairs."""


class Operation(Struct, frozen=True, kw_only=True):
    """One call of one client, and what came back.

    `result` is None for put, `bytes | None` for get, bool for delete (was it there?),
    (swapped, value found) for cas, (pairs, more) for range; it means nothing while
    `returned_ms` is None. Sequences are tuples. Times are on one monotonic clock, in any unit.
    """

    client: int
    kind: Kind
    key: bytes
    """For range: where it starts."""
    value: bytes = b""
    """What put and cas write."""
    expected: bytes | None = None
    """What cas compares with."""
    end: bytes | None = None
    """Where range ends (exclusive); None: at the last key."""
    limit: int = 100
    result: Any = None
    invoked_ms: int
    returned_ms: int | None = None
    refused: bool = False
    """It is known to have had no effect."""


class Verdict(Struct, frozen=True):
    """What `check` found. Neither linearizable nor violated: `undecided`, and `ok` is False."""

    ok: bool
    reason: str
    counter_example: tuple[Operation, ...] = ()
    """A smallest history, contained in the one checked, that no order explains."""
    undecided: bool = False
    configurations: int = 0
    """Work done."""


class _OutOfWork(Exception):
    pass


class _Budget:
    """Configurations that may still be looked at."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def spend(self) -> None:
        self.used += 1
        if self.used > self.limit:
            raise _OutOfWork


# --- the sequential store ---------------------------------------------------------------------


def apply(state: State, op: Operation) -> tuple[State, Any]:
    """What the store does with `op`: the state after it, and its result."""
    if op.kind == "range":
        return state, _range(state, op)
    found = next((value for key, value in state if key == op.key), None)
    if op.kind == "get":
        return state, found
    if op.kind == "put":
        return _with(state, op.key, op.value), None
    if op.kind == "delete":
        return (state, False) if found is None else (_with(state, op.key, None), True)
    if found != op.expected:
        return state, (False, found)
    return _with(state, op.key, op.value), (True, found)


def _with(state: State, key: bytes, value: bytes | None) -> State:
    others = [pair for pair in state if pair[0] != key]
    if value is not None:
        others.append((key, value))
    return tuple(sorted(others))


def _range(state: State, op: Operation) -> tuple[tuple[tuple[bytes, bytes], ...], bool]:
    pairs: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in state:
        if key < op.key or (op.end is not None and key >= op.end):
            continue
        size += len(key) + len(value) + 16
        if len(pairs) == op.limit or size > kv.MAX_RANGE_BYTES:
            return tuple(pairs), True
        pairs.append((key, value))
    return tuple(pairs), False


def _is_read(op: Operation) -> bool:
    """True if, given its result, the operation changes nothing wherever it stands."""
    if op.kind in ("get", "range"):
        return True
    if op.returned_ms is None:
        return False
    return (op.kind == "delete" and op.result is False) or (op.kind == "cas" and not op.result[0])


# --- the search -------------------------------------------------------------------------------


class _Search:
    """The search for an order of one independent part of a history."""

    def __init__(self, history: Sequence[Operation], budget: _Budget) -> None:
        self.done = sorted(
            (op for op in history if op.returned_ms is not None),
            key=lambda op: (op.invoked_ms, op.returned_ms),
        )
        # A read that never returned tells nothing.
        self.open = sorted(
            (op for op in history if op.returned_ms is None and not _is_read(op)),
            key=lambda op: op.invoked_ms,
        )
        self.reads = [_is_read(op) for op in self.done]
        self.budget = budget

    def explains(self) -> bool:
        """True if an order exists. A configuration is (how many of the first operations are placed,
        a bit mask of those placed beyond them, a mask of open ones placed, state)."""
        start = (0, 0, 0, ())
        seen: set[tuple[int, int, int, State]] = {start}
        stack: list[tuple[int, int, int, State]] = [start]
        while stack:
            low, mask, opened, state = self._place_reads(*stack.pop())
            if low == len(self.done):
                return True
            for following in self._next(low, mask, opened, state):
                if following not in seen:
                    self.budget.spend()
                    seen.add(following)
                    stack.append(following)
        return False

    def _candidates(self, low: int, mask: int) -> tuple[list[int], int]:
        """Completed operations that no unplaced one precedes, and the earliest return among them."""
        found: list[int] = []
        earliest, index = _NEVER, low
        while index < len(self.done) and self.done[index].invoked_ms <= earliest:
            if not mask >> (index - low) & 1:
                found.append(index)
                returned = self.done[index].returned_ms
                earliest = min(earliest, _NEVER if returned is None else returned)
            index += 1
        return found, earliest

    @staticmethod
    def _placed(low: int, mask: int, index: int) -> tuple[int, int]:
        mask |= 1 << (index - low)
        while mask & 1:
            low, mask = low + 1, mask >> 1
        return low, mask

    def _place_reads(self, low: int, mask: int, opened: int, state: State) -> tuple[int, int, int, State]:
        """Reads that fit the state may stand here in every order that exists: no choice is lost."""
        progress = True
        while progress:
            progress = False
            for index in self._candidates(low, mask)[0]:
                if self.reads[index] and apply(state, self.done[index])[1] == self.done[index].result:
                    low, mask = self._placed(low, mask, index)
                    progress = True
                    break
        return low, mask, opened, state

    def _next(self, low: int, mask: int, opened: int, state: State) -> list[tuple[int, int, int, State]]:
        found: list[tuple[int, int, int, State]] = []
        candidates, earliest = self._candidates(low, mask)
        tried: list[tuple[str, bytes, bytes, bytes | None]] = []
        for index, op in enumerate(self.open):
            if opened >> index & 1 or op.invoked_ms > earliest:
                continue
            effect = (op.kind, op.key, op.value, op.expected)
            after = apply(state, op)[0]
            if after != state and effect not in tried:  # without effect it may as well never happen
                tried.append(effect)
                found.append((low, mask, opened | 1 << index, after))
        for index in reversed(candidates):  # the stack then takes the one called first
            op = self.done[index]
            if self.reads[index]:
                continue
            after, result = apply(state, op)
            if result == op.result:
                found.append((*self._placed(low, mask, index), opened, after))
        return found


# --- decomposition ----------------------------------------------------------------------------


def _parts(history: Sequence[Operation]) -> list[tuple[str, list[Operation]]]:
    """Independent parts: one per connected run of ranges with all keys in it, one per other key."""
    runs: list[list[Any]] = []  # [start, end or None] of merged ranges, ascending
    for op in sorted((op for op in history if op.kind == "range"), key=lambda op: op.key):
        if op.end is not None and op.end <= op.key:
            continue
        if runs and (runs[-1][1] is None or op.key < runs[-1][1]):
            if runs[-1][1] is not None:
                runs[-1][1] = None if op.end is None else max(runs[-1][1], op.end)
        else:
            runs.append([op.key, op.end])
    parts: dict[tuple[int, bytes], list[Operation]] = {}
    for op in history:
        run = next(
            (i for i, (low, high) in enumerate(runs) if low <= op.key and (high is None or op.key < high)), -1
        )
        parts.setdefault((run, b"" if run >= 0 else op.key), []).append(op)
    names = {place: _part_name(runs, *place) for place in parts}
    return [(names[place], parts[place]) for place in sorted(parts)]


def _part_name(runs: Sequence[Sequence[Any]], run: int, key: bytes) -> str:
    if run < 0:
        return f"key {_text(key)}"
    low, high = runs[run]
    return f"keys from {_text(low)}" + ("" if high is None else f" to {_text(high)}")


# --- counter-examples -------------------------------------------------------------------------


def _until(history: Sequence[Operation], moment: int) -> list[Operation]:
    """What was known at `moment`: later calls left out, later returns undone. A prefix of a
    linearizable history is linearizable."""
    return [
        op
        if op.returned_ms is not None and op.returned_ms <= moment
        else replace(op, returned_ms=None, result=None)
        for op in history
        if op.invoked_ms <= moment
    ]


def _shortest_prefix(history: Sequence[Operation], budget: _Budget) -> list[Operation]:
    moments = sorted({op.returned_ms for op in history if op.returned_ms is not None})
    low, high = 0, len(moments) - 1  # the whole is known to be violated
    while low < high:
        middle = (low + high) // 2
        if _Search(_until(history, moments[middle]), budget).explains():
            low = middle + 1
        else:
            high = middle
    return _until(history, moments[low])


def _observes(op: Operation, value: bytes) -> bool:
    """True if taking away a write of `value` could change what this operation returns."""
    if op.returned_ms is None:
        return op.kind == "cas" and op.expected == value
    match op.kind:
        case "put":
            return False
        case "get":
            return bool(op.result == value)
        case "delete":
            return op.result is True
        case "cas":
            return bool(op.result[1] == value) or op.expected == value
        case _:
            return True


def _may_go(history: Sequence[Operation], index: int) -> bool:
    """True if a linearizable history stays so without this operation: leaving it out invents nothing."""
    op = history[index]
    if op.kind == "put":
        return not any(
            _observes(other, op.value)
            for i, other in enumerate(history)
            if i != index and (other.key == op.key or other.kind == "range")
        )
    return _is_read(op)


def _shrink(history: list[Operation], budget: _Budget) -> list[Operation]:
    """A history contained in this one that is violated and from which nothing more may be left out."""
    trials, changed = 0, True
    while changed:
        changed = False
        for index in range(len(history) - 1, -1, -1):
            if not _may_go(history, index):
                continue
            trials += 1
            if trials > MAX_TRIALS:
                return history
            smaller = history[:index] + history[index + 1 :]
            if not _Search(smaller, budget).explains():
                history, changed = smaller, True
    return history


def _explain(where: str, example: Sequence[Operation]) -> str:
    last = max(
        (op for op in example if op.returned_ms is not None), key=lambda op: (op.returned_ms, op.invoked_ms)
    )
    return f"{where}: no order of these {len(example)} operations gives `{describe(last)}`"


# --- the check --------------------------------------------------------------------------------


def check(history: Sequence[Operation], *, max_configurations: int = MAX_CONFIGURATIONS) -> Verdict:
    """Judge a whole history, in any order. The store is empty before it. ValueError for a return
    before its call, or a range limit below 1."""
    for op in history:
        if (op.returned_ms is not None and op.returned_ms < op.invoked_ms) or op.limit < 1:
            raise ValueError(f"not an operation: {op}")
    budget = _Budget(max_configurations)
    undecided = ""
    for where, part in _parts([op for op in history if not op.refused]):
        try:
            explained = _Search(part, budget).explains()
        except _OutOfWork:
            undecided = undecided or f"{where}: no verdict within {max_configurations} configurations"
            budget = _Budget(max_configurations)
            continue
        if not explained:
            example = _smallest(part, max_configurations)
            return Verdict(False, _explain(where, example), tuple(example), configurations=budget.used)
    if undecided:
        return Verdict(False, undecided, undecided=True, configurations=max_configurations)
    return Verdict(True, f"{len(history)} operations, one order explains them", configurations=budget.used)


def _smallest(part: list[Operation], max_configurations: int) -> list[Operation]:
    example = sorted(part, key=lambda op: op.invoked_ms)
    try:
        budget = _Budget(max_configurations)
        example = _shortest_prefix(example, budget)
        example = _shrink(example, budget)
    except _OutOfWork:
        pass  # larger than need be, and still a violation
    return example


# --- from the application's bytes -------------------------------------------------------------

_operation = msgspec.msgpack.Decoder(kv.Operation)
_result_types: dict[str, Any] = {
    "get": msgspec.msgpack.Decoder(bytes | None),
    "delete": msgspec.msgpack.Decoder(bool),
    "cas": msgspec.msgpack.Decoder(tuple[bool, bytes | None]),
    "range": msgspec.msgpack.Decoder(tuple[tuple[tuple[bytes, bytes], ...], bool]),
}


def observed(
    client: int,
    operation: bytes,
    result: bytes | None,
    *,
    invoked_ms: int,
    returned_ms: int | None,
    refused: bool = False,
) -> Operation:
    """An `Operation` from the bytes of the `kv` application. `result` is None while it has not
    returned; msgspec errors on bytes that are not of `kv`."""
    op = _operation.decode(operation)
    words: dict[str, Any] = {"client": client, "invoked_ms": invoked_ms, "refused": refused}
    if isinstance(op, kv.Range):
        words |= {"kind": "range", "key": op.start, "end": op.end, "limit": op.limit}
    else:
        words |= {"kind": _KINDS[type(op)], "key": op.key}
    if isinstance(op, kv.Put):
        words["value"] = op.value
    if isinstance(op, kv.CompareAndSwap):
        words |= {"value": op.new, "expected": op.expected}
    if returned_ms is not None and not refused:
        decoder = _result_types.get(words["kind"])
        words["result"] = None if decoder is None or result is None else decoder.decode(result)
    return Operation(returned_ms=returned_ms, **words)


_KINDS: dict[type, str] = {kv.Put: "put", kv.Get: "get", kv.Delete: "delete", kv.CompareAndSwap: "cas"}


def describe(op: Operation) -> str:
    """One operation as a line of text: who, what, when, with what result."""
    match op.kind:
        case "put":
            words = f"put {_text(op.key)} {_text(op.value)}"
        case "cas":
            words = f"cas {_text(op.key)} {_text(op.expected)} {_text(op.value)}"
        case "range":
            words = f"range {_text(op.key)} {_text(op.end)} {op.limit}"
        case _:
            words = f"{op.kind} {_text(op.key)}"
    until = "…" if op.returned_ms is None else str(op.returned_ms)
    result = "" if op.returned_ms is None else f" -> {op.result!r}"
    return f"client {op.client} [{op.invoked_ms}..{until}] {words}{result}"


def _text(data: bytes | None) -> str:
    if data is None:
        return "-"
    text = data.decode("ascii", "replace")
    return text if text.isprintable() and "\ufffd" not in text and text else "0x" + data.hex()
