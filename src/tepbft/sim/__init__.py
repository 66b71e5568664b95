"""The deterministic simulator: production nodes in a world that one seed decides.

`tepbft.sim.run.run_seed` is the way in. Network, disks, clocks, crashes, trusted
components and Byzantine hosts are simulated; the node, the client session and the
trusted component's code are the ones that production runs. Checkers stand outside
the replicas and see every statement, every record and every executed block (D1).
"""
