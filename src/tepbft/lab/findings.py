"""What the figures of an experiment say, in sentences that are computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from tepbft.lab.figures import Place, growth_curve
from tepbft.lab.metrics import METRICS, spread
from tepbft.lab.points import HALF, SATURATION

POSSIBLE = 1.05
"""No share of the limit beyond this can be true; up to it, both measurements wobble."""
MILD = 0.9
"""A fault that leaves so much costs little."""
FAR = 0.05
"""Below such a share of the limit it says nothing."""
ANSWERED = 0.98
"""From this share on, what is due counts as answered."""


def findings(experiment: str, places: Sequence[Place]) -> list[str]:
    """Sentences about an experiment; none if too little was measured."""
    say = _SAY.get(experiment)
    measured = [place for place in places if place.results]
    return say(measured) if say is not None and len(measured) > 0 else []


def _value(place: Place, metric: str) -> float:
    found = spread(metric, place.results)
    return found.middle if found is not None else 0.0


def _text(place: Place, metric: str) -> str:
    found = METRICS[metric]
    return f"{found.text(_value(place, metric))} {found.unit}".strip()


def _series(places: Sequence[Place], ending: str) -> list[Place]:
    return [place for place in places if place.series.endswith(ending)]


def _ratio(place: Place) -> str:
    found = spread("ratio", place.results)
    if found is None:
        return "no signatures to verify"
    if found.middle < FAR:
        return "authenticators are no limit"
    doubt = " (impossible: the machine was busy while that was measured)" if found.middle > POSSIBLE else ""
    return f"{found.middle:.0%} of what signatures alone allow{doubt}"


def _rate(places: Sequence[Place]) -> list[str]:
    answered = [place for place in places if _value(place, "tps") >= ANSWERED * float(place.x)]
    best = max(places, key=lambda place: _value(place, "tps"))
    found = [f"The most is {_text(best, 'tps')}, {_ratio(best)}."]
    if answered:
        most = max(answered, key=lambda place: float(place.x))
        found.insert(
            0,
            f"Up to {float(most.x):,.0f} requests per second everything is answered, half of it within "
            f"{_text(most, 'p50')} and 99 % within {_text(most, 'p99')}.",
        )
    else:
        found.insert(0, "Not even the lowest rate is answered in full.")
    return found


def _resources(places: Sequence[Place]) -> list[str]:
    low, high = places[0], places[-1]
    return [
        f"From {float(low.x):,.0f} to {float(high.x):,.0f} requests due per second a node goes from "
        f"{_value(low, 'cores_per_node'):.2f} to {_value(high, 'cores_per_node'):.2f} cores, and a request "
        f"from {_text(low, 'cpu_us')} to {_text(high, 'cpu_us')} of processor time: blocks fill up.",
        f"The largest node needs {_text(low, 'rss_mb')} at the lowest rate and {_text(high, 'rss_mb')} at "
        "the highest.",
    ]


def _ends(places: Sequence[Place], what: str) -> list[str]:
    peak = _series(places, SATURATION)
    if len(peak) < 2:
        return []
    low, high = peak[0], peak[-1]
    found = [
        f"{low.at} {what}: {_text(low, 'tps')}, {_ratio(low)}. {high.at} {what}: {_text(high, 'tps')}, "
        f"{_ratio(high)}."
    ]
    half = _series(places, HALF)
    if len(half) > 1:
        found.append(
            f"At half of that the median latency is {_text(half[0], 'p50')} with {half[0].at} and "
            f"{_text(half[-1], 'p50')} with {half[-1].at}."
        )
    return found


def _nodes(places: Sequence[Place]) -> list[str]:
    return _ends(places, "nodes")


def _faults(places: Sequence[Place]) -> list[str]:
    return _ends([place for place in places if "crashed" in place.series], "crashed nodes")


def _byzantine(places: Sequence[Place]) -> list[str]:
    healthy = next((place for place in places if place.at == "no fault"), None)
    lying = [place for place in places if place is not healthy]
    if healthy is None or not lying:
        return []
    before = max(1e-9, _value(healthy, "tps"))
    worst = min(lying, key=lambda place: _value(place, "tps"))
    longest = max(lying, key=lambda place: _value(place, "gap_ms"))
    mild = sum(_value(place, "tps") >= MILD * before for place in lying)
    return [
        f"In all runs shown the nodes that do not lie agree afterwards. The dearest behaviour is "
        f"“{worst.at}”, which leaves {_value(worst, 'tps') / before:.0%} of the throughput without faults.",
        f"{mild} of {len(lying)} behaviours leave at least {MILD:.0%} of it.",
        f"The longest time without an answer is {_text(longest, 'gap_ms')}, under “{longest.at}”.",
    ]


def _pairs(places: Sequence[Place], metric: str, what: str) -> list[str]:
    """The first series against the second at every common x."""
    names = list(dict.fromkeys(place.series for place in places))
    if len(names) < 2:
        return []
    found = []
    first = {place.x: place for place in places if place.series == names[0]}
    for place in places:
        if place.series == names[1] and place.x in first:
            other = first[place.x]
            found.append(f"{place.at}: {_text(other, metric)} against {_text(place, metric)}")
    return [f"{what}, {names[0]} against {names[1]} – " + "; ".join(found) + "."] if found else []


def _component(places: Sequence[Place]) -> list[str]:
    return _pairs(places, "cpu_us", "CPU per request and node by requests per block")


def _messages(places: Sequence[Place]) -> list[str]:
    return [
        f"{place.at} nodes: {_value(place, 'messages'):.1f} messages per request for ordering and replies, "
        f"{_value(place, 'other_messages'):.1f} more for checkpoints, status and the like."
        for place in places
    ]


def _schemes(places: Sequence[Place]) -> list[str]:
    return [
        f"{place.at}: {_text(place, 'tps')}, {_ratio(place)}; {_text(place, 'cpu_us')} of processor time per "
        "request and node."
        for place in _series(places, SATURATION)
    ]


def _sweep(what: str) -> Callable[[Sequence[Place]], list[str]]:
    """Best and worst of each series."""

    def say(places: Sequence[Place]) -> list[str]:
        found = []
        for name in dict.fromkeys(place.series for place in places):
            mine = [place for place in places if place.series == name]
            best = max(mine, key=lambda place: _value(place, "tps"))
            worst = min(mine, key=lambda place: _value(place, "tps"))
            if best is not worst:
                found.append(
                    f"{name}: most with {what} {best.at} ({_text(best, 'tps')}), least with {worst.at} "
                    f"({_text(worst, 'tps')})."
                )
        return found

    return say


def _failover(places: Sequence[Place]) -> list[str]:
    return [
        f"{place.series}: nobody is answered for {_text(place, 'gap_ms')}; then the backlog is worked off, "
        f"and {sum(result['lost'] for result in place.results)} requests stay without an answer."
        for place in places
    ]


def _overload(places: Sequence[Place]) -> list[str]:
    loop = [place for place in places if place.series == "open loop"]
    peak = max((_value(place, "tps") for place in places), default=0.0)
    if not loop or not peak:
        return []
    last = loop[-1]
    return [
        f"With {last.at} times the saturation throughput due, {_text(last, 'tps')} are answered, "
        f"{_value(last, 'tps') / peak:.0%} of the most that was seen; half of these within "
        f"{_text(last, 'p50')}."
    ]


def _growth(places: Sequence[Place]) -> list[str]:
    result = places[0].results[0]
    curve = growth_curve(result, "timeline")
    tenth = max(1, len(curve) // 10)
    if len(curve) < 4:
        return []
    start = median(value for _, value in curve[:tenth])
    end = median(value for _, value in curve[-tenth:])
    memory = [size for _, size in growth_curve(result, "rss_series")]
    return [
        f"{result['committed']:,} transactions: {start:,.0f} per second in the first tenth, {end:,.0f} in "
        f"the last ({end / start - 1:+.0%}).",
        f"The largest node grows from {memory[0]:,.0f} to {max(memory):,.0f} MiB, and the store by "
        f"{_text(places[0], 'disk_bytes')} per transaction.",
    ]


_SAY: dict[str, Callable[[Sequence[Place]], list[str]]] = {
    "rate": _rate,
    "resources": _resources,
    "nodes": _nodes,
    "faults": _faults,
    "byzantine": _byzantine,
    "component": _component,
    "messages": _messages,
    "schemes": _schemes,
    "payload": _sweep("operations of"),
    "blocks": _sweep("blocks of"),
    "bundles": _sweep("bundles of"),
    "in-flight": _sweep("blocks in flight:"),
    "checkpoints": _sweep("K ="),
    "failover": _failover,
    "overload": _overload,
    "growth": _growth,
}
