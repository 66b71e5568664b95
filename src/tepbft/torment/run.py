"""One run, from a healthy cluster to a healthy cluster: borrow, load, torment, heal, compare, give back."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tepbft.cli.cluster import Cluster, open_cluster, survey
from tepbft.cli.lease import lease_client
from tepbft.cli.verdict import HEALTHY
from tepbft.client.aio import Client
from tepbft.errors import TepbftError
from tepbft.node.status import NodeStatus
from tepbft.sim.linearizability import check
from tepbft.torment.borrowed import SUFFIX, alone, borrow, deaf, give_back, restart, stop, targets_of
from tepbft.torment.director import Director
from tepbft.torment.hands import Hands, raise_open_files
from tepbft.torment.ledgers import compare, read_ledger
from tepbft.torment.load import History, Load, now_us
from tepbft.torment.plan import KINDS, Schedule
from tepbft.torment.relays import Relays
from tepbft.torment.watch import Watch

SETTLE_S = 90.0
HEAL_TIMEOUT_S = 240.0
DRAIN_TIMEOUT_S = 90.0
AGREEMENT_TIMEOUT_S = 120.0
MEAN_PAUSE_S = 1.5
TICK_S = 0.25
MAX_CONFIGURATIONS = 5_000_000
THREADS = 32


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    minutes: float
    seed: int
    clients: int
    kinds: tuple[str, ...]


@dataclass
class Result:
    """What came of it; `record` is the last line."""

    options: Options
    operations: int = 0
    acknowledged: int = 0
    lost: int = 0
    twice: int = 0
    forked: bool = False
    linearizable: bool = False
    undecided: bool = False
    healed: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    halted: int = 0
    unavailable_ms: float = 0.0
    view_changes: int = 0
    blocks: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything held."""
        return self.lost == self.twice == 0 and not self.forked and self.linearizable and self.healed

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "lost": self.lost,
            "twice": self.twice,
            "forked": self.forked,
            "linearizable": self.linearizable,
            "undecided": self.undecided,
            "healed": self.healed,
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "blocks": self.blocks,
            "faults": self.faults,
            "halted": self.halted,
            "unavailable_ms": round(self.unavailable_ms, 1),
            "view_changes": self.view_changes,
            "seed": self.options.seed,
            "minutes": self.options.minutes,
            "problems": self.problems,
        }


@dataclass
class Course:
    """What one part of a run hands to the next."""

    history: History
    clients: list[bytes]
    first_height: int
    head: int


Notify = Callable[[float, str], None]
"""(seconds done, what is wrong right now)."""


def admit(cluster: Cluster, options: Options) -> None:
    """TepbftError unless this cluster can be tormented: up, healthy, all here, `kv`, enough clients."""
    root = str(cluster.layout.root)
    genesis = cluster.genesis
    if genesis.app != "kv":
        raise TepbftError(
            root, f"its application is {genesis.app!r}, and the load is for kv", "Make one: tepbft init DIR"
        )
    if len(genesis.members) < 3 or len(cluster.nodes) != len(genesis.members):
        raise TepbftError(
            root,
            f"it holds {len(cluster.nodes)} of {len(genesis.members)} nodes; all of at least 3 are needed",
            "Torment a cluster whose nodes are all on this machine.",
        )
    keys = len(list(cluster.layout.clients.glob("*.json")))
    if keys < options.clients:
        raise TepbftError(
            root,
            f"it has {keys} client keys, {options.clients} clients were asked for",
            "Ask for fewer: --clients",
        )
    for folder in cluster.nodes:
        if folder.layout.settings.with_name(folder.layout.settings.name + SUFFIX).exists():
            return  # an earlier run was killed: its relays are gone, so the cluster cannot be well
    verdict = survey(genesis)[1]
    if verdict.state != HEALTHY:
        raise TepbftError(
            root, f"it is not well to begin with ({verdict.text})", f"Start it: tepbft up {root}"
        )


def torment(cluster: Cluster, options: Options, notify: Notify, say: Callable[[str], None]) -> Result:
    """Torment a cluster and judge what came of it. It is up with its own settings afterwards."""
    result = Result(options)
    raise_open_files()
    with alone(cluster.layout):
        admit(cluster, options)
        if give_back(cluster.layout):
            say("An earlier run was cut short: its nodes get their own settings back.")
            cluster = open_cluster(cluster.layout.root)
            restart(cluster, SETTLE_S)
            admit(cluster, options)
        with _terminate_as_interrupt(), contextlib.ExitStack() as stack:
            names = [
                stack.enter_context(lease_client(cluster.layout.root, None)) for _ in range(options.clients)
            ]
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    course = runner.run(_course(cluster, options, names, result, notify, say))
                say("Comparing what the disks hold …")
                stop(cluster)
                _judge(cluster, course, result)
            finally:
                with deaf():
                    say("The nodes get their own settings back …")
                    _restore(cluster, result)
    return result


