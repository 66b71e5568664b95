"""Bytes that somebody spoiled: cut, stretched, doubled, swapped, inflated, nested."""

from __future__ import annotations

from hypothesis import strategies as st

DEEP = 5000
"""Levels of nesting: more than any interpreter's stack takes, were it to recurse."""
HUGE = (
    b"\xdd\xff\xff\xff\xff",  # an array of 2**32-1 elements
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",  # a map
    b"\xc6\xff\xff\xff\xff",  # bytes
    b"\xc6\x7f\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",  # text
    b"\xc9\xff\xff\xff\xff\x01",  # an extension
)
INTEGERS = (
    b"\xcc\x01",  # 1, not in its shortest form
    b"\xcd\x00\x01",
    b"\xce\x00\x00\x00\x01",
    b"\xcf" + bytes(7) + b"\x01",
    b"\xcf" + b"\xff" * 8,  # 2**64-1
    b"\xcf\x80" + bytes(7),  # 2**63
    b"\xd3" + b"\xff" * 8,  # -1 as a 64-bit integer
    b"\xd3\x80" + bytes(7),  # -2**63
    b"\xff",
    b"\xcb" + bytes(8),  # 0.0
    b"\xc0",
    b"\xc1",  # never used
    b"\xc3",
    b"\xa1\xff",  # text that is not UTF-8
    b"\xa3\xed\xa0\x80",  # a lone surrogate
)
NESTED = (
    b"\x91" * DEEP,
    b"\x81\x01" * DEEP,
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"a = " + b"[" * DEEP,
    b"a" + b".a" * DEEP + b" = 1",
)
WORDS = (
    *HUGE,
    *INTEGERS,
    b"1" * 5000,
    b"1e999",
    b"-0",
    b'"\\ud800"',
    b"\xef\xbb\xbf",
    b"\x00",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'""',
)
BOMBS = (*HUGE, *NESTED, *(b"\x92\x01" + bomb for bomb in (*HUGE, NESTED[0])), b"1" * 100_000)
"""Inputs whose cost must not depend on what they announce."""


def trailing_nest(data: bytes) -> bytes:
    """A message whose outermost array announces one more element, deeply nested."""
    if not data or not 0x90 <= data[0] < 0x9F:
        return data + NESTED[0]
    return bytes([data[0] + 1]) + data[1:] + b"\x91" * DEEP + b"\xc0"


def spoil_once(draw: st.DrawFn, data: bytes) -> bytes:
    """One change."""
    at = draw(st.integers(0, len(data)))
    until = min(len(data), at + draw(st.integers(0, 12)))
    match draw(st.integers(0, 8)):
        case 0:
            return data[:at]
        case 1:
            return data + draw(st.binary(min_size=1, max_size=8))
        case 2:
            return data[:at] + data[at:until] + data[at:]
        case 3:
            return data[:at] + data[until:]
        case 4:
            return data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        case 5:
            return data[:at] + draw(st.sampled_from(WORDS)) + data[until:]
        case 6:
            bit = draw(st.integers(0, 7))
            return data[:at] + bytes(byte ^ (1 << bit) for byte in data[at : at + 1]) + data[at + 1 :]
        case 7:
            return data[:at] + draw(st.sampled_from(NESTED)) + data[until:]
        case _:
            return trailing_nest(data)


@st.composite
def spoiled(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid encoding with one to three changes."""
    data = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        data = spoil_once(draw, data)
    return data


def hostile(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """What a decoder may be given: anything, mostly almost right."""
    return st.one_of(
        spoiled(valid), spoiled(valid), valid, st.binary(max_size=64), st.sampled_from([*NESTED, *WORDS])
    )
