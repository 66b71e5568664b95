"""The experiments of the paper, on the protocols that exist.

The paper is "Parallel Byzantine fault tolerance consensus based on trusted execution environments"
(2024). A protocol that enters `cli.creation.PROTOCOLS` appears in all of them.
"""

from __future__ import annotations

from tepbft.cli.creation import PROTOCOLS
from tepbft.lab.byzantine import STRATEGIES
from tepbft.lab.points import BARS, HALF, SATURATION, Experiment, Figure, Point, Scale, saturated

PAPER_PROTOCOLS = {
    "tep": "TEP-BFT",
    "pbft": "PBFT",
    "minbft": "MinBFT",
    "cheapbft": "CheapBFT",
    "fastbft": "FastBFT",
}
"""What the paper compares."""
_NODES_PER_FAULT = {"pbft": 3}
"""n = k * f + 1; 2 for all others."""
RATES = (500, 1000, 1500, 2000, 2500, 5000, 7500, 10_000)
"""Requests per second, as in the paper."""
NODE_COUNTS = (3, 5, 7, 9)
FAULTY_OF = 9
CURVES = ("withhold_commits", "flood", "primary_equivocate")
"""Byzantine strategies that are measured for every number of nodes; of the others, f nodes are enough."""
RATE_LABEL = "requests due per second"


def survives(protocol: str, nodes: int) -> int:
    """How many of `nodes` may be faulty."""
    return (nodes - 1) // _NODES_PER_FAULT.get(protocol, 2)


def missing_protocols() -> list[str]:
    """Protocols of the paper that do not exist here yet, by their names."""
    return [title for name, title in PAPER_PROTOCOLS.items() if name not in PROTOCOLS]


def _title(protocol: str) -> str:
    return PAPER_PROTOCOLS.get(protocol, protocol)


def rate_experiment(scale: Scale) -> Experiment:
    """Test Cases 1 and 6."""
    points = [
        Point(
            name=f"{protocol}-{rate}",
            series=_title(protocol),
            x=rate,
            options=scale.options(nodes=5, protocol=protocol, rate=rate),
        )
        for protocol in PROTOCOLS
        for rate in RATES
    ]
    return Experiment(
        name="rate",
        title="Request rate: throughput and latency",
        question="How much of what is asked for is answered, and how fast, as the request rate rises?",
        paper="Test Case 1, section 6.2, figures 3a and 6a",
        points=tuple(points),
        figures=(
            Figure(
                title="Throughput",
                metric="tps",
                x_label=RATE_LABEL,
                log_x=True,
                log_y=True,
                limit=True,
                due=True,
            ),
            Figure(title="Latency", metric="p50_p99", x_label=RATE_LABEL, log_x=True, log_y=True),
        ),
        notes=(
            "Five nodes, as in the paper; a window of time instead of 200,000 transactions.",
            "The paper gives each node a machine of 4 to 32 cores. Here all nodes and the load share one.",
        ),
    )


def resources_experiment(scale: Scale) -> Experiment:
    """Test Case 2, Appendix A."""
    return Experiment(
        name="resources",
        title="Request rate: processor and memory",
        question="What does a node use of the machine as the request rate rises?",
        paper="Test Case 2 and Appendix A, figures 7a and 8",
        points=(),
        source="rate",
        figures=(
            Figure(title="Processor", metric="cores_per_node", x_label=RATE_LABEL, log_x=True, log_y=True),
            Figure(title="Memory of the largest node", metric="rss_mb", x_label=RATE_LABEL, log_x=True),
        ),
        notes=(
            "Drawn from the runs of the experiment before it. The paper shows the load average of the "
            "machine; here it is the processor time of node and trusted component, in cores.",
        ),
    )


def nodes_experiment(scale: Scale) -> Experiment:
    """Test Case 3."""
    points: list[Point] = []
    for protocol in PROTOCOLS:
        for nodes in NODE_COUNTS:
            options = scale.options(nodes=nodes, protocol=protocol)
            points += saturated(f"{protocol}-{nodes}", _title(protocol), nodes, options)
    peak = tuple(f"{_title(protocol)} {SATURATION}" for protocol in PROTOCOLS)
    half = tuple(f"{_title(protocol)} {HALF}" for protocol in PROTOCOLS)
    return Experiment(
        name="nodes",
        title="Number of nodes",
        question="What does every further pair of nodes cost?",
        paper="Test Case 3, section 6.3, figure 4a",
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label="nodes", series=peak, limit=True),
            Figure(
                title="Latency at half the saturation throughput",
                metric="p50_p99",
                x_label="nodes",
                series=half,
                log_y=True,
            ),
        ),
        notes=(
            "All nodes share the cores of one machine, so the limit falls as 1/n: what counts is the "
            "distance to it. On a machine per node it would not fall.",
            "Latency is not shown at saturation: there it only says how many requests clients keep waiting.",
        ),
    )


