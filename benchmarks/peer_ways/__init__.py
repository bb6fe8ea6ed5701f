"""The ways that `benchmarks/peers.py` compares: each file is a process of its own, in the environment that it needs."""
