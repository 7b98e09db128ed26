"""Azimuth: a durable, multi-AZ, Redis-compatible cluster around an unmodified Valkey.

Layers, lowest first (docs/architecture.md has the table; tests/test_layers.py enforces it):
`raft`, `az`, `engine` know nothing of each other; `shard` joins them; `front` speaks RESP;
`node` is one node, sans-IO; `runtime` is the only place with sockets, files, clocks and processes.
"""

import sys

if sys.flags.optimize:
    # Assertions are part of the product: they stop a node before it breaks a promise.
    raise RuntimeError("azimuth refuses to run under python -O: its assertions guard your data")
