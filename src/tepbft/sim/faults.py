"""Faults, drawn step by step: at most f hosts are faulty at any time.

Faulty are: Byzantine hosts, hosts whose process is down or stuck, hosts whose component
is not a member (yet, or again), and hosts whose disk was replaced. A blackout is the
exception: every process dies at once, but disks and components stay, which must cost
nothing but time. Half of them come just as a client has got its outcome.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tepbft.types import Millis, NodeId

if TYPE_CHECKING:
    from tepbft.sim.host import SimHost
    from tepbft.sim.world import World

TRAPS = (
    "Order", "Depart", "Install", "SignCheckpoint", "EnterView", "AdvanceFloor", "BeginConfig",
    "Prepare", "Commit", "Checkpoint", "ViewChange", "NewView", "NvAck", "NewViewCertificate", "Body",
    "Final", "InstallState", "SaveSnapshot", "ReplaceState", "BodyRecord", "PrepareRecord", "CommitRecord",
    "StableRecord", "ViewRecord", "ConfigRecord", "HeaderRecord",
)  # fmt: skip
"""Effects at which a process may die: requests to the component, messages, store effects, records."""
POWER_FAILURES = 0.4
"""Share of crashes that are a power failure, in worlds where both happen."""
FAULTS = (
    "partition", "crash", "trap", "storm", "blackout", "cold", "warm", "full", "wipe", "flaw", "clock",
    "wall",
)  # fmt: skip


def _is_marked(host: SimHost) -> bool:
    """Stuck, about to die, or not to be judged any more."""
    return host.wiped or host.flawed or host.unplugged or host.disk.full or bool(host.trap)


class FaultInjector:
    """Draws what goes wrong next, until the world heals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(f"{world.config.seed}/faults")
        self._power = Random(f"{world.config.seed}/power")
        self._weights = world.config.weights
        self._dark_at_outcome = False
        self._total = 1.0 + sum(weight for _, weight in self._weights)

    def begin(self) -> None:
        """Start drawing."""
        self._world.at(self._world.now + self._world.config.step_ms, self._step)

    def _step(self) -> None:
        world = self._world
        if world.network.healed:
            return
        point = self._rng.random() * self._total
        for name, weight in self._weights:
            if point < weight:
                self.inject(name)
                break
            point -= weight
        if world.config.reverse and self._rng.random() < world.config.reverse:
            link = (self._rng.randrange(world.n), self._rng.randrange(world.n))
            until = world.now + self._rng.randint(2, world.config.cut_ms)
            if self._allow("reverse", *link, until):
                world.network.reverse(link, until)
        world.at(world.now + world.config.step_ms, self._step)

    def _allow(self, kind: str, *fields: object) -> bool:
        """Number the fault that is about to happen; False if a shrinker leaves it out."""
        return self._world.schedule.allow(self._world.now, kind, *fields)

    # --- budget -----------------------------------------------------------------------------------

    def faulty(self) -> list[NodeId]:
        """Hosts that count as faulty at this moment."""
        return [
            host.number
            for host in self._world.hosts
            if host.byzantine or not host.up or not host.member or _is_marked(host)
        ]

    def _victim(self, need_up: bool = True) -> SimHost | None:
        """A host that may fail now without exceeding f; None if there is none."""
        world = self._world
        faulty = self.faulty()
        room = len(faulty) < world.quorums.f
        candidates = [
            host
            for host in world.hosts
            if (room or host.number in faulty) and not host.byzantine and (host.up or not need_up)
        ]
        return self._rng.choice(candidates) if candidates else None

    # --- faults -----------------------------------------------------------------------------------

    def inject(self, name: str) -> None:
        """Let one fault of this name happen now, if the budget allows."""
        match name:
            case "partition":
                self._partition()
            case "blackout":
                if self._allow(name):
                    self._blackout()
            case "clock" | "wall":
                self._clock(name)
            case "storm":
                self._storm()
            case _:
                victim = self._victim()
                if victim is not None and self._allow(name, victim.number):
                    self._hit(name, victim)

    def _hit(self, name: str, host: SimHost) -> None:
        match name:
            case "crash":
                self._unplug(host)
                self._crash(host)
            case "trap":
                self._unplug(host)
                self._set_trap(host)
            case "cold":
                self.cold(host)
            case "warm":
                self.warm(host)
            case "full":
                self._fill(host)
            case "wipe":
                self._wipe(host)
            case "flaw":
                self._flaw(host)
            case _:
                raise ValueError(f"no fault called {name!r}")

    def _blackout(self) -> None:
        if self._rng.random() < 0.5:
            self._dark_at_outcome = True
            return
        for host in self._world.hosts:
            self._crash(host)

    def answered(self) -> None:
        """A client has got an outcome: whatever happens now, it holds (ADR 0022)."""
        if self._dark_at_outcome:
            self._dark_at_outcome = False
            self._world.coverage.count("blackouts_at_outcome")
            for host in self._world.hosts:
                self._world.crash(host.number)

    def _pause(self, about_ms: Millis) -> Millis:
        return self._rng.randint(1, 2 * about_ms)

    def _unplug(self, host: SimHost) -> None:
        """Where components die with their hosts, the next crash may be one of the power."""
        config = self._world.config
        if not config.component_outlives_host and any(name == "cold" for name, _ in config.weights):
            host.unplugged = self._power.random() < POWER_FAILURES

    def _crash(self, host: SimHost) -> None:
        """Within the next few effects, or in any case soon."""
        world = self._world
        if not host.up or host.fuse >= 0:
            return
        host.fuse = self._rng.randint(0, world.config.fuse)
        if host.fuse == 0:
            world.crash(host.number)
        else:
            world.at(world.now + 4 * world.config.step_ms, self._crash_anyway, host, host.incarnation)

    def _crash_anyway(self, host: SimHost, incarnation: int) -> None:
        if host.incarnation == incarnation and host.up:
            self._world.crash(host.number)

    def _set_trap(self, host: SimHost) -> None:
        """The process dies at the next effect of a certain kind, if there is one in time."""
        world = self._world
        if host.trap or host.fuse >= 0:
            return
        host.trap, host.spring_late = self._rng.choice(TRAPS), self._rng.random() < 0.5
        world.at(world.now + 10 * world.config.step_ms, self._clear_trap, host, host.incarnation)

    def _clear_trap(self, host: SimHost, incarnation: int) -> None:
        if host.incarnation == incarnation:
            host.trap, host.unplugged = "", False

    def _storm(self) -> None:
        """Some clocks leap ahead at once: whoever waits for something gives up (S-30)."""
        world, rng = self._world, self._rng
        jumps = [
            (host.number, rng.randint(1, 3) * world.config.options.t_request_ms)
            for host in world.hosts
            if rng.random() < 0.8
        ]
        if self._allow("storm", *jumps):
            world.coverage.count("storms")
            for number, jump_ms in jumps:
                world.hosts[number].clock.jump(jump_ms)

    def cold(self, host: SimHost) -> None:
        """The component's process dies; the node is rebuilt around a new one."""
        world = self._world
        host.stop()
        host.disk.crash(self._rng, 0)  # a power failure takes the component too
        host.component.restart_cold()
        world.coverage.count("cold_starts")
        world.trace("cold", host.number)
        world.at(world.now + self._pause(50), world.start, host.number)

    def warm(self, host: SimHost) -> None:
        """A scheduled restart by a sealed state; an attacker tries the blob again (S-34)."""
        world = self._world
        host.stop()
        if host.component.identity().chain_id:
            for wrong in host.component.restart_warm():
                world.violate("I-20", f"a component was restored from {wrong}", host.number)
        world.coverage.count("warm_restarts")
        world.trace("warm", host.number)
        world.at(world.now + self._pause(50), world.start, host.number)

    def _fill(self, host: SimHost) -> None:
        world = self._world
        if host.disk.full:
            return
        host.disk.full = True
        world.coverage.count("store_full")
        world.trace("disk_full", host.number)
        world.at(world.now + self._pause(world.config.down_ms), self._empty, host)

    def _empty(self, host: SimHost) -> None:
        host.disk.full = False

    def _wipe(self, host: SimHost) -> None:
        """A byte of the disk flipped: the store refuses to open, its operator moves it away (A-39)."""
        world = self._world
        if any(other.wiped for other in world.hosts):
            return
        host.stop()
        host.disk = host.new_disk()
        host.wiped = True
        world.coverage.count("wipes")
        world.trace("wipe", host.number)
        world.at(world.now + self._pause(world.config.down_ms), world.start, host.number)

    def _flaw(self, host: SimHost) -> None:
        """The application answers one operation wrongly: this replica diverges (A-35, S-46)."""
        host.flawed = host.application.armed = True
        self._world.coverage.count("flaws")
        self._world.trace("flaw", host.number)

    def _clock(self, name: str) -> None:
        world, rng, config = self._world, self._rng, self._world.config
        host = rng.choice(world.hosts)
        clock, number = host.clock, host.number
        if name == "wall":
            limit = world.wall_limit_ms(number)
            skew_ms = rng.randint(-limit, limit)
            if self._allow(name, number, f"the wall clock is wrong by {skew_ms} ms"):
                clock.set_wall(skew_ms)
        elif rng.random() < 0.5:
            ahead_ms = rng.randint(1, 4 * config.options.t_request_ms)
            if self._allow(name, number, f"the clock leaps ahead by {ahead_ms} ms"):
                clock.jump(ahead_ms)
        else:
            rate = 1.0 + rng.uniform(-config.clock_rate, config.clock_rate)
            if self._allow(name, number, f"the clock runs {rate:.3f} times as fast"):
                clock.set_rate(world.now, rate)
        world.coverage.count("clock_faults")

    def _partition(self) -> None:
        world, rng = self._world, self._rng
        numbers = list(range(world.n))
        rng.shuffle(numbers)
        shape = rng.choice(("split", "one", "deaf", "mute", "chain", "links"))
        links: dict[tuple[int, int], None] = {}
        pairs = [(a, b) for a in range(world.n) for b in range(world.n) if a != b]
        side = numbers[: rng.randint(1, world.n - 1)]
        for a, b in pairs:
            place = abs(numbers.index(a) - numbers.index(b))
            down = {
                "split": (a in side) != (b in side),
                "one": numbers[0] in (a, b),
                "deaf": b == numbers[0],
                "mute": a == numbers[0],
                "chain": place > 1,
                "links": False,
            }[shape]
            if down or (shape == "links" and rng.random() < 0.4):
                links[(a, b)] = None
        until = world.now + self._pause(world.config.cut_ms)
        down_links = sorted(f"{a}>{b}" for a, b in links)
        if self._allow("partition", shape, until, *down_links):
            world.network.cut(links, until)
            world.trace("partition", -1, shape, *down_links)

    # --- the end of faults ------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything that may be good is good from now on."""
        world = self._world
        self._dark_at_outcome = False
        world.network.heal()
        for host in world.hosts:
            host.disk.full = False
            host.fuse, host.trap, host.unplugged = -1, "", False
            if host.up:
                host.application.armed = False
            host.clock.set_rate(world.now, 1.0)
            skew_ms = self._rng.randint(-50, 50)
            if not host.byzantine:
                host.clock.set_wall(skew_ms)
            if not host.up:
                world.start(host.number)
