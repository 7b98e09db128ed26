"""The shell: the only place with asyncio, gRPC, files, clocks and child processes.

It drives the pure parts (`cluster/node.py` and below) and decides nothing of its own. `wal` and `files` keep
the log, `codec` turns messages into protobuf and back, `transport` carries them between nodes. Everything
here may fail, be slow or be killed at any instruction; what the node may conclude from that is written where
it is handled.
"""

import os

# gRPC reads these once, when it is first imported. Its own log lines go past ours, to stderr, in another
# format; and we never fork without exec, so that its fork handlers only cost.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
