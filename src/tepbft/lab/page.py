"""The parts of the report's page that are the same in every report."""

from __future__ import annotations

CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #222;
  font: 15px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; margin: .5rem 0 1rem; }
h2 { font-size: 1.3rem; margin: 0 0 .4rem; }
section, nav { border-top: 1px solid #ddd; padding-top: 1.4rem; margin-top: 2rem; }
nav ol { columns: 3 18rem; padding-left: 1.4rem; margin: .3rem 0; }
a { color: #0b5a8a; text-decoration: none; } a:hover { text-decoration: underline; }
.question { font-size: 1.1rem; margin: .2rem 0; }
.paper { color: #666; margin: .2rem 0 .8rem; }
.answer { background: #f2f7fb; border-left: 4px solid #0072b2; margin: .8rem 0;
  padding: .6rem 1rem .6rem 2rem; }
.notes { color: #555; font-size: .92rem; padding-left: 1.2rem; }
.failed { background: #fdf1ef; border-left: 4px solid #c00000; padding: .6rem 1rem; font-size: .92rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr));
  gap: 1.5rem; }
figure { margin: 0; min-width: 0; overflow-x: auto; }
svg { width: 100%; height: auto; display: block; max-width: 600px; }
table { border-collapse: collapse; font-size: .82rem; line-height: 1.35; margin: .5rem 0; }
th, td { padding: .15rem .55rem .15rem 0; text-align: left; vertical-align: bottom;
  border-bottom: 1px solid #eee; }
th { color: #555; font-weight: 600; }
td { white-space: nowrap; } .about td, .summary td:last-child { white-space: normal; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.about th { padding-right: 1.5rem; white-space: nowrap; } .about td, .summary td { vertical-align: top; }
.summary td:first-child { white-space: nowrap; padding-right: 1.5rem; }
.range { color: #777; font-size: .8em; display: block; }
figure p { font-size: .85rem; color: #a00000; margin: .2rem 0; }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""

METHOD = """
<ul>
<li>Every point is a run of its own on a cluster made for it, as users run one: each node and each
trusted component is a process, nodes speak mutual TLS, every block is forced to the disk before
anybody is told, and every node verifies every client signature. The load comes from processes of
its own on the same machine.</li>
<li>An answer counts when f+1 nodes gave the same bytes. After each run all replicas must report the
same head; a run in which they do not is an error and shows no figure.</li>
<li>“At saturation” is a closed loop: each client keeps a number of requests waiting and sends the next
one when one is answered. Its throughput is the figure; its latency only says how many wait.</li>
<li>Where a rate is given the loop is open: requests are due at fixed moments whatever the cluster does,
and latency counts from the moment a request was <em>due</em>. A stall is therefore not hidden by
requests that were never sent (coordinated omission). A run in which the load generator itself fell
behind is marked †, one in which a hypervisor gave much of the processors' time to others ‡.</li>
<li>Clients sign before the clock starts, so that signing does not compete with the nodes for
cores.</li>
<li>The <em>limit by signatures</em> is cores / (nodes × time of one verification), the time measured on
all cores at once, in the same series of runs. Absolute figures move with the machine; the distance to
this limit does not.</li>
<li>Points are medians over the repeats; error bars go from the smallest to the largest. Processor time
is what the operating system counts for node and trusted component.</li>
</ul>
"""
