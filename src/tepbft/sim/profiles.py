"""Fault profiles, and what one seed draws from them (D4).

Weights are drawn per run on a wide logarithmic scale, so that some runs are nearly
calm, some drown in one kind of fault, and a few mix everything. Windows are small and
requests few: many views over few heights reach more than long logs do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tepbft.core.configuration import Parameters
from tepbft.core.options import NodeOptions
from tepbft.types import Millis

MESSAGE_NAMES = (
    "Prepare", "Commit", "Checkpoint", "ReqVc", "NewViewCertificate", "ViewChange", "NewView", "NvAck",
    "Status", "FetchBody", "Body", "FetchFinal", "Final", "Stable", "Offer", "FetchChunk", "Chunk",
    "Admission", "Forward", "FetchOffer",
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How likely a run is to have each kind of trouble at all (0 to 1); how much is drawn then."""

    name: str
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    laggards: float = 0.0
    """Hosts that hardly ever get certain message types."""
    partitions: float = 0.0
    isolation: float = 0.0
    """A host is cut off just as it sends a message of a view change (S-28)."""
    crashes: float = 0.0
    blackouts: float = 0.0
    """All processes crash at once; disks and components stay."""
    components: float = 0.0
    """Trusted components die (readmission) or are sealed and restored."""
    disk_full: float = 0.0
    wipes: float = 0.0
    """A flipped byte makes a disk unreadable; its operator moves it away."""
    flaws: float = 0.0
    """An application is wrong once, at one host: it diverges and has to heal."""
    clocks: float = 0.0
    storms: float = 0.0
    """Clocks of several hosts leap ahead at once: time-out storms."""
    byzantine: float = 0.0
    slow_world: float = 0.0
    """Delays above the timers, until the world heals (S-29)."""


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("calm"),
        Profile("lossy", loss=1, duplication=0.7, reordering=0.7, laggards=0.5, slow_world=0.2, storms=0.5),
        Profile("partitions", loss=0.3, partitions=1, isolation=0.5, laggards=0.3, reordering=0.3,
                storms=0.5),
        Profile("crashes", loss=0.3, crashes=1, blackouts=0.3, disk_full=0.3, wipes=0.15, flaws=0.3,
                laggards=0.2,
                storms=0.5),
        Profile("components", loss=0.3, crashes=0.3, components=1, laggards=0.2, partitions=0.2, storms=0.4),
        Profile("clocks", loss=0.3, clocks=1, partitions=0.2, slow_world=0.2, storms=0.6),
        Profile("byzantine", loss=0.5, duplication=0.3, reordering=0.5, laggards=0.4, byzantine=1,
                isolation=0.2, storms=0.5),
        Profile("everything", loss=0.6, duplication=0.4, reordering=0.5, laggards=0.4, partitions=0.4,
                isolation=0.25, crashes=0.5, blackouts=0.1, components=0.35, disk_full=0.15, wipes=0.1,
                flaws=0.15, clocks=0.3, byzantine=0.35, slow_world=0.1, storms=0.5),
    )
}  # fmt: skip


