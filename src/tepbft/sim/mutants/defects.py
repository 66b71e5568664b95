"""The defects themselves, as changes of production code. One room per theme; names as in D3."""

from __future__ import annotations

from tepbft.client.session import Session
from tepbft.core import verification
from tepbft.core.events import Effects
from tepbft.execution import client_table, executor
from tepbft.mempool.pool import Mempool
from tepbft.mempool.queues import Queues
from tepbft.node.ledger import Ledger
from tepbft.node.node import Node
from tepbft.protocols.tep import (
    barrier,
    catch_up,
    checkpoints,
    evidence,
    new_view,
    ordering,
    recovery,
    state,
    view_change,
)
from tepbft.sim.component import Component
from tepbft.sim.host import SimHost
from tepbft.sim.mutants.planting import Change, edit, swap
from tepbft.trusted import hbusig, port, sealing

Changes = tuple[Change, ...]

# --- votes and quorums ------------------------------------------------------------------------

PRIM_VOTE_NOT_COUNTED: Changes = (
    edit(
        ordering.count_vote,
        (
            "    key = (view, digest)\n",
            "    if vote.node == s.cfg.primary(view):\n        return\n    key = (view, digest)\n",
        ),
    ),
)
QUORUM_MINUS_ONE: Changes = (
    edit(ordering.count_vote, ("len(voters) >= s.quorums.commit", "len(voters) >= s.quorums.commit - 1")),
    edit(
        verification.check_commit_certificate,
        ("len(certificate.votes) < cfg.quorums.commit", "len(certificate.votes) < cfg.quorums.commit - 1"),
    ),
)
COMMIT_QUORUM_F_PLUS_1: Changes = (
    edit(ordering.count_vote, ("len(voters) >= s.quorums.commit", "len(voters) >= s.quorums.certificate")),
    edit(
        verification.check_commit_certificate,
        ("len(certificate.votes) < cfg.quorums.commit", "len(certificate.votes) < cfg.quorums.certificate"),
    ),
)
COUNT_DUP_VOTERS: Changes = (
    edit(ordering.count_vote, ("voters.setdefault(vote.node, vote)", "voters[len(voters)] = vote")),
    edit(ordering.on_commit, ("if message.sender in slot.votes.get(key, ()):", "if False:")),
    edit(
        verification._distinct_members,
        ("len(nodes) == len(votes) and ", ""),
    ),
)
VOTE_KEYED_BY_SIGNATURE: Changes = (
    edit(ordering.count_vote, ("key = (view, digest)", "key = (view, digest + vote.signature)")),
)
UNVERIFIED_COMMIT: Changes = (
    edit(
        ordering.on_commit,
        (
            "if not s.verifier.ui(s.cfg, message.sender, message.seq, COMMIT, body, message.signature):",
            "if False:",
        ),
    ),
)
UI_WITHOUT_VIEW: Changes = (edit(port.order_body, ("_TWO.pack(view, height)", "_TWO.pack(0, height)")),)
UI_WITHOUT_KIND: Changes = (
    edit(port.preimage, ("_SEQ_STMT.pack(seq, statement)", "_SEQ_STMT.pack(seq, 0)")),
)
VOTE_WITHOUT_BODY: Changes = (
    edit(
        ordering.try_accept,
        (
            "            s.want(head.height, head.digest, sender)\n"
            "            return\n"
            "        block = empty\n",
            "            s.want(head.height, head.digest, sender)\n"
            "            slot.waiting = None\n"
            "            slot.prepares[head.view] = head\n"
            "            s.out.persist.append(PrepareRecord(s.cfg.number, head))\n"
            "            slot.ordered_view = head.view\n"
            "            s.certify(Order(COMMIT, head.view, head.height, head.digest))\n"
            "            return\n"
            "        block = empty\n",
        ),
    ),
)
VOTE_ABOVE_WINDOW: Changes = (
    edit(
        ordering._in_window,
        ("if height > s.stable_height + s.window:", "if height > s.stable_height + 2 * s.window:"),
    ),
    edit(
        ordering.may_propose,
        ("s.next_height <= s.stable_height + s.window", "s.next_height <= s.stable_height + 2 * s.window"),
    ),
)
PERSIST_AFTER_CERTIFY: Changes = (
    edit(ordering._accept, ("    s.out.persist.append(PrepareRecord(s.cfg.number, head))\n", "")),
    edit(
        ordering._send_commit,
        (
            "    body = slot.bodies",
            "    s.out.persist.append(PrepareRecord(s.cfg.number, head))\n    body = slot.bodies",
        ),
    ),
)
OUTCOMES_AFTER_CERTIFY: Changes = (
    edit(Effects.must_force, ("if self.certify or self.store:", "if self.store:")),
)
COMPONENT_ASKED_EARLY: Changes = (
    edit(SimHost._append, ("(effects.store or self.world.config.component_outlives_host)", "effects.store")),
)
SENT_BEFORE_FORCED: Changes = (
    edit(SimHost._certify, ("    self.disk.force()\n    self._backlog", "    self._backlog")),
)
LAGGARD_HOLDS_BODIES: Changes = (
    edit(checkpoints.after_execution, ("            _release(s, header.height)\n", "            pass\n")),
)
PARENT_IN_PROPOSAL: Changes = (
    edit(
        Node._seal,
        (
            "        digest = block.digest(self.chain_id)\n        self.ledger.proposed",
            "        below = state.slots.get(block.height - 1)\n"
            "        named = state.head.block_digest[0] if state.executed == block.height - 1 else 0\n"
            "        if below is not None:\n"
            "            for head in below.prepares.values():\n"
            "                named = head.digest[0] if head.view == state.view else named\n"
            "        block = Block(block.cfg, block.height, block.kind, block.ts & ~255 | named,\n"
            "                      block.count, block.body)\n"
            "        digest = block.digest(self.chain_id)\n        self.ledger.proposed",
        ),
    ),
    edit(
        ordering.try_accept,
        (
            "    try:\n        s.host.check_block",
            "    below = s.slots.get(head.height - 1)\n"
            "    parent = s.head.block_digest if s.executed == head.height - 1 else None\n"
            "    if below is not None and s.view in below.prepares:\n"
            "        parent = below.prepares[s.view].digest\n"
            "    known = parent is not None and block.kind == 0 and head.height > 1\n"
            "    if known and parent[0] != block.ts & 255:\n"
            "        slot.waiting = None\n"
            '        raise PeerFault("wrong_parent", f"height {head.height}")\n'
            "    try:\n        s.host.check_block",
        ),
    ),
)

