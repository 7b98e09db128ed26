"""`azimuth bench`: how fast, beside Valkey, in one run on one machine.

Rules (the reasons are in docs/performance.md):
1. Ours and the peer alternate, round by round, so that a noisy machine is noisy for both; figures are
  medians.
2. The same load generator drives both sides with the same bytes; it is a process of its own.
3. The peer is the same Valkey binary that our nodes run as their engine.
4. Percentiles come from every single latency, not from samples.
5. A run in which any command failed is no figure: the measurement stops and says why.

    generator   the closed-loop load generator, and how to run it
    peers       Valkey beside ours: one node, or a primary with two replicas
    ours        a throw-away cluster of ours
    failover    the write gap that a client sees
    measures    P1, P3, P6, P9 …: one function each, and the table of them
"""
