"""Fault injection on a running cluster: real processes, sockets and disks, and a check of what came of it.

Shell above `cli`'s helpers: nothing in production imports it.
"""