# --- the trusted component --------------------------------------------------------------------

LATE: Changes = (edit(hbusig.HbUsig._order, ("if view < self._view:", "if False:")),)
DUPNV: Changes = (edit(hbusig.HbUsig._install, ("if last is not None and view <= last.place:", "if False:")),)
HIDDEN_REGISTERS: Changes = (
    edit(
        hbusig.HbUsig._depart,
        ("in sorted(self._registers.items())", "in sorted(self._registers.items())[1:]"),
    ),
)
RESTART_SAME_ID_EMPTY_TC: Changes = (
    edit(Component.restart_cold, ("self.generation += 1", "self.generation += 0")),
)
SEAL_WITHOUT_INCREMENT: Changes = (edit(sealing.restore, ("    platform.advance()\n", "")),)

# --- view changes -----------------------------------------------------------------------------

TRUNC: Changes = (
    edit(
        checkpoints.on_signed,
        (
            "    if request.height <= s.stable_height:\n",
            "    s.checkpoint_seq = answer.seq\n    if request.height <= s.stable_height:\n",
        ),
    ),
    edit(
        view_change._evidence,
        (
            "        if head is not None and head.signature and",
            "        own = s.slots[height].own\n"
            '        said = getattr(own, "seq", head.seq if head is not None else 0)\n'
            '        if said <= getattr(s, "checkpoint_seq", 0):\n'
            "            continue\n"
            "        if head is not None and head.signature and",
        ),
    ),
    edit(evidence.check_view_change, ("if ui.lock_view == view and any(", "if False and any(")),
)
NOACK: Changes = (
    edit(new_view._count_acks, ("len(acks) >= s.quorums.certificate", "acks")),
    edit(
        evidence.check_new_view_certificate,
        (" or len(nodes) < cfg.quorums.certificate", ""),
    ),
)
OMIT: Changes = (edit(evidence.check_view_change, ("if ui.lock_view == view and any(", "if False and any(")),)
FLOOR: Changes = (edit(evidence.check_view_change, ("if ui.floor > checkpoint.height:", "if False:")),)
NOBASECP: Changes = (
    edit(
        evidence.check_view_change,
        ("if checkpoint.height < (certified.base if certified else cfg.floor):", "if False:"),
    ),
)
LOWVIEW: Changes = (edit(evidence.merge, ("entry[0] > known[0]", "entry[0] < known[0]")),)
GAP_NOT_FILLED: Changes = (
    edit(
        evidence.merge,
        ("null_block(setting.cfg.number, height).digest(setting.chain_id)", "bytes(32)"),
    ),
    edit(
        view_change.obtain,
        (
            "    block = s.body(height, digest)\n",
            "    if not any(digest):\n"
            "        return null_block(s.cfg.number, height)\n"
            "    block = s.body(height, digest)\n",
        ),
    ),
    edit(
        new_view._propose_again,
        ("if height > s.stable_height:", "if height > s.stable_height and any(digest):"),
    ),
)
NO_VC_RETRANSMIT: Changes = (
    edit(view_change.retransmit, ("if s.active or ", "if True or ")),
    edit(
        view_change.complain,
        (
            "        if s.now - own[1] < s.options.t_retransmit_ms:\n"
            "            return\n"
            "        request = own[0]\n",
            "        s.requests[s.me] = (own[0], s.now)\n        return\n",
        ),
    ),
)
FIXED_T_REQ: Changes = (edit(view_change.timeout_ms, ("first_ms << min(s.backoff, 16)", "first_ms")),)
TIMER_STOPS_AT_ACCEPT: Changes = (
    edit(view_change.find_complaint, ("if height > s.executed and slot.accepted_ms >= 0:", "if False:")),
    edit(
        Queues.oldest_pending_ms,
        (
            "[entry.first_seen_ms for entry in self._front() if entry.alive]",
            "[e.first_seen_ms for group in self._pending for e in group if e.alive and not e.in_flight]",
        ),
    ),
    edit(
        Mempool.oldest_pending_ms,
        ("self._arrivals.oldest_ms()", "self._arrivals.oldest_waiting_ms()"),
        ("found += [block.first_seen_ms for block in self._blocks.values()]\n", "pass\n"),
    ),
)
GC_BY_VIEW_CHANGE: Changes = (
    edit(
        view_change.leave,
        (
            "    s.own_departure = None\n",
            "    s.own_departure = None\n    for slot in s.slots.values():\n        slot.prepares.clear()\n",
        ),
    ),
)

