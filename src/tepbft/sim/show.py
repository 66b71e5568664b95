"""A trace as a sequence diagram: one lane per host, time downwards, one arrow per message.

Time is not to scale: each moment at which something happens gets the room that its
labels need, and a pause is drawn as a short gap. What a host does again (the same
message to the same peer) is left out of a picture and faint in a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tepbft.sim.tracefile import Trace

LANE_PX, LEFT_PX, TOP_PX, ROW_PX = 250, 130, 128, 15
MAX_ROWS = 4000
"""Rows of one picture; what comes later is left out, and the picture says so."""
HEAD_PX = 7

COLOURS = {
    "Prepare": "#1864ab",
    "Commit": "#2b8a3e",
    "Checkpoint": "#6741d9",
    "Stable": "#9775fa",
    "ReqVc": "#e8590c",
    "ViewChange": "#c92a2a",
    "NewView": "#a61e4d",
    "NvAck": "#d6336c",
    "NewViewCertificate": "#862e9c",
    "Status": "#868e96",
    "Forward": "#0b7285",
    "Admission": "#5c940d",
    "bytes": "#000000",
}
"""Colour by message type; the rest (fetching and sending of bodies, finals, chunks) shares one."""
OTHER = "#946c00"

MARKS: dict[str, tuple[str, str, str]] = {
    "execute": ("square", "#2b8a3e", "executed h{height}"),
    "stable": ("diamond", "#6741d9", "stable h{height}"),
    "view": ("band", "#a61e4d", "enters view {view}"),
    "view_change_requested": ("dot", "#e8590c", "asks for view {target} ({cause})"),
    "view_left": ("dot", "#c92a2a", "leaves for view {target}"),
    "crash": ("cross", "#c92a2a", "crash"),
    "cold": ("cross", "#c92a2a", "component dies"),
    "warm": ("cross", "#e8590c", "component sealed"),
    "wipe": ("cross", "#c92a2a", "disk lost"),
    "start": ("up", "#2b8a3e", "starts in view {view}"),
    "disk_full": ("dot", "#c92a2a", "disk full"),
    "state_transferred": ("diamond", "#0b7285", "state of h{height} installed"),
    "configuration": ("diamond", "#5c940d", "configuration {number}"),
    "diverged": ("dot", "#c92a2a", "diverged at h{height}"),
    "healed": ("dot", "#2b8a3e", "repaired at h{height}"),
    "tc_refused": ("dot", "#e8590c", "component refuses: {code}"),
    "violation": ("star", "#e03131", "VIOLATION {check}"),
}
"""Event -> (shape, colour, label)."""
DOWN = ("crash", "cold", "warm", "wipe")
RULES = {"heal": "faults stop", "partition": "links down", "violation": "violation", "end": "end"}
"""Events without a host: a line across all lanes."""


@dataclass
class Item:
    """Something that takes a row on a lane, or across all of them (`lane` -1)."""

    at_ms: int
    lane: int
    event: dict[str, Any]
    repeats: bool = False
    y: float = 0.0


@dataclass
class Layout:
    """Where everything is."""

    nodes: int
    items: list[Item] = field(default_factory=list)
    times: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Moment -> (first, last) y of its rows."""
    bottom: float = TOP_PX
    hidden: int = 0
    """Retransmissions that get no row."""
    cut_ms: int | None = None
    """What happened from here on did not fit."""

    def x(self, lane: int) -> float:
        """Middle of a lane."""
        return LEFT_PX + LANE_PX * lane + 20

    @property
    def width(self) -> float:
        """Width of the picture, pixels."""
        return self.x(self.nodes - 1) + 260

    def y_of(self, at_ms: int) -> float:
        """Where a moment is at which something left: after what happened in the same millisecond."""
        found = self.times.get(at_ms)
        if found is not None:
            return found[1]
        earlier = [moment for moment in self.times if moment < at_ms]
        return self.times[max(earlier)][1] + 3 if earlier else TOP_PX - 8


