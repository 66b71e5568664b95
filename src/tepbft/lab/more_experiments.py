"""What the paper left out: signatures, sizes, parallelism, failover, overload, growth."""

from __future__ import annotations

from tepbft.crypto.schemes import SCHEMES
from tepbft.lab.points import (
    BARS,
    GROWTH,
    HALF,
    SATURATION,
    TIMELINE,
    Experiment,
    Figure,
    Point,
    Scale,
    saturated,
)

NODE_COUNTS = (3, 5, 7, 9)
_BEYOND = "Not in the paper"


def schemes_experiment(scale: Scale) -> Experiment:
    """Signature schemes."""
    points: list[Point] = []
    for scheme in SCHEMES:
        points += saturated(scheme, "", scheme, scale.options(scheme=scheme))
    return Experiment(
        name="schemes",
        title="How clients sign",
        question="How much of the cost is the verification of client signatures?",
        paper=_BEYOND,
        points=tuple(points),
        figures=(
            Figure(
                title="Throughput",
                metric="tps",
                x_label="scheme",
                kind=BARS,
                series=(SATURATION,),
                limit=True,
            ),
            Figure(
                title="Latency at half the saturation throughput",
                metric="p50_p99",
                x_label="scheme",
                kind=BARS,
                series=(HALF,),
            ),
        ),
        notes=("`mac` and `none` prove less (see the README): their figures are no replacement.",),
    )


def payload_experiment(scale: Scale) -> Experiment:
    """Sizes of operations."""
    points = [
        Point(
            name=f"{scheme}-{size}",
            series=scheme,
            x=size,
            options=scale.options(
                scheme=scheme, payload=size, block_size=256 if size <= 4096 else 64, pipeline=16
            ),
        )
        for scheme in ("secp256k1", "none")
        for size in scale.pick((10, 100, 1000, 4000, 16_000, 64_000), (10, 1000, 16_000))
    ]
    return Experiment(
        name="payload",
        title="Size of a request",
        question="From which size on do bytes cost more than signatures?",
        paper=_BEYOND,
        points=tuple(points),
        figures=(
            Figure(
                title="Throughput",
                metric="tps",
                x_label="bytes per operation",
                log_x=True,
                log_y=True,
                limit=True,
            ),
            Figure(
                title="Growth of a node's store",
                metric="disk_bytes",
                x_label="bytes per operation",
                log_x=True,
                log_y=True,
            ),
        ),
    )


def blocks_experiment(scale: Scale) -> Experiment:
    """Sizes of blocks."""
    points = [
        Point(
            name=f"{scheme}-{size}",
            series=scheme,
            x=size,
            options=scale.options(scheme=scheme, block_size=size, clients=64, pipeline=64),
        )
        for scheme in ("secp256k1", "none")
        for size in scale.pick((4, 16, 64, 256, 1024, 4096), (16, 64, 256, 1024))
    ]
    label = "requests per block, at most"
    return Experiment(
        name="blocks",
        title="Size of a block",
        question="How large must blocks be for agreement to be cheap beside signatures?",
        paper=_BEYOND,
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, log_x=True, log_y=True, limit=True),
            Figure(
                title="Processor time",
                metric="cpu_us",
                x_label=label,
                log_x=True,
                log_y=True,
            ),
        ),
    )


def bundles_experiment(scale: Scale) -> Experiment:
    """Many operations under one signature."""
    points = [
        Point(
            name=str(size),
            series="secp256k1",
            x=size,
            options=scale.options(bundle=size, clients=16, pipeline=min(32, max(1, 256 // size))),
        )
        for size in scale.pick((1, 4, 16, 64), (1, 16))
    ]
    label = "operations in a bundle"
    return Experiment(
        name="bundles",
        title="Several operations under one signature",
        question="What is gained where a client signs several operations at once?",
        paper=_BEYOND,
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, log_x=True, log_y=True, limit=True),
            Figure(title="Processor time", metric="cpu_us", x_label=label, log_x=True, log_y=True),
        ),
        notes=("A mode of its own: the operations of a bundle stand or fall together with its signature.",),
    )


def in_flight_experiment(scale: Scale) -> Experiment:
    """Parallel agreement."""
    points = [
        Point(
            name=f"{'sequential' if sequential else 'parallel'}-{count}",
            series="one after the other" if sequential else "in parallel",
            x=count,
            options=scale.options(block_size=64, in_flight=count, strict_sequential=sequential),
        )
        for sequential in (False, True)
        for count in scale.pick((1, 2, 4, 8, 16, 32), (1, 4, 16))
    ]
    label = "blocks in flight, at most"
    return Experiment(
        name="in-flight",
        title="Blocks in parallel, or one after the other",
        question="What does agreeing on several blocks at once gain?",
        paper="Section 4.3 claims it; the paper has no measurement of it alone",
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, log_x=True, limit=True),
            Figure(title="Latency", metric="p50_p99", x_label=label, log_x=True, log_y=True),
        ),
        notes=(
            "Blocks of 64. On loopback a message takes microseconds, so there is little waiting that "
            "parallel agreement could fill; between machines it gains more.",
        ),
    )


