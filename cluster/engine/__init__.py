"""What we need of a Redis engine, and a small engine of our own that fills the need. Pure.

* `protocol` — the Protocol (`Engine`, `EngineEvents`, `Lane`) with its states and promises.
* `model` — `ModelEngine`, a few dozen commands in memory with Valkey's replies and Valkey's effects, for
  the simulator and for tests. It is held to the same contract tests as the real thing
  (tests/engine/test_contract.py) and compared with it command by command (tests/engine/test_differential.py).
* `model_commands` — the COMMAND table of what the model understands, word for word Valkey's.

The driver of a real engine is `cluster.runtime.valkey.ValkeyEngine`.
"""