def _restore(cluster: Cluster, result: Result) -> None:
    """The cluster up again, with its own settings."""
    stop(cluster)
    give_back(cluster.layout)
    try:
        verdict = restart(cluster, SETTLE_S)
        problem = "" if verdict.state == HEALTHY else verdict.text
    except TepbftError as error:
        problem = str(error)
    if problem:
        result.healed = False
        result.problems.append(f"after the last restart: {problem}")


async def _course(
    cluster: Cluster,
    options: Options,
    names: Sequence[str],
    result: Result,
    notify: Notify,
    say: Callable[[str], None],
) -> Course:
    """Everything that needs the relays."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS))
    relays = Relays(targets_of(cluster), options.seed)
    await relays.start()
    try:
        borrow(cluster, relays.addresses_for)
        say("Restarting the nodes behind relays …")
        await asyncio.to_thread(restart, cluster, SETTLE_S)
        async with contextlib.AsyncExitStack() as stack:
            watch = await stack.enter_async_context(Watch(cluster.genesis.members))
            clients = [
                await stack.enter_async_context(
                    Client.open(cluster.layout.root, name, connect_timeout_s=SETTLE_S)
                )
                for name in names
            ]
            first = await _lowest(watch)
            load = Load(clients, options.seed, f"torment/{secrets.token_hex(6)}")
            director = Director(
                [Hands(folder) for folder in cluster.nodes],
                relays,
                watch,
                Schedule(options.seed, options.kinds, MEAN_PAUSE_S),
                say,
                min_config_gap=cluster.genesis.parameters.min_config_gap,
            )
            try:
                load.start()
                await _under_fire(director, load, options.minutes * 60, notify)
                head = await _calm_down(director, load, watch, result)
            finally:
                await director.end()
            return Course(load.history, [c.credentials.client for c in clients], first, head)
    finally:
        await relays.close()


async def _under_fire(director: Director, load: Load, seconds: float, notify: Notify) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    task = asyncio.create_task(director.torment(seconds))
    try:
        while not task.done():
            notify(min(seconds, loop.time() - started), director.describe())
            await asyncio.wait([task], timeout=TICK_S)
            error = load.failed()
            if error is not None:
                raise error
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _calm_down(director: Director, load: Load, watch: Watch, result: Result) -> int:
    """Heal under load (an admission may wait for blocks), then let the load end; the height reached."""
    result.healed = await director.heal(HEAL_TIMEOUT_S)
    result.unavailable_ms = load.history.longest_gap_ms(now_us())
    left = await load.stop(DRAIN_TIMEOUT_S)
    if left:
        result.healed = False
        result.problems.append(f"{left} operations had no outcome {DRAIN_TIMEOUT_S:.0f} s after the healing")
    elif not await load.read_all(DRAIN_TIMEOUT_S):
        result.healed = False
        result.problems.append("the last reads had no outcome")
    statuses = await _await_agreement(watch, result)
    result.faults = {kind: director.counts[kind] for kind in KINDS if director.counts[kind]}
    result.halted = director.halted
    result.problems += director.problems
    result.view_changes = director.view_changes
    return max((status.executed for status in statuses if status is not None), default=0)


async def _await_agreement(watch: Watch, result: Result) -> list[NodeStatus | None]:
    """Until all nodes report one head at one height, executed and stable."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + AGREEMENT_TIMEOUT_S
    while True:
        statuses = await watch.statuses()
        seen = {(s.executed, s.stable, s.head) if s is not None else None for s in statuses}
        only = next(iter(seen))
        if len(seen) == 1 and only is not None and only[0] == only[1]:
            return statuses
        if loop.time() >= deadline:
            told = ", ".join(
                f"node{node} {s.executed}/{s.stable} {s.head[:8]} {s.phase} view {s.view}" if s else "down"
                for node, s in enumerate(statuses)
            )
            result.healed = False
            result.problems.append(f"the nodes do not come to one head (executed/stable): {told}")
            return statuses
        await asyncio.sleep(0.25)


async def _lowest(watch: Watch) -> int:
    """The lowest height that a node has executed."""
    return min((status.executed for status in await watch.statuses() if status is not None), default=0)


def _judge(cluster: Cluster, course: Course, result: Result) -> None:
    """Disks and history. The nodes are stopped."""
    history = course.history
    ledgers = [
        read_ledger(folder.name, folder.layout, cluster.genesis, course.first_height, course.head)
        for folder in cluster.nodes
    ]
    findings = compare(ledgers, history, course.clients)
    result.operations = len(history.calls)
    result.acknowledged = history.returned
    result.lost, result.twice = findings.lost, findings.twice
    result.forked, result.blocks = findings.forked, findings.blocks
    result.problems += findings.problems
    result.problems += history.odd[:5]
    verdict = check(history.operations(), max_configurations=MAX_CONFIGURATIONS)
    result.linearizable, result.undecided = verdict.ok, verdict.undecided
    if not verdict.ok:
        result.problems.append(f"linearizability: {verdict.reason}")


@contextlib.contextmanager
def _terminate_as_interrupt() -> Any:
    """SIGTERM cleans up as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