# --- checkpoints, catching up -----------------------------------------------------------------

CHECKPOINT_MATCH_INCLUDES_UI: Changes = (
    edit(
        checkpoints._count,
        (
            "by_digest.setdefault(message.digest, {})",
            "by_digest.setdefault(message.digest + message.signature, {})",
        ),
    ),
)
GC_BEFORE_STABLE: Changes = (
    edit(
        checkpoints.after_execution,
        (
            "    s.headers[header.height] = header\n",
            "    s.headers[header.height] = header\n    s.certify(AdvanceFloor(header.height))\n",
        ),
    ),
)
NO_COMMIT_PUSH: Changes = (
    edit(catch_up.serve_final, ("    budget = BATCH_BYTES\n", "    return\n    budget = BATCH_BYTES\n")),
)
BARRIER_WITHOUT_STABLE: Changes = (edit(barrier.pass_barrier, (" or s.stable_height < s.barrier:", ":")),)

# --- clients and execution --------------------------------------------------------------------

VSEQ_LAST_ONLY: Changes = (
    edit(
        client_table.ClientTable.take_up,
        ("    entry.bitmap = bitmap\n", "    entry.low, entry.bitmap = max(entry.low, seq), 0\n"),
    ),
)
VSEQ_AT_RECEPTION: Changes = (
    edit(
        Node._admit,
        (
            "    if fresh:\n        if connection is not None:\n",
            "    for request in fresh:\n"
            "        table = self.ledger.executor._table\n"
            "        entry = table._entries.get(request.client) or table._load(request.client)\n"
            "        if request.session > entry.session:\n"
            "            entry.session, entry.low, entry.bitmap = request.session, 0, 0\n"
            "    if fresh:\n        if connection is not None:\n",
        ),
    ),
)
CLIENTS_NOT_IN_CHECKPOINT: Changes = (swap(executor, "PREFIXES", (b"a", b"s")),)
UNVERIFIED_CLIENT_SIGNATURE: Changes = (
    edit(
        Node._admit,
        ("bad = self._wrongly_signed(fresh, digests, in_runs)\n", "bad = []\n"),
    ),
    edit(Ledger._check_requests, ("if unverified:", "if False:")),
)
WALL_CLOCK_IN_EXECUTION: Changes = (
    edit(
        Ledger.execute,
        (
            "    found = self._decoded.pop(digest, None)\n",
            "    block = Block(block.cfg, block.height, block.kind, self.wall_ms, block.count, block.body)\n"
            "    found = self._decoded.pop(digest, None)\n",
        ),
    ),
)
EXECUTED_NOT_RECORDED: Changes = (
    edit(
        client_table.ClientTable.take_up,
        ("    bitmap |= 1 << offset\n", ""),
    ),
)
ONE_REPLY_IS_ENOUGH: Changes = (edit(Session.__init__, ("self._needed = f + 1", "self._needed = 1")),)
CHECKPOINT_QUORUM_MINUS_ONE: Changes = (
    edit(
        checkpoints._count,
        ("len(voters) >= s.quorums.certificate", "len(voters) >= s.quorums.certificate - 1"),
    ),
    edit(
        verification.check_checkpoint_certificate,
        ("< cfg.quorums.certificate", "< cfg.quorums.certificate - 1"),
    ),
)
MERGE_BY_ARRIVAL: Changes = (
    edit(
        evidence.merge,
        ("if known is None or entry[0] > known[0]:", "if known is None:"),
        ("elif entry[0] == known[0] and entry[1] != known[1]:", "elif False:"),
    ),
)
UNBOUNDED_POSTPONING: Changes = (
    edit(state.State.postpone, ("if len(peer.future) >= 2 * self.window + 8:", "if False:")),
)
NO_CATCH_UP: Changes = (
    edit(catch_up.pull, ("    if s.transfer is not None:\n        return\n", "    return\n")),
    edit(
        catch_up._push_to,
        ("    status = s.peers[node].status", "    return\n    status = s.peers[node].status"),
    ),
)
RECOVERY_FORGETS_EVIDENCE: Changes = (
    edit(recovery._load_prepare, ("elif check_prepare(s.cfg, head, s.verifier):", "elif False:")),
)
