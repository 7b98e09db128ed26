"""The deterministic simulator: the product's own code in a world with one seed, one clock and one queue.

    outcome = Simulation(draw_config(seed)).run()      # simulation.py, swarm.py
    outcome = run_scenario(scenario, seed)             # scenario_run.py

What is real: `cluster/node.py` and everything that it imports (Raft core, shard, front), the journal's format
and recovery, RESP between client and node. What is simulated: the network between nodes, the network to the
clients, the disk under the journal, the clocks, the engine (`cluster/engine/model.py`, held to the same
contract tests as Valkey), the event loop's turns. What is not in it: `cluster/runtime`, so gRPC, the WAL's
thread, asyncio, Valkey itself; those have tests with real processes.

| module | owns |
|---|---|
| `world` | time, the event queue, the trace hash |
| `clock`, `network`, `disk`, `wal` | the machine room, with its faults |
| `process` | machines and lives of processes; the `Host` of a node; kill points |
| `subjects` | what is put in: azimuth, or what it is compared with |
| `client`, `workloads`, `history` | clients as people use them; what they do; what they saw |
| `faults`, `swarm`, `config` | what is done to it; all of it drawn from a seed |
| `scenario*`, `toml_lines` | the same from a file |
| `safety`, `checkers` | what must hold: at every instant, and of the whole history |
| `simulation` | the phases of a run, and its verdict |
| `sweep`, `shrink`, `replay`, `compare`, `drills` | many runs; the smallest failing one; several subjects |

Determinism: nothing here or above reads a clock, the order of a set, `hash()` or `id()`; every random number
comes from a `random.Random` with a seed; integers for time. `azimuth sim determinism` runs seeds twice under
different PYTHONHASHSEED and compares trace hash and last random number.
"""
