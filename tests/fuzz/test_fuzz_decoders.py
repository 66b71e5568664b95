"""No crash, no unbounded work, one encoding or none: every decoder under hostile bytes (I-25)."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.fuzz_mutations import BOMBS, hostile
from fuzz.fuzz_shapes import members, values
from fuzz.fuzz_targets import TARGETS, Target
from tepbft.protocols.tep.messages import Message
from tepbft.protocols.tep.messages import codec as peer_codec
from tepbft.storage.port import ConfigRecord, Record, ViewRecord
from tepbft.trusted.device_wire import DeviceReply, DeviceRequest, reply_codec, request_codec
from tepbft.wire import ClientMessage, Codec, client_codec, encode

EXAMPLES = int(os.environ.get("TEPBFT_FUZZ_EXAMPLES", "40"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
UNIONS = {
    "peer": (Message, peer_codec.decode),
    "client": (ClientMessage, client_codec.decode),
    "device_request": (DeviceRequest, request_codec.decode),
    "device_reply": (DeviceReply, reply_codec.decode),
    "record": (Record, Codec(Record).decode),
}
CASES = [(name, cls) for name, (union, _) in UNIONS.items() for cls in members(union)]
MEMORY_BYTES = 8 << 20


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_bytes(target: Target) -> None:
    """Only the documented errors come out; what is accepted is encoded as it came."""

    @FUZZ
    @given(hostile(target.valid))
    def run(data: bytes) -> None:
        try:
            found = target.decode(data)
        except target.errors:
            return
        if target.encode is not None:
            assert target.encode(found) == data, "two encodings of one value"

    run()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_announced_sizes_cost_nothing(target: Target) -> None:
    """Lengths and depths that are announced and not there take neither memory nor the stack."""
    for bomb in BOMBS:
        tracemalloc.start()
        try:
            target.decode(bomb)
        except target.errors:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < MEMORY_BYTES, f"{peak} bytes for {bomb[:12]!r}"


@pytest.mark.parametrize(("name", "cls"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_every_message_survives_the_wire(name: str, cls: type) -> None:
    """decode(encode(x)) == x, for each member of each union."""
    decode = UNIONS[name][1]

    @settings(FUZZ, max_examples=max(10, EXAMPLES // 3))
    @given(values(cls))
    def run(message: object) -> None:
        data = encode(message)
        found = decode(data)
        assert found == message and type(found) is cls and encode(found) == data

    run()


def test_every_member_of_the_unions_is_covered() -> None:
    """A message that is added to a union is fuzzed without anybody's doing."""
    for name, (union, _) in UNIONS.items():
        declared = set(union.__args__)
        assert declared == {cls for case, cls in CASES if case == name}
        tags = [cls.__struct_config__.tag for cls in declared]
        assert len(set(tags)) == len(tags)


KNOWN = [
    ("genesis", b'{"\x80": 1}'),  # a field name that is not UTF-8
    ("genesis", b"[" * 5000),
    ("settings", b"node = " + b"[" * 5000),
    ("settings", b"node" + b".a" * 5000 + b" = 1"),  # each level of a dotted key costs all above it
    ("settings", b"node = " + b"1" * 5000),
    ("mac_keys", b"[" * 5000),
    ("record", encode(ViewRecord("another", 0, 0, b""))),
    ("record", encode(ConfigRecord(b"no configuration"))),
    ("record", b"\x94\x06\xc4\x00" + b"\x91" * 5000 + b"\xc0\xc0"),
    ("configuration", b"\x94\x00\x00\x90" + b"\x91" * 5000 + b"\xc0"),
    ("configuration", b"\x94\x00\x00\x90\x00"),  # a field too many: a second encoding of the same value
    ("snapshot_head", b"\x96\xc4\x20" + bytes(32) + b"\x00\x90\xc0\xc0" + b"\x91" * 5000 + b"\xc0"),
]


@pytest.mark.parametrize(("name", "data"), KNOWN, ids=[f"{name}-{i}" for i, (name, _) in enumerate(KNOWN)])
def test_inputs_that_once_broke_a_decoder(name: str, data: bytes) -> None:
    """Each of them brought out something else than the documented error, or was accepted."""
    target = next(found for found in TARGETS if found.name == name)
    with pytest.raises(target.errors):
        target.decode(data)
