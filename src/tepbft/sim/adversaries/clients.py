"""Byzantine clients, and hosts that lie to clients (S-41 to S-45)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from tepbft.core.block import OK, Receipt, Request
from tepbft.protocols.tep.messages import Forward
from tepbft.sim.adversaries.toolkit import Attacker, replace
from tepbft.sim.ports import Power
from tepbft.wire import NoProof, NotAdmitted, Outcome, ProvenReceipt, Welcome

if TYPE_CHECKING:
    from tepbft.protocols.tep.messages import Message

HUGE = 2**63 - 1


class RogueRequests(Attacker):
    """S-42: a client that colludes: one number with two operations for different replicas, a request for
    one backup only, bad signatures for half, foreign requests again, huge numbers, a flood of sessions,
    numbers of sessions that are over (S-43). Expected: bounded state, and no correct primary is blamed."""

    name = "s42-rogue-client"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._session = 1000 * (1 + power.number)
        self._seq = 0
        self._foreign: list[Request] = []

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """See `Strategy`."""
        self._remember(requests)
        return requests

    def inbound(self, sender: Any, message: Message) -> Sequence[tuple[Any, Message]]:
        """See `Strategy`."""
        if isinstance(message, Forward):
            self._remember(message.requests)
        return super().inbound(sender, message)

    def _remember(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if len(self._foreign) >= 50:
                del self._foreign[self.rng.randrange(50)]
            self._foreign.append(request)

    def _next(self) -> Request:
        self._seq += 1
        return self.forge.rogue(self._session, self._seq)

    def tick(self) -> None:
        """See `Strategy`."""
        if not self.every(80):
            return
        self.did()
        self.rng.choice(
            (
                self._two_operations,
                self._one_backup,
                self._bad_signatures,
                self._replay,
                self._huge,
                self._sessions,
                self._old_session,
                self._unknown_client,
                self._gap,
            )
        )()

    def _two_operations(self) -> None:
        self._seq += 1
        for node in self.power.others:
            self.power.submit(node, [self.forge.rogue(self._session, self._seq)])

    def _one_backup(self) -> None:
        self.power.submit(self.some()[0], [self._next()])

    def _bad_signatures(self) -> None:
        good = self._next()
        for node in self.power.others:
            bad = replace(good, auth=self.forge.garbage(len(good.auth)))
            self.power.submit(node, [self.rng.choice((good, bad))])

    def _replay(self) -> None:
        if self._foreign:
            for node in self.some(2):
                self.power.submit(node, [self.rng.choice(self._foreign)])

    def _huge(self) -> None:
        for node in self.power.others:
            self.power.submit(node, [self.forge.rogue(self._session, HUGE)])

    def _sessions(self) -> None:
        for _ in range(10):
            self._session += 1
            self.power.submit(self.some()[0], [self.forge.rogue(self._session, 1)])
        self._seq = 1

    def _old_session(self) -> None:
        self.power.submit(self.some()[0], [self.forge.rogue(max(1, self._session - 1), self._seq + 1)])

    def _unknown_client(self) -> None:
        stranger = replace(self._next(), client=self.forge.garbage(16))
        self.power.submit(self.some()[0], [stranger])

    def _gap(self) -> None:
        self._seq += 1  # a number that never comes
        for node in self.power.others:
            self.power.submit(node, [self._next()])


class ForgedForwards(Attacker):
    """S-42: forwards that carry requests nobody signed, altered ones, and more than a client may have.
    Expected: dropped; no timer runs for them, so no correct primary is blamed."""

    name = "s42-forged-forwards"

    def __init__(self, power: Power) -> None:
        super().__init__(power)
        self._known: list[Request] = []

    def requests(self, requests: Sequence[Request]) -> Sequence[Request]:
        """See `Strategy`."""
        self._known = [*self._known, *requests][-20:]
        return requests

    def tick(self) -> None:
        """See `Strategy`."""
        if not self._known or not self.every(100):
            return
        self.did()
        found = self.rng.choice(self._known)
        false = tuple(
            self.rng.choice(
                (
                    replace(found, op=found.op + b"x"),
                    replace(found, seq=found.seq + 1),
                    replace(found, auth=self.forge.garbage(len(found.auth))),
                    replace(found, client=self.forge.garbage(16)),
                )
            )
            for _ in range(self.rng.choice((1, 20)))
        )
        self.power.broadcast(Forward(false))


class ForgedReplies(Attacker):
    """S-45: wrong results, equal ones from all f colluders; wrong heights, paths and certificates in
    proofs; refusals that nobody decided. Expected: correct clients accept none of it (I-14)."""

    name = "s45-forged-replies"

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        if self.rng.random() < 0.2 or isinstance(message, Welcome):
            return message
        self.did()
        match message:
            case Outcome():
                return self._outcome(message)
            case ProvenReceipt():
                return self._proof(message)
            case NoProof():
                return None
            case NotAdmitted():
                code = self.rng.choice(("unknown_client", "bad_signature", "too_large", "nonsense"))
                return NotAdmitted([(c, session, seq, code) for c, session, seq, _ in message.requests])
            case _:
                return message

    def _outcome(self, message: Outcome) -> Outcome | NotAdmitted | None:
        kind = self.rng.randrange(5)
        if kind == 0:
            code = self.rng.choice(("bad_signature", "out_of_window", "unknown_client"))
            return NotAdmitted([(r.client, r.session, r.seq, code) for r in message.receipts])
        if kind == 1:
            return None
        if kind == 2:
            return replace(message, height=message.height + 1)
        return replace(message, receipts=[self._receipt(receipt) for receipt in message.receipts])

    def _receipt(self, receipt: Receipt) -> Receipt:
        """The same lie from every colluder: it follows from the request alone."""
        wrong = sha256(b"lie" + receipt.request_digest).digest()
        status = OK if wrong[0] % 2 else 1 + wrong[1] % 5
        return replace(receipt, result=wrong[:8], status=status)

    def _proof(self, message: ProvenReceipt) -> ProvenReceipt:
        certificate, receipt = message.certificate, message.receipt
        wrong_header = replace(message.headers[0], receipts_root=self.forge.garbage())
        return self.rng.choice(
            (
                replace(message, receipt=replace(receipt, result=receipt.result + b"x")),
                replace(message, receipt=replace(receipt, status=1)),
                replace(message, path=[self.forge.garbage(), *message.path[1:]]),
                replace(message, index=message.index + 1, count=message.count + 1),
                replace(message, headers=[wrong_header, *message.headers[1:]]),
                replace(message, certificate=replace(certificate, votes=certificate.votes[:1])),
                replace(message, certificate=replace(certificate, height=certificate.height + 1)),
                replace(message, chain_id=self.forge.garbage()),
            )
        )


class WithheldReplies(Attacker):
    """S-44: answers no client, or only some. Expected: the other replies, or a proof, suffice."""

    name = "s44-withheld-replies"

    def reply(self, client: int, message: Any) -> Any:
        """See `Strategy`."""
        if isinstance(message, Welcome) or (client % 2 and self.rng.random() < 0.3):
            return message
        self.did()
        return None
