"""Consensus: one room per protocol. Rooms share `core`, never each other."""