def _key(event: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(event[name] for name in ("sender", "host", "message", "view", "height"))


def collect(trace: Trace, from_ms: int, to_ms: int | None) -> tuple[list[Item], int]:
    """What is to be drawn, in order, and how many of it are retransmissions."""
    seen: dict[tuple[Any, ...], None] = {}
    items = []
    for event in trace.events:
        kind, at_ms = event["event"], event["at_ms"]
        if at_ms < from_ms or (to_ms is not None and at_ms > to_ms):
            continue
        if kind in ("message", "lost"):
            key = (kind == "lost", *_key(event))
            lane = event["sender"] if kind == "lost" else event["host"]
            items.append(Item(at_ms, lane, event, repeats=key in seen))
            seen[key] = None
        elif event["host"] >= 0 and kind in MARKS:
            items.append(Item(at_ms, event["host"], event))
        elif event["host"] < 0 and kind in RULES:
            items.append(Item(at_ms, -1, event))
    return items, sum(item.repeats for item in items)


def place(items: Iterable[Item], nodes: int) -> Layout:
    """Give every item its row: items of one lane and moment get rows of their own."""
    layout = Layout(nodes)
    y, moment = float(TOP_PX), -1
    used: dict[int, int] = {}
    rows = 0

    def close() -> None:
        nonlocal y
        if used:
            height = max(used.values()) * ROW_PX
            layout.times[moment] = (y, y + height - ROW_PX)
            y += height

    for item in sorted(items, key=lambda item: item.at_ms):
        if item.at_ms != moment:
            close()
            if used:
                y += min(26.0, 2.0 + 0.6 * (item.at_ms - moment))
            moment, used = item.at_ms, {}
        if rows >= MAX_ROWS:
            layout.cut_ms = item.at_ms
            break
        if item.repeats:
            item.y = y
        else:
            lane = item.lane
            row = max(used.values(), default=0) if lane < 0 else max(used.get(lane, 0), used.get(-1, 0))
            item.y = y + row * ROW_PX
            used[lane] = row + 1
            rows += 1
        layout.items.append(item)
    close()
    layout.bottom = y + 30
    return layout


def _attributes(**values: Any) -> str:
    names = {"css": "class"}
    return " ".join(
        f'{names.get(name, name.replace("_", "-"))}="{escape(str(value))}"' for name, value in values.items()
    )


def _text(x: float, y: float, words: str, **attributes: Any) -> str:
    return f"<text {_attributes(x=round(x, 1), y=round(y, 1), **attributes)}>{escape(words)}</text>"


def colour_of(message: str) -> str:
    """Colour of a message type."""
    return COLOURS.get(message, OTHER)


def _where(event: dict[str, Any]) -> str:
    view, height = event["view"], event["height"]
    return "".join(f" {letter}{value}" for letter, value in (("v", view), ("h", height)) if value >= 0)


Drawn = tuple[str, str]
"""Lines, and what is drawn above all lines."""


def _arrow(layout: Layout, item: Item) -> Drawn:
    event = item.event
    name = event["message"]
    lost = event["event"] == "lost"
    x1, y1 = layout.x(event["sender"]), layout.y_of(event["sent_ms"])
    x2, y2 = layout.x(event["host"]), item.y
    if lost:
        y1, y2 = item.y, item.y
    side = 1 if x2 > x1 else -1
    title = (
        f"{name} from host {event['sender']} to host {event['host']},{_where(event)}, sent at "
        f"{event['sent_ms']} ms, " + ("lost" if lost else f"arrived at {item.at_ms} ms")
    )
    classes = f"m m-{name}" + (" lost" if lost else "") + (" again" if item.repeats else "")
    if lost:
        x2 = x1 + side * 14
        lines = (
            f'<path d="M{x1:.1f} {y1:.1f}H{x2:.1f}"/>'
            f'<path class="x" d="M{x2 - 3:.1f} {y2 - 3:.1f}l6 6m0 -6l-6 6"/>'
        )
        x, anchor = x2 + side * 7, "start" if side > 0 else "end"
        words = f"{name}{_where(event)} to {event['host']}"
    else:
        tip = x2 - side * 5
        lines = (
            f'<path d="M{x1:.1f} {y1:.1f}L{tip:.1f} {y2:.1f}"/>'
            f'<path class="h" d="M{tip:.1f} {y2:.1f}l{-side * HEAD_PX} -3.5v7z"/>'
        )
        x, anchor = tip - side * (HEAD_PX + 3), "end" if side > 0 else "start"
        words = name + _where(event)
    begin = f'<g class="{escape(classes)}" style="--c:{colour_of(name)}"><title>{escape(title)}</title>'
    label = "" if item.repeats else begin + _text(x, y2 + 3.5, words, text_anchor=anchor) + "</g>"
    return begin + lines + "</g>", label


_SHAPES = {
    "square": "M-4 -4h8v8h-8z",
    "diamond": "M0 -6l5 6l-5 6l-5 -6z",
    "dot": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "cross": "M-6 -4l2 -2l4 4l4 -4l2 2l-4 4l4 4l-2 2l-4 -4l-4 4l-2 -2l4 -4z",
    "up": "M0 -6l6 10h-12z",
    "band": "M-9 -3h18v6h-18z",
    "star": "M0 -9l3 6h6l-4 4l2 7l-7 -4l-7 4l2 -7l-4 -4h6z",
}


def _mark(layout: Layout, item: Item) -> Drawn:
    shape, colour, label = MARKS[item.event["event"]]
    words = label.format_map(_Fields(item.event))
    x, y = layout.x(item.lane), item.y
    title = f"host {item.lane} at {item.at_ms} ms: {words} {item.event.get('detail', '')}"
    begin = f'<g class="k k-{escape(item.event["event"])}"><title>{escape(title)}</title>'
    return "", (
        begin
        + f'<path d="{_SHAPES[shape]}" transform="translate({x:.1f} {y:.1f})" fill="{colour}"/>'
        + _text(x + 12, y + 3.5, words, fill=colour)
        + "</g>"
    )


class _Fields(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return "?"


def _rule(layout: Layout, item: Item) -> Drawn:
    event = item.event
    words = RULES[event["event"]]
    if event["event"] == "partition":
        words += (
            f" ({event.get('shape', '?')}): {' '.join(str(link) for link in event.get('more', ())) or 'none'}"
        )
    elif event["event"] == "violation":
        words = f"VIOLATION {event.get('check', '?')}: {event.get('detail', '')}"
    kind = event["event"]
    begin = f'<g class="r r-{kind}">'
    line = f'<path d="M{LEFT_PX - 30} {item.y:.1f}H{layout.width - 10:.1f}"/>'
    return begin + line + "</g>", begin + _text(LEFT_PX - 24, item.y + 3.5, words[:110]) + "</g>"


def _lanes(layout: Layout, trace: Trace, starts_down: Sequence[bool]) -> list[str]:
    """Life lines: dashed while the process is down."""
    parts = []
    byzantine = trace.head.get("byzantine")
    liars: dict[str, Any] = byzantine if isinstance(byzantine, dict) else {}
    for lane in range(layout.nodes):
        x = layout.x(lane)
        name = f"host {lane}"
        liar = liars.get(str(lane))
        parts.append(_text(x, TOP_PX - 36, name, text_anchor="middle", css="lane"))
        if liar is not None:
            parts.append(_text(x, TOP_PX - 22, f"Byzantine: {liar}", text_anchor="middle", fill="#c92a2a"))
        y, down = float(TOP_PX - 14), starts_down[lane]
        for item in layout.items:
            kind = item.event["event"]
            if item.lane != lane or kind not in (*DOWN, "start"):
                continue
            parts.append(_life(x, y, item.y, down))
            y, down = item.y, kind != "start"
        parts.append(_life(x, y, layout.bottom - 14, down))
    return parts


def _life(x: float, y1: float, y2: float, down: bool) -> str:
    return f'<path class="{"down" if down else "life"}" d="M{x:.1f} {y1:.1f}V{y2:.1f}"/>'


def _down_at(trace: Trace, from_ms: int) -> list[bool]:
    """Which hosts are down as the picture begins."""
    down = [False] * trace.nodes
    for event in trace.events:
        if event["at_ms"] < from_ms and event["host"] >= 0 and event["event"] in (*DOWN, "start"):
            down[event["host"]] = event["event"] != "start"
    return down


def _clock(layout: Layout) -> list[str]:
    """Times at the left edge, where there is room."""
    parts, free = [], 0.0
    for at_ms, (first, _) in layout.times.items():
        if first >= free:
            parts.append(_text(LEFT_PX - 46, first + 3.5, f"{at_ms} ms", css="t"))
            free = first + ROW_PX
    return parts


_STYLE = """
svg{font:10.5px system-ui,"DejaVu Sans",sans-serif;background:#fff}
text{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
.m path{stroke:var(--c);fill:none;stroke-width:1.1}.m path.h{fill:var(--c);stroke:none}.m text{fill:var(--c)}
.m:hover path{stroke-width:2.6}.lost path{stroke-dasharray:3 2}.lost path.x{stroke-dasharray:none}
.lost text{opacity:.75}.again{opacity:.22}
.life{stroke:#adb5bd;stroke-width:2}.down{stroke:#e03131;stroke-width:1.5;stroke-dasharray:2 5}
.lane{font-weight:600;font-size:14px}.t{fill:#868e96;text-anchor:end}
.r path{stroke:#ced4da;stroke-dasharray:6 4}.r text{fill:#495057;font-style:italic}
.r-violation path{stroke:#e03131;stroke-width:2}.r-violation text{fill:#e03131;font-weight:600}
.title{font-size:13px;font-weight:600}.legend{font-size:11px}
"""


def message_types(layout: Layout) -> list[str]:
    """Types that occur, in order of `COLOURS`, then by name."""
    found = sorted({i.event["message"] for i in layout.items if i.event["event"] in ("message", "lost")})
    return [name for name in COLOURS if name in found] + [name for name in found if name not in COLOURS]


def render_svg(trace: Trace, from_ms: int = 0, to_ms: int | None = None, *, again: bool = False) -> str:
    """The picture, complete in itself. `again`: with retransmissions, faint."""
    items, repeats = collect(trace, from_ms, to_ms)
    layout = place(items if again else [item for item in items if not item.repeats], trace.nodes)
    layout.hidden = 0 if again else repeats
    width, height = max(layout.width, 760.0), layout.bottom + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        *_heading(trace, layout),
        *_lanes(layout, trace, _down_at(trace, from_ms)),
        *_clock(layout),
    ]
    drawn = [_draw(layout, item) for item in layout.items]
    parts += [lines for lines, _ in drawn if lines]
    parts += [label for _, label in drawn if label]
    return "\n".join((*parts, "</svg>\n"))


def _draw(layout: Layout, item: Item) -> Drawn:
    if item.lane < 0:
        return _rule(layout, item)
    return _arrow(layout, item) if item.event["event"] in ("message", "lost") else _mark(layout, item)


def _heading(trace: Trace, layout: Layout) -> list[str]:
    head = trace.head
    title = f"{head.get('protocol', '?')}, {trace.nodes} nodes, seed {head.get('seed', '?')}, faults "
    title += f"{head.get('faults', '?')}"
    if head.get("mutant"):
        title += f", planted defect {head['mutant']}"
    notes = []
    if layout.hidden:
        notes.append(f"{layout.hidden} retransmissions not drawn")
    if layout.cut_ms is not None:
        notes.append(f"cut at {layout.cut_ms} ms: choose a part with --from and --to")
    violations = trace.result.get("violations")
    if isinstance(violations, list) and violations:
        notes.append(f"violated: {str(violations[0])[:100]}")
    parts = [
        _text(16, 22, title, css="title"),
        _text(16, 38, "; ".join(notes)),
    ]
    x, y = 16.0, 46
    for name in message_types(layout):
        wide = 26 + 6.6 * len(name)
        if x + wide > layout.width:
            x, y = 16.0, y + 15
        parts.append(f'<rect x="{x:.0f}" y="{y}" width="9" height="9" fill="{colour_of(name)}"/>')
        parts.append(_text(x + 13, y + 8.5, name, css="legend"))
        x += wide
    return parts


_SCRIPT = """
for (const box of document.querySelectorAll('input[data-c]'))
  box.addEventListener('change', () => {
    for (const e of document.getElementsByClassName(box.dataset.c))
      e.classList.toggle('off-' + box.dataset.g, !box.checked);
  });
document.getElementById('all').onclick = () => all(true);
document.getElementById('none').onclick = () => all(false);
function all(on) {
  for (const box of document.querySelectorAll('input[data-g=type]'))
    if (box.checked !== on) box.click();
}
"""
_PAGE_STYLE = """
body{margin:0;font:13px system-ui,sans-serif;background:#f8f9fa}
nav{position:sticky;top:0;background:#fff;border-bottom:1px solid #dee2e6;padding:8px 16px;display:flex;
flex-wrap:wrap;gap:4px 14px;align-items:center;z-index:1}
main{padding:8px 16px;overflow-x:auto}.off-type,.off-again,.off-lost,.off-mark{display:none}
"""


def render_html(trace: Trace, from_ms: int = 0, to_ms: int | None = None) -> str:
    """A page with the picture, in which message types can be hidden; needs nothing else."""
    items, _ = collect(trace, from_ms, to_ms)
    types = message_types(place(items, trace.nodes))
    svg = render_svg(trace, from_ms, to_ms, again=True).replace(' again"', ' again off-again"')
    boxes = [_box(f"m-{name}", "type", name, colour_of(name)) for name in types]
    boxes += [
        _box("lost", "lost", "lost messages"),
        _box("again", "again", "retransmissions", on=False),
        _box("k", "mark", "marks"),
    ]
    title = f"seed {escape(str(trace.head.get('seed', '?')))}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_PAGE_STYLE}</style></head>\n<body><nav>"
        + "".join(boxes)
        + '<button id="all">all types</button><button id="none">no types</button></nav>\n<main>'
        + svg
        + f"</main>\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _box(class_name: str, group: str, words: str, colour: str = "#212529", *, on: bool = True) -> str:
    checked = " checked" if on else ""
    return (
        f'<label style="color:{colour}"><input type="checkbox" data-c="{escape(class_name)}" '
        f'data-g="{group}"{checked}> {escape(words)}</label>'
    )