def faults_experiment(scale: Scale) -> Experiment:
    """Test Case 4."""
    points: list[Point] = []
    for protocol in PROTOCOLS:
        most = survives(protocol, FAULTY_OF)
        for faulty in range(most + 1):
            options = scale.options(nodes=FAULTY_OF, protocol=protocol, crashed=faulty)
            title = f"{_title(protocol)}, crashed"
            points += saturated(f"{protocol}-crashed-{faulty}", title, faulty, options)
        for strategy in scale.pick(STRATEGIES if protocol == "tep" else (), ()):
            for faulty in range(1, most + 1) if strategy in CURVES else ():
                options = scale.options(nodes=FAULTY_OF, protocol=protocol, byzantine=f"{faulty}:{strategy}")
                name, series = (
                    f"{protocol}-{strategy}-{faulty}",
                    f"{_title(protocol)}, {strategy} {SATURATION}",
                )
                points.append(Point(name=name, series=series, x=faulty, options=options))
    peak = tuple(dict.fromkeys(point.series for point in points if point.series.endswith(SATURATION)))
    half = tuple(dict.fromkeys(point.series for point in points if point.series.endswith(HALF)))
    label = f"faulty nodes of {FAULTY_OF}"
    return Experiment(
        name="faults",
        title="Faulty nodes",
        question="What do up to f faulty nodes cost?",
        paper="Test Case 4, section 6.4, figures 4b and 6b",
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, series=peak, limit=True),
            Figure(
                title="Latency at half the saturation throughput",
                metric="p50_p99",
                x_label=label,
                series=half,
                log_y=True,
            ),
        ),
        notes=(
            "The paper calls nodes Byzantine that it halts. Here halted nodes are called crashed; nodes that "
            "lie are in the next experiment.",
            "On one machine a crashed node leaves its share of the cores to the others, so throughput does "
            "not fall as in the paper; the limit, computed for the nodes that run, rises with it.",
        ),
    )


def byzantine_experiment(scale: Scale) -> Experiment:
    """Test Case 4, with nodes that lie."""
    most = survives("tep", FAULTY_OF)
    points = [
        Point(
            name=strategy or "none",
            series=f"{most} of {FAULTY_OF}",
            x=strategy.replace("_", " ") or "no fault",
            options=scale.options(nodes=FAULTY_OF, byzantine=f"{most}:{strategy}" if strategy else ""),
        )
        for strategy in ("", *STRATEGIES)
    ]
    label = f"what {most} of {FAULTY_OF} nodes do"
    return Experiment(
        name="byzantine",
        title="Byzantine nodes",
        question="What do f nodes cost that do not crash but lie?",
        paper="Test Case 4, section 6.4, as its title says and its experiment does not",
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label=label, kind=BARS),
            Figure(title="Longest time without an answer", metric="gap_ms", x_label=label, kind=BARS),
        ),
        notes=(
            "Each keeps its own trusted component and may do with everything else as it likes. Where the "
            "name begins with “primary”, the primary of the first view is one of them.",
            "Liars use the cores of this machine too, a flood more than others; on a machine of their own "
            "they would not take that from anybody.",
        ),
    )


def component_experiment(scale: Scale) -> Experiment:
    """Test Case 5, as far as it goes here."""
    points = [
        Point(
            name=f"{'inside' if inside else 'process'}-{size}",
            series="inside the node" if inside else "a process of its own",
            x=size,
            options=scale.options(scheme="none", block_size=size, in_process=inside, clients=64, pipeline=64),
        )
        for inside in (False, True)
        for size in scale.pick((16, 64, 256, 1024), (16, 256))
    ]
    return Experiment(
        name="component",
        title="Trusted component: in a process of its own, or inside the node",
        question="What does the wall between node and trusted component cost?",
        paper="Test Case 5, section 6.5, figure 5, in part: there the wall is SGX with Gramine",
        points=tuple(points),
        figures=(
            Figure(title="Throughput", metric="tps", x_label="requests per block", log_x=True),
            Figure(
                title="Processor time",
                metric="cpu_us",
                x_label="requests per block",
                log_x=True,
                log_y=True,
            ),
        ),
        notes=("Without client signatures, which would hide it. Not measured on enclave hardware.",),
    )


def messages_experiment(scale: Scale) -> Experiment:
    """The formula of section 6.3."""
    points = [
        Point(
            name=f"{protocol}-{nodes}",
            series=_title(protocol),
            x=nodes,
            options=scale.options(
                nodes=nodes, protocol=protocol, clients=1, pipeline=1, block_size=1, scheme="none"
            ),
        )
        for protocol in PROTOCOLS
        for nodes in scale.pick((3, 5, 7, 9), (3, 5, 7))
    ]
    return Experiment(
        name="messages",
        title="Messages per request",
        question="Is the number of messages the one that the paper's formula gives?",
        paper="Section 6.3, the formula 2f² + 5f + 2",
        points=tuple(points),
        figures=(Figure(title="Messages", metric="messages", x_label="nodes"),),
        notes=(
            "One client, one request at a time, one request per block: the request, PREPARE, COMMIT and the "
            "replies. Checkpoints and status messages are listed beside them: the formula leaves them out.",
            "2f² + 5f + 2 is what a run with f crashed backups and an explicit vote of the primary sends. "
            "Without faults and with the vote implied by PREPARE, as here, it is 4f² + 4f + 2.",
            "The paper's 12f² + 10f + 2 for PBFT is the count of no run of PBFT: with f crashed backups it "
            "is 12f² + 8f + 2, without faults 18f² + 9f + 2.",
        ),
    )
