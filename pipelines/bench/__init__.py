"""Measurements beside peers, side by side in one run: `make bench`.

A case is an entry in `cases.CASES` and a function that yields rows (`table.py`): times of two tasks in turn
(`timing.py`), properties, or why something is absent. A peer is an entry in `session.PEERS` and a file in
peers/; it runs in a process of its own (`worker.py`, `serving.py`), in our environment or in the one that
`environment.py` makes. Ours are measured in the process of the bench itself.
"""
