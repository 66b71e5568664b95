"""An abstract model of TEP-BFT's view change and configuration barrier, explored by random walks (A6.3).

Messages are facts in one global set: whoever wants to use a fact may, at any later
time, or never; so the network is the adversary. Trusted components are honest,
Byzantine hosts call theirs as they please, correct nodes take the steps that the
protocol allows in any order. After every step the invariants are checked.

    component.py   HB-USIG as the model sees it (A2)
    facts.py       the set of signed facts, configurations, certificates
    rules.py       evidence, merge: pure functions over facts (A3.4)
    replica.py     what one correct node remembers
    checks.py      the invariants (I-1, I-2, I-5, I-7, I-8, I-9, I-19, I-20)
    setup.py       the bounds of a walk
    world.py       one action at a time: ordering, execution, checkpoints
    departures.py  actions of the view change (A3.4)
    barrier.py     actions of the configuration barrier (A8.3)
    choices.py     what a correct node or a Byzantine host might do next
    explorer.py    walks, campaigns, coverage
    shrink.py      a failing schedule without the actions that it does not need
    mutants.py     defects that the exploration must find

`python -m tepbft.model --help` runs it.
"""
