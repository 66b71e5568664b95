"""The small language of the transcripts: commands, and what came of them below `----`.

Commands stand one to a line, or several with `;` between them; `#` begins a comment. A
paragraph ends at an empty line.

cluster n=3 window=4            make the cluster; further words are parameters of the genesis
request x                       the client numbers a request (put x); x=1 writes 1; nothing is sent
send x [to=A,B]                 the client sends it, again if need be
submit x y [to=A,B]             both at once: requests in one go
run 300 [until x]               let so many milliseconds pass, or fewer: until x has its outcome
cut A     cut A->B     cut A,B - C,D     heal          the network
drop Checkpoint [from=B] [to=A] [above=1]              messages of one type
crash A   start A   lose-component A   lose-disk A   readmit A
clone A                         a second component for A's host, called A2
tc A prepare x height=1 view=0 to=B,C       what a Byzantine host signs and sends, by hand
tc A commit height=1 view=0 to=B
tc A depart view=1 [claim=1] [list=1] to=B  claim: pretend that view to have been certified
tc A newview view=1 from=A,B [with=x] to=C
show                            where every node stands
expect agree | executed A,B = 2 | height 1 = x on A,B | outcome x | phase A = silent | no fork
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from support import byzantine
from support.story import Story, letter, number
from tepbft.core.block import Receipt, Request
from tepbft.core.certificates import CheckpointCertificate, PrepareHead, Vote
from tepbft.execution.loader import load_operations
from tepbft.protocols.tep.evidence import check_view_change, merge
from tepbft.protocols.tep.messages import (
    Checkpoint,
    Departure,
    Message,
    NewViewCertificate,
    Prepare,
    ReqVc,
    ViewChange,
    departure_digest,
)
from tepbft.storage.memory import MemoryStore
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import Depart, DepartureUi

SEPARATOR = "----"


class Unclear(Exception):
    """A line of a transcript that says nothing this language knows."""


def _split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Plain words, and words of the form name=value (a request such as x=1 is a plain one)."""
    named = ("to", "from", "above", "height", "view", "claim", "list", "with")
    options = {
        key: value for key, _, value in (word.partition("=") for word in words) if key in named and value
    }
    return [word for word in words if word.partition("=")[0] not in options], options


def _nodes(text: str) -> list[int]:
    return [number(name) for name in text.split(",")]


