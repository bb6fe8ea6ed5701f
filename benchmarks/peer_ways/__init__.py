"""The ways that `peers.py` and `view_peers.py` compare: each is a process of its own, in the environment it needs."""