def checkpoints_experiment(scale: Scale) -> Experiment:
    """Checkpoint intervals."""
    points = [
        Point(
            name=f"{scheme}-{interval}",
            series=scheme,
            x=interval,
            options=scale.options(scheme=scheme, block_size=64, checkpoint_interval=interval),
        )
        for scheme in ("secp256k1", "none")
        for interval in scale.pick((1, 2, 4, 8, 16, 32, 64), (1, 8, 64))
    ]
    label = "blocks between checkpoints (K)"
    return Experiment(
        name="checkpoints",
        title="Checkpoint interval",
        question="What do checkpoints cost, which the paper's message count leaves out?",
        paper=_BEYOND,
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, log_x=True, log_y=True, limit=True),
            Figure(title="Processor time", metric="cpu_us", x_label=label, log_x=True, log_y=True),
        ),
        notes=("Blocks of 64.",),
    )


def failover_experiment(scale: Scale) -> Experiment:
    """A killed primary."""
    seconds, kill_s = (6.0, 2.0) if scale.quick else (15.0, 5.0)
    points = [
        Point(
            name=f"{nodes}",
            series=f"{nodes} nodes",
            x=nodes,
            options=scale.options(nodes=nodes, rate=1000, seconds=seconds, kill_primary_after_s=kill_s),
        )
        for nodes in scale.pick(NODE_COUNTS, (3, 5))
    ]
    return Experiment(
        name="failover",
        title="The primary is killed",
        question="For how long is nobody answered, and how soon is the backlog worked off?",
        paper="Not in the paper, which never measures a view change by itself",
        points=tuple(points),
        figures=(
            Figure(
                title="Answers",
                metric="timeline",
                x_label="seconds into the window",
                rows="nodes",
                kind=TIMELINE,
            ),
            Figure(title="Longest time without an answer", metric="gap_ms", x_label="nodes", kind=BARS),
        ),
        notes=(
            f"1,000 requests per second are due throughout; SIGKILL for the primary after {kill_s:g} s. A "
            "request may wait for t_request_ms = 1000 before the view changes.",
        ),
    )


def overload_experiment(scale: Scale) -> Experiment:
    """More than can be done."""
    closed = Point(name="saturation", series="closed loop", x=0, options=scale.options())
    shares = scale.pick((0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0), (0.25, 0.5, 0.75, 1.0, 1.5, 2.0))
    points = [
        Point(
            name=f"share-{share:g}",
            series="open loop",
            x=share,
            options=scale.options(),
            share=share,
            of="saturation",
        )
        for share in shares
    ]
    label = "requests due / saturation throughput"
    return Experiment(
        name="overload",
        title="Overload: up to twice what can be answered",
        question="Does the cluster keep its throughput when more is asked than it can do?",
        paper="Not in the paper, whose rates end where its throughput has peaked",
        points=(closed, *points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, series=("open loop",), limit=True),
            Figure(title="Latency", metric="p50_p99", x_label=label, series=("open loop",), log_y=True),
            Figure(title="Declined or too late", metric="shed", x_label=label, series=("open loop",)),
        ),
        notes=(
            "What the cluster cannot take it declines at once (BUSY); that request counts as declined, not "
            "as answered, and its time is not part of the latency.",
        ),
    )


def growth_experiment(scale: Scale) -> Experiment:
    """A long run."""
    count = 50_000 if scale.quick else 1_000_000
    options = scale.options(transactions=count, seconds=1800.0, generators=2)
    return Experiment(
        name="growth",
        title=f"Cost over {count:,} transactions",
        question="Does a request get dearer as the ledger grows?",
        paper="Not in the paper, whose runs end at 200,000 transactions",
        points=(Point(name=f"{count}", series="secp256k1", x=count, options=options),),
        figures=(
            Figure(title="Throughput", metric="timeline", x_label="transactions", kind=GROWTH),
            Figure(
                title="Memory of the largest node", metric="rss_series", x_label="transactions", kind=GROWTH
            ),
        ),
    )