class Transcript:
    """Carries out commands on a `Story`."""

    def __init__(self) -> None:
        self._story: Story | None = None
        self.requests: dict[str, Request] = {}
        self._spares: dict[str, HbUsig] = {}
        self._heard: set[str] = set()
        self._quiet = False

    @property
    def story(self) -> Story:
        """The cluster; Unclear before there is one."""
        if self._story is None:
            raise Unclear("the first command is `cluster`")
        return self._story

    def carry_out(self, line: str) -> None:
        """One command; Unclear if it is none, AssertionError if an expectation is not met."""
        name, *words = line.split()
        command: Callable[[list[str]], None] | None = getattr(self, "do_" + name.replace("-", "_"), None)
        if command is None:
            raise Unclear(line)
        try:
            command(words)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Unclear(f"{line} ({error})") from error

    def output(self) -> list[str]:
        """What happened since the last call."""
        for label, request in self.requests.items():
            found = self.story.clients[0].outcome(request)
            if found is not None and label not in self._heard:
                self._heard.add(label)
                self.story.tell("the client", f"has the outcome of {label}, at height {found[0]}")
        lines = self.story.paragraph()
        quiet, self._quiet = self._quiet, False
        return ["…"] if quiet else lines

    # --- the cluster and its client -----------------------------------------------------------

    def do_cluster(self, words: list[str]) -> None:
        parameters = {key: int(value) for key, _, value in (word.partition("=") for word in words)}
        self._story = Story(parameters.pop("n"), clients=1, **parameters)

    def make(self, label: str) -> Request:
        """The request of that name; numbered when it is first mentioned."""
        if label not in self.requests:
            key, _, value = label.partition("=")
            request = self.story.clients[0].make(load_operations("kv").parse(["put", key, value or "v"]))
            self.requests[label] = request
            place = (request.client, request.session, request.seq, request.op)
            self.story.labels[place] = label
        return self.requests[label]

    def do_request(self, words: list[str]) -> None:
        for label in words:
            self.make(label)

    def do_send(self, words: list[str]) -> None:
        labels, options = _split(words)
        to = _nodes(options["to"]) if "to" in options else None
        self.story.clients[0].send([self.make(label) for label in labels], to)

    do_submit = do_send

    def do_hear(self, words: list[str]) -> None:
        client, nodes = self.story.clients[0], _nodes(words[0])
        plain = client.heard

        def heard(node: int, height: int, receipts: Sequence[Receipt]) -> None:
            if node in nodes:
                plain(node, height, receipts)

        client.heard = heard  # type: ignore[method-assign]

    def do_run(self, words: list[str]) -> None:
        client = self.story.clients[0]
        until = client.done([self.make(label) for label in words[2:]]) if words[1:2] == ["until"] else None
        if not self.story.run(int(words[0]), until) and until is not None:
            raise AssertionError(f"no outcome within {words[0]} ms of virtual time")

    # --- faults -------------------------------------------------------------------------------

    def do_cut(self, words: list[str]) -> None:
        text = "".join(words)
        if "->" in text:
            source, _, target = text.partition("->")
            a, b = _nodes(source), _nodes(target)
            self.story.filters.append(lambda s, t, m: not (s in a and t in b))
        elif "-" in text:
            left, _, right = text.partition("-")
            a, b = _nodes(left), _nodes(right)
            self.story.filters.append(lambda s, t, m: not ((s in a and t in b) or (s in b and t in a)))
        else:
            self.story.isolate(*_nodes(text))

    def do_heal(self, words: list[str]) -> None:
        self.story.filters.clear()

    def do_drop(self, words: list[str]) -> None:
        (kind,), options = _split(words)
        sources = _nodes(options["from"]) if "from" in options else None
        targets = _nodes(options["to"]) if "to" in options else None
        above = int(options.get("above", -1))

        def keep(sender: int, to: int, message: Message) -> bool:
            matches = type(message).__name__ == kind
            matches = (
                matches and (sources is None or sender in sources) and (targets is None or to in targets)
            )
            return not (matches and getattr(message, "height", above + 1) > above)

        self.story.filters.append(keep)

    def do_crash(self, words: list[str]) -> None:
        for node in _nodes(words[0]):
            self.story.crash(node)

    def do_start(self, words: list[str]) -> None:
        for node in _nodes(words[0]):
            self.story.start(node)

    def do_lose_component(self, words: list[str]) -> None:
        node = number(words[0])
        self.story.lose_component(node)
        self.story.listen(words[0], self.story.hosts[node].tc)

    def do_lose_disk(self, words: list[str]) -> None:
        self.story.hosts[number(words[0])].store = MemoryStore()

    def do_readmit(self, words: list[str]) -> None:
        self.story.readmit(number(words[0]))

    # --- a Byzantine host ---------------------------------------------------------------------

    def do_clone(self, words: list[str]) -> None:
        story, node = self.story, number(words[0])
        spare = HbUsig.fresh()
        cfg = story.genesis.configuration()
        spare.provision(story.chain_id, node, 0, cfg.digest(), cfg.floor, story.genesis.parameters.window)
        self._spares[f"{words[0]}2"] = spare
        story.listen(f"{words[0]}2", spare)

    def do_tc(self, words: list[str]) -> None:
        (who, what, *labels), options = _split(words)
        host = self.story.hosts[number(who[0])]
        own, host.tc = host.tc, self._spares.get(who, host.tc)
        try:
            message = getattr(self, "_tc_" + what)(host.number, labels, options)
        except AssertionError:
            return  # its component refused, and the story says so
        finally:
            host.tc = own
        self.story.wire.append((host.number, host.number, message))  # it may quote itself later
        for to in _nodes(options["to"]) if "to" in options else ():
            self.story.post(host.number, to, message)

    def _tc_prepare(self, host: int, labels: list[str], options: dict[str, str]) -> Message:
        requests = [self.make(label) for label in labels]
        block = byzantine.block_of(self.story, int(options["height"]), *requests)
        self.story.learn(block)
        return byzantine.prepare(self.story, host, int(options["view"]), block)

    def _seen(self, kind: type) -> list[Any]:
        return [message for _, _, message in self.story.wire if isinstance(message, kind)]

    def _heads(self, view: int, heights: str) -> list[PrepareHead]:
        wanted = [int(height) for height in heights.split(",") if height]
        found = {m.head.height: m.head for m in self._seen(Prepare) if m.head.view == view}
        return [found[height] for height in wanted]

    def _tc_commit(self, host: int, labels: list[str], options: dict[str, str]) -> Message:
        (head,) = self._heads(int(options["view"]), options["height"])
        return byzantine.commit(self.story, host, Prepare(0, head, None))

    def _base(self) -> CheckpointCertificate:
        """The highest checkpoint that f+1 nodes were seen to sign."""
        story, best = self.story, byzantine.floor(self.story)
        votes: dict[tuple[int, bytes], dict[int, Vote]] = {}
        for m in self._seen(Checkpoint):
            voters = votes.setdefault((m.height, m.digest), {})
            voters[m.sender] = Vote(m.sender, m.seq, m.signature)
            if len(voters) >= story.genesis.configuration().quorums.certificate and m.height > best.height:
                signed = tuple(voters[node] for node in sorted(voters))
                best = CheckpointCertificate(0, m.height, m.digest, signed)
        return best

    def _tc_depart(self, host: int, labels: list[str], options: dict[str, str]) -> Message:
        story, to = self.story, int(options["view"])
        wishes = {m.sender: m for m in self._seen(ReqVc) if m.target >= to}
        wishes[host] = byzantine.req_vc(story, host, to)
        needed = story.genesis.configuration().quorums.certificate
        trigger = tuple(wishes[node] for node in sorted(wishes)[:needed])
        claim = int(options.get("claim", 0))
        base = self._base()
        certified = NewViewCertificate(0, claim, base.height, base, (), ()) if claim else None
        content = Departure(base, certified, tuple(self._heads(claim, options.get("list", ""))), trigger)
        ui = story.hosts[host].tc.call(Depart(to, departure_digest(content)))
        assert isinstance(ui, DepartureUi)
        return ViewChange(0, host, to, content, ui)

    def _tc_newview(self, host: int, labels: list[str], options: dict[str, str]) -> Message:
        story, view = self.story, int(options["view"])
        left = {m.sender: m for m in self._seen(ViewChange) if m.to == view}
        changes = [left[node] for node in _nodes(options["from"])]
        setting = next(h.node.state.setting for h in story.hosts if h.node)
        base, nvc = merge(setting, [(m, check_view_change(setting, m, view)) for m in changes])
        return byzantine.new_view(story, host, view, changes, base, nvc)

    # --- looking ------------------------------------------------------------------------------

    def do_quietly(self, words: list[str]) -> None:
        self._quiet = True

    def do_show(self, words: list[str]) -> None:
        for host in self.story.hosts:
            if host.node is None:
                self.story.told.append((letter(host.number), "is down"))
                continue
            s = host.node.state
            phase, stable = host.node.replica.phase(), s.stable_height
            text = f"is {phase} in view {s.view}, executed {s.executed}, stable {stable}"
            self.story.told.append((letter(host.number), text))

    def do_expect(self, words: list[str]) -> None:
        story = self.story
        match words:
            case ["agree"]:
                assert story.agree(), "the nodes' heads differ"
            case ["no", "fork"]:
                story.check_prefixes()
            case ["executed", nodes, "=", height]:
                found = story.executed(*_nodes(nodes))
                assert found == [int(height)] * len(found), f"executed {found}"
            case ["height", height, "=", name, "on", nodes]:
                for node in _nodes(nodes):
                    stored = story.hosts[node].store.block(int(height))
                    found_name = story.name(stored.certificate.digest) if stored else "nothing"
                    assert found_name.strip("[]") == name, f"{letter(node)} has {found_name}"
            case ["outcome", label]:
                assert story.clients[0].outcome(self.make(label)) is not None, f"no outcome of {label}"
            case ["no", "outcome", label]:
                assert story.clients[0].outcome(self.make(label)) is None, f"{label} has an outcome"
            case ["phase", node, "=", phase]:
                actual = story.node(number(node)).replica.phase()
                assert actual == phase, f"{node} is {actual}"
            case _:
                raise Unclear("expect " + " ".join(words))


def perform(text: str) -> str:
    """The transcript that `text` should be: its commands and comments, each with what really happens."""
    transcript = Transcript()
    done: list[str] = []
    for paragraph in text.rstrip("\n").split("\n\n"):
        lines = paragraph.split("\n")
        commands = lines[: lines.index(SEPARATOR)] if SEPARATOR in lines else lines
        for line in commands:
            for command in line.partition("#")[0].split(";"):
                if command.strip():
                    transcript.carry_out(command.strip())
        if any(line.partition("#")[0].strip() for line in commands):
            commands = [*commands, SEPARATOR, *transcript.output()]
        done.append("\n".join(commands))
    return "\n\n".join(done) + "\n"
