"""What a power failure of all nodes leaves of blocks that clients were told of (ADR 0022)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tepbft.cli.salvage import Salvage, Salvaged
from tepbft.core.block import Block, null_block
from tepbft.errors import TepbftError
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import ChainStore
from unit.audit.chain_builder import ChainBuilder, Counter


class Chain:
    """A chain with one proven block, which adds 1, and stores as the lights went out."""

    def __init__(self, scheme: str = "ed25519") -> None:
        self.builder = ChainBuilder(scheme)
        self.stores = [MemoryStore() for _ in range(3)]
        requests = [self.builder.request(b"1")]
        block = self.builder.normal(*requests)
        prepare, commit = self.builder.certify(block)
        for store in self.stores:
            store.append([self.builder.propose(block)[0], prepare, commit])

    def block(self, operation: bytes, height: int = 2, genuine: bool = True) -> Block:
        """The next block, or a later one."""
        request = self.builder.request(operation)
        if not genuine:
            request = type(request)(request.client, request.session, request.seq, b"900", request.auth)
        made = self.builder.normal(request)
        return Block(made.cfg, height, made.kind, made.ts, made.count, made.body)

    def salvage(self) -> Salvaged:
        """What the stores give."""
        numbered: dict[int, ChainStore] = dict(enumerate(self.stores))
        return Salvage(self.builder.genesis, numbered, Counter).run()


def outcome(chain: Chain) -> tuple[int, int, bytes | None]:
    """(height, proven height, what the operations come to) of a salvage with no problems."""
    found = chain.salvage()
    assert found.agreeing == (0, 1, 2) and not found.problems
    total = [line for line in found.chunks if b"atotal" in line]
    return found.height, found.proven_height, total[0] if total else None


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_a_block_that_one_store_shows_a_vote_for_goes_on(holder: int) -> None:
    """n - f votes decided it, perhaps: then one correct node has its PREPARE on disk, perhaps one alone."""
    chain = Chain()
    chain.stores[holder].append(chain.builder.propose(chain.block(b"40")))
    height, proven, total = outcome(chain)
    assert (height, proven) == (2, 1) and total is not None and b"41" in total


def test_several_of_them_go_on_up_to_the_first_gap() -> None:
    chain = Chain()
    for height, store in ((2, 0), (3, 1), (5, 2)):
        chain.stores[store].append(chain.builder.propose(chain.block(b"10", height)))
    assert outcome(chain)[0] == 3


def test_what_its_primary_was_about_to_sign_goes_on_from_its_own_store_only() -> None:
    """It may have been the only correct voter. What others say that it was about to sign proves nothing."""
    chain = Chain()
    assert chain.builder.cfg.primary(0) == 0
    draft = chain.builder.draft(chain.block(b"40"))
    chain.stores[1].append(draft)
    chain.stores[2].append(draft)
    assert outcome(chain)[:2] == (1, 1)
    chain.stores[0].append(draft)
    assert outcome(chain)[:2] == (2, 1)


def test_what_was_signed_counts_before_what_was_not() -> None:
    """A lying primary shows another draft in its store than it signed."""
    chain = Chain()
    chain.stores[0].append(chain.builder.draft(chain.block(b"70")))
    chain.stores[2].append(chain.builder.propose(chain.block(b"40")))
    total = outcome(chain)[2]
    assert total is not None and b"41" in total


def test_a_block_with_requests_that_no_client_signed_does_not() -> None:
    """No correct node voted for it, whatever the primary signed."""
    chain = Chain()
    records = chain.builder.propose(chain.block(b"40", genuine=False))
    for store in chain.stores:
        store.append(records)
    assert outcome(chain)[:2] == (1, 1)


def test_a_proposal_without_its_body_does_not() -> None:
    """Bodies are forced before any vote: nobody correct voted for it."""
    chain = Chain()
    chain.stores[1].append(chain.builder.propose(chain.block(b"40"))[1:])
    assert outcome(chain)[:2] == (1, 1)


def test_a_proposal_with_a_wrong_signature_does_not() -> None:
    chain = Chain()
    body, prepare = chain.builder.propose(chain.block(b"40"))
    other = chain.builder.propose(chain.block(b"50", height=3))[1]
    head = type(prepare.prepare)(0, 2, prepare.prepare.digest, prepare.prepare.seq, other.prepare.signature)
    chain.stores[1].append([body, type(prepare)(0, head)])
    assert outcome(chain)[:2] == (1, 1)


def test_a_null_block_needs_no_body() -> None:
    chain = Chain()
    chain.stores[1].append(chain.builder.propose(null_block(0, 2))[1:])
    chain.stores[1].append(chain.builder.propose(chain.block(b"40", height=3)))
    assert outcome(chain)[:2] == (3, 1)


def test_a_change_of_configuration_does_not_go_on() -> None:
    """Nobody is told of it before its checkpoint is stable, which is forced."""
    chain = Chain()
    change = chain.builder.replacement(2)
    block = Block(change.cfg, 2, change.kind, change.ts, change.count, change.body)
    chain.stores[1].append(chain.builder.propose(block))
    assert outcome(chain)[:2] == (1, 1)


def test_of_a_certified_view_only_its_own_proposals_count() -> None:
    """What an older view proposed at a height that the new view is free at was not decided."""
    chain = Chain()
    old, new = chain.block(b"40"), chain.block(b"60")
    first = chain.builder.request(b"1", seq=1)
    chain.stores[0].append(chain.builder.propose(old))
    chain.stores[1].append([chain.builder.new_view(1, chain.builder.normal(first))])
    assert outcome(chain)[:2] == (1, 1)
    chain.stores[2].append(chain.builder.propose(new, view=1))
    height, _, total = outcome(chain)
    assert height == 2 and total is not None and b"61" in total


def test_what_a_certified_view_proposes_again_goes_on() -> None:
    """A-53: it may have been decided before; its acknowledgements promised the bodies."""
    chain = Chain()
    again, other = chain.block(b"40"), chain.block(b"60")
    first = chain.builder.normal(chain.builder.request(b"1", seq=1))
    body, _ = chain.builder.draft(again)
    chain.stores[2].append([body])
    chain.stores[0].append(chain.builder.propose(other))
    chain.stores[1].append([chain.builder.new_view(1, first, again)])
    height, _, total = outcome(chain)
    assert height == 2 and total is not None and b"41" in total


def test_a_view_without_a_valid_certificate_counts_for_nothing() -> None:
    """A Byzantine store must not displace what was decided by a view that never was."""
    chain = Chain()
    record = chain.builder.new_view(1)
    chain.stores[0].append(chain.builder.propose(chain.block(b"40")))
    forged = type(record)(record.slot, record.cfg, record.view, record.data[:-40] + bytes(40))
    chain.stores[1].append([forged])
    chain.stores[2].append([type(record)(record.slot, 0, 9, b"\xc1")])
    assert outcome(chain)[:2] == (2, 1)


def test_two_blocks_that_a_component_signed_stop_the_recovery() -> None:
    """A broken component: no program can tell which of them was decided."""
    chain = Chain()
    chain.stores[0].append(chain.builder.propose(chain.block(b"40")))
    chain.builder._components[0]._registers.clear()
    chain.stores[1].append(chain.builder.propose(chain.block(b"60")))
    with pytest.raises(TepbftError, match="signed two blocks"):
        chain.salvage()


@pytest.mark.parametrize("holders", [[0], [0, 1], [1, 2]])
def test_macs_cannot_be_checked_so_f_plus_1_stores_must_have_accepted_a_block(holders: Sequence[int]) -> None:
    """One of them is a correct node's. With fewer the operator is told."""
    chain = Chain("mac")
    records = chain.builder.propose(chain.block(b"40"))
    for holder in holders:
        chain.stores[holder].append(records)
    found = chain.salvage()
    if len(holders) > 1:
        assert (found.height, found.proven_height) == (2, 1) and not found.problems
    else:
        assert found.height == 1 and "may have been decided" in found.problems[0]


def test_where_nothing_is_authenticated_there_is_nothing_to_check() -> None:
    chain = Chain("none")
    chain.stores[2].append(chain.builder.propose(chain.block(b"40")))
    assert outcome(chain)[:2] == (2, 1)
