"""Words of a command line to values and back; shared by the applications that ship."""

from __future__ import annotations

from tepbft.errors import TepbftError


def parse_bytes(word: str) -> bytes:
    """UTF-8 of a word, or the bytes it spells if it starts with `0x`."""
    if word.startswith("0x"):
        try:
            return bytes.fromhex(word[2:])
        except ValueError:
            raise TepbftError(
                word, "it starts with 0x but is not hexadecimal", "Give pairs of digits"
            ) from None
    try:
        return word.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TepbftError(repr(word)[:80], "not valid Unicode text", "Give it in UTF-8, or as 0x…") from None


def render_bytes(data: bytes) -> str:
    """The text that `parse_bytes` turns into `data`: printable text as it is, all else as `0x…`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "0x" + data.hex()
    if text.isprintable() and not text.startswith("0x"):
        return text
    return "0x" + data.hex()


def parse_number(word: str, name: str, low: int, high: int) -> int:
    """A decimal integer in [low, high]; TepbftError naming `name` otherwise."""
    digits = word[1:] if word.startswith("-") else word
    if digits.isascii() and digits.isdigit() and len(digits) < 20 and low <= int(word) <= high:
        return int(word)
    raise TepbftError(f"{name} {word!r}", "not a number in range", f"Give an integer from {low} to {high}")


def usage_error(words: object, usage: str) -> TepbftError:
    """The error for words that no command of an application begins with."""
    return TepbftError(f"operation {words!r}", "no such operation of this application", f"Usage:\n{usage}")