@dataclass(frozen=True)
class WorldConfig:
    """One world, entirely: what a seed draws, or what a scenario writes down by hand."""

    seed: int
    nodes: int = 3
    signatures: str = "stub"
    parameters: Parameters = field(default_factory=Parameters)
    options: NodeOptions = field(default_factory=NodeOptions)
    tick_ms: Millis = 20
    heal_ms: Millis = 3000
    """Faults stop here: from now on the world is timely, lossless, and at most f hosts are Byzantine."""
    limit_ms: Millis = 120_000
    """Virtual time after healing within which the run must terminate (I-21)."""
    expect_termination: bool = True
    """False for scenarios that exceed f on purpose: a stop is fine then, a fork is not."""

    clients: int = 2
    requests: int = 10
    """Operations of each client before the world heals; a few more follow after."""
    late_requests: int = 2
    pipeline: int = 3
    """Operations that a client has under way at most."""
    think_ms: Millis = 40
    keys: int = 3
    session_changes: float = 0.0
    """Probability that a client opens a new session after an operation."""

    delay_ms: tuple[Millis, Millis] = (1, 5)
    """Range of ordinary delays."""
    tail: float = 0.0
    """Probability of a delay of up to `tail_ms`."""
    tail_ms: Millis = 100
    loss: float = 0.0
    duplication: float = 0.0
    reverse: float = 0.0
    """Probability, per fault step, that a link delivers the next messages in reverse order."""
    laggards: tuple[tuple[int, str, float], ...] = ()
    """(host, message name, probability that it is lost there)."""
    client_loss: float = 0.0

    step_ms: Millis = 60
    """Time between two faults that may happen."""
    weights: tuple[tuple[str, float], ...] = ()
    """(fault, weight) of what may happen at each step; see `faults.FAULTS`."""
    isolate: float = 0.0
    """Probability that sending a message of the view change cuts its sender off for a while."""
    down_ms: Millis = 300
    """How long a crashed process stays away, about."""
    cut_ms: Millis = 500
    """How long a partition lasts, about."""
    fuse: int = 8
    """A crash happens before one of so many effects (0: at once)."""
    batch: float = 0.2
    """Probability that a host is busy when something arrives, so that events share one append."""
    batch_ms: Millis = 8
    merge_events: int = 32
    """Most events whose effects are carried out together."""
    lost_installs: float = 0.3
    """Probability that a crash loses installs that were not durable yet."""

    clock_rate: float = 0.0
    """Largest deviation of a clock's rate from 1."""
    clock_offset_ms: Millis = 0
    wall_skew_ms: Millis = 0
    component_outlives_host: bool = False
    """Components keep their registers when the power of their host fails, as hardware would: a host asks
    them only for what is on its disk, and any crash may take what is not. Otherwise only a power failure
    takes what was written, and takes the component too (ADR 0023)."""
    byzantine: tuple[int, ...] = ()
    check_ms: Millis = 250
    """Interval of the checks that are too dear for every step."""


def _log_scale(rng: Random, low: float, high: float) -> float:
    """A number between `low` and `high`, uniform on a logarithmic scale."""
    return float(low * (high / low) ** rng.random())


def draw(seed: int, nodes: int, profile: Profile, signatures: str) -> WorldConfig:
    """The world that `seed` stands for under `profile`."""
    rng = Random(f"{seed}/{profile.name}/{nodes}/config")
    f = (nodes - 1) // 2
    parameters = _draw_parameters(rng)
    options = _draw_options(rng)
    slow = rng.random() < profile.slow_world
    scale = options.t_request_ms if slow else rng.choice((3, 5, 15, 30))
    byzantine: tuple[int, ...] = ()
    if rng.random() < profile.byzantine:
        byzantine = tuple(sorted(rng.sample(range(nodes), rng.randint(1, f))))
    clocks = rng.random() < profile.clocks
    heal_ms = rng.choice((1200, 2000, 3000, 4000))
    requests = rng.randint(3, 16)
    return WorldConfig(
        seed=seed,
        nodes=nodes,
        signatures=signatures,
        parameters=parameters,
        options=options,
        tick_ms=rng.choice((15, 20, 30)),
        heal_ms=heal_ms,
        clients=rng.randint(1, 3),
        requests=requests,
        pipeline=rng.choice((1, 2, 4, 8)),
        think_ms=int(heal_ms / requests * rng.choice((0.1, 0.5, 0.9, 0.9))),
        keys=rng.randint(1, 3),
        session_changes=rng.choice((0.0, 0.0, 0.1, 0.3)),
        delay_ms=(1, max(2, scale)),
        tail=_log_scale(rng, 0.002, 0.2),
        tail_ms=rng.choice((60, 200, 800)),
        loss=_log_scale(rng, 0.003, 0.5) if rng.random() < profile.loss else 0.0,
        duplication=_log_scale(rng, 0.003, 0.3) if rng.random() < profile.duplication else 0.0,
        reverse=_log_scale(rng, 0.05, 0.8) if rng.random() < profile.reordering else 0.0,
        laggards=_draw_laggards(rng, nodes) if rng.random() < profile.laggards else (),
        client_loss=_log_scale(rng, 0.005, 0.3) if rng.random() < profile.loss else 0.0,
        step_ms=rng.choice((30, 60, 120)),
        weights=_draw_weights(rng, profile),
        isolate=_log_scale(rng, 0.05, 0.6) if rng.random() < profile.isolation else 0.0,
        down_ms=rng.choice((50, 200, 600)),
        cut_ms=rng.choice((100, 400, 1200)),
        fuse=rng.choice((0, 4, 12, 30)),
        batch=rng.choice((0.0, 0.1, 0.4, 0.8)),
        batch_ms=rng.choice((2, 8, 25)),
        merge_events=rng.choice((1, 4, 32)),
        lost_installs=rng.choice((0.0, 0.3, 0.8)),
        clock_rate=_log_scale(rng, 0.01, 0.6) if clocks else 0.0,
        clock_offset_ms=rng.choice((0, 1000, 10**6)),
        wall_skew_ms=rng.choice((500, 5000, 100_000)) if clocks else 0,
        byzantine=byzantine,
        component_outlives_host=rng.random() < 0.5,
    )


