"""What a Redis client talks to: the RESP codec, the command table, the session, CLUSTER replies. Pure.

    bytes ─ resp.CommandParser ─> Command(args, raw) ─ commands.CommandTable ─> CommandSpec
                                                                   │ disposition, keys, slot
                                     session ─ local answer, refusal, or `raw` verbatim to the engine

The one rule of this package: **what the front understood is what the engine executes**. `raw` is always a
strict RESP2 array of bulk strings, and key positions come from the engine's own COMMAND table, so there is no
second reading of a command that could differ from the first (request smuggling, a key on the wrong shard).
"""
