"""Availability zones: who stands where, and whether the loss of one of them can be survived. Pure.

`topology` describes a cluster (shards, nodes, AZs, slots), plans a new one and judges a given one.
Left out until 4/5: the health of AZs and failover plans.
"""
