"""Errors, in two families: those a person reads, and those the core raises.

`ContractBroken` means that our own code is wrong: the node stops.
`PeerFault` means that somebody sent something inadmissible: it is dropped and
counted, and never escapes a `step` (after h11's two kinds of protocol error).
"""

from __future__ import annotations


class TepbftError(Exception):
    """An error for a person: what thing, why, and what to do about it.

    Attributes: `thing` names the file, port, flag or peer; `reason` says what is
    wrong; `remedy` says what to do; `exit_code` is what a command exits with.
    """

    def __init__(self, thing: str, reason: str, remedy: str, *, exit_code: int = 1) -> None:
        super().__init__(f"{thing}: {reason}. {remedy}")
        self.thing = thing
        self.reason = reason
        self.remedy = remedy
        self.exit_code = exit_code


class ContractBroken(Exception):
    """An invariant of this program does not hold. Stop the node rather than guess."""


class PeerFault(Exception):
    """A message from a peer, client or file is inadmissible.

    `code` is a short stable word for metrics (`bad_signature`, `wrong_chain`,
    `wrong_configuration`, `malformed`, …); `detail` is for the log.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class TrustedRefusal(Exception):
    """The trusted component declined to sign: the request contradicts its registers.

    `code` is one of `halted`, `view`, `window`, `register`, `new_view`,
    `checkpoint`, `view_change`, `config`, `unprovisioned`, `malformed`.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"{code}: {reason}" if reason else code)
        self.code = code
        self.reason = reason


class OperationRefused(Exception):
    """Raised by an application: the operation has no effect and the client is told why.

    The refusal is an outcome like any other: ordered, recorded and provable (A-25).
    """
