"""A shard: the slots it owns and one member of its Raft group together with that member's engine. Pure.

`slots` and `shard_map` say which shard a key belongs to and who leads it; the front may use these two.
The replica, with what it needs (effect stream, cutter, reply gate), is for `cluster/node.py` alone.
Left out until 5/5: migration of slots between shards.
"""