def _draw_parameters(rng: Random) -> Parameters:
    window, interval = rng.choice(((1, 1), (2, 1), (2, 1), (3, 1), (4, 1), (4, 2), (8, 2), (16, 4)))
    snapshot = interval * rng.choice((1, 2, 3, 6))
    return Parameters(
        window=window,
        checkpoint_interval=interval,
        snapshot_interval=snapshot,
        block_requests=rng.choice((1, 1, 2, 4, 16)),
        block_bytes=4096,
        client_window=rng.choice((4, 8, 16)),
        min_config_gap=rng.choice((0, 1, 4)),
        keep_blocks=max(window, rng.choice((1, 4, 8, 64))),
        strict_sequential=rng.random() < 0.15,
        commit_carries_block=rng.random() < 0.15,
        primary_explicit_commit=rng.random() < 0.1,
        reply_after=rng.choice(("execute", "execute", "stable")),
    )


def _draw_options(rng: Random) -> NodeOptions:
    first_ms = rng.choice((100, 150, 250, 400))
    return NodeOptions(
        t_request_ms=first_ms,
        t_view_change_ms=rng.choice((first_ms, 2 * first_ms)),
        t_max_ms=rng.choice((4, 8)) * first_ms,
        t_status_ms=rng.choice((60, 100, 200)),
        t_retransmit_ms=rng.choice((40, 80, 150)),
        stable_blocks=rng.choice((1, 4, 16)),
        in_flight_blocks=rng.choice((1, 2, 4)),
        max_wait_ms=rng.choice((0, 0, 10)),
        timestamp_ahead_ms=rng.choice((2000, 60_000)),
    )


def _draw_laggards(rng: Random, nodes: int) -> tuple[tuple[int, str, float], ...]:
    found = []
    for host in rng.sample(range(nodes), rng.randint(1, nodes)):
        for name in rng.sample(MESSAGE_NAMES, rng.randint(1, 4)):
            found.append((host, name, rng.choice((0.7, 0.95, 1.0))))
    return tuple(found)


def _draw_weights(rng: Random, profile: Profile) -> tuple[tuple[str, float], ...]:
    """Weights of faults against the weight 1 of nothing happening."""
    kinds = (
        ("partition", profile.partitions),
        ("crash", profile.crashes),
        ("trap", profile.crashes),
        ("storm", profile.storms),
        ("blackout", profile.blackouts),
        ("cold", profile.components),
        ("warm", profile.components),
        ("full", profile.disk_full),
        ("wipe", profile.wipes),
        ("flaw", profile.flaws),
        ("clock", profile.clocks),
        ("wall", profile.clocks),
    )
    return tuple((name, _log_scale(rng, 0.01, 1.0)) for name, likely in kinds if rng.random() < likely)
