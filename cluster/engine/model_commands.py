"""The COMMAND table of what the model engine understands: Valkey 9.1's own, in short form.

One line a command: `name; arity; flags; first last step; ACL categories; tips; flags of its key spec`.
Every command here has at most one key spec, and it can be told from first, last and step. `COMMAND_TABLE`
is the long form, as hiredis parses the real reply (lists, bytes, ints); tests/engine/test_model.py
compares it with the real one, entry by entry. `req:` and `resp:` are short for `request_policy:` and
`response_policy:`. Subcommands stand under their full name (`client|id`).
"""

_ROWS = """
append; 3; write denyoom fast; 1 1 1; @write @string @fast; ; RW insert
client; -2; ; 0 0 0; @slow; ;
client|getname; 2; noscript loading stale allow_busy; 0 0 0; @slow @connection; ;
client|id; 2; noscript loading stale allow_busy; 0 0 0; @slow @connection; ;
client|setinfo; 4; noscript loading stale allow_busy; 0 0 0; @slow @connection; req:all_nodes,resp:all_ok;
client|setname; 3; noscript loading stale allow_busy; 0 0 0; @slow @connection; req:all_nodes,resp:all_ok;
command; -1; loading stale; 0 0 0; @slow @connection; nondeterministic_output_order;
command|count; 2; loading stale; 0 0 0; @slow @connection; ;
dbsize; 1; readonly fast; 0 0 0; @keyspace @read @fast; req:all_shards,resp:agg_sum;
decr; 2; write denyoom fast; 1 1 1; @write @string @fast; ; RW access update
decrby; 3; write denyoom fast; 1 1 1; @write @string @fast; ; RW access update
del; -2; write; 1 -1 1; @keyspace @write @slow; req:multi_shard,resp:agg_sum; RM delete
discard; 1; noscript loading stale fast allow_busy; 0 0 0; @fast @transaction; ;
echo; 2; loading stale fast; 0 0 0; @fast @connection; ;
exec; 1; noscript loading stale skip_commandlog; 0 0 0; @slow @transaction; ;
exists; -2; readonly fast; 1 -1 1; @keyspace @read @fast; req:multi_shard,resp:agg_sum; RO
expire; -3; write fast; 1 1 1; @keyspace @write @fast; ; RW update
expireat; -3; write fast; 1 1 1; @keyspace @write @fast; ; RW update
flushall; -1; write; 0 0 0; @keyspace @write @slow @dangerous; req:all_shards,resp:all_ok;
flushdb; -1; write; 0 0 0; @keyspace @write @slow @dangerous; req:all_shards,resp:all_ok;
get; 2; readonly fast; 1 1 1; @read @string @fast; ; RO access
getdel; 2; write fast; 1 1 1; @write @string @fast; ; RW access delete
getset; 3; write denyoom fast; 1 1 1; @write @string @fast; ; RW access update
hdel; -3; write fast; 1 1 1; @write @hash @fast; ; RW delete
hello; -1; noscript loading stale fast no_auth allow_busy; 0 0 0; @fast @connection; ;
hget; 3; readonly fast; 1 1 1; @read @hash @fast; ; RO access
hgetall; 2; readonly; 1 1 1; @read @hash @slow; nondeterministic_output_order; RO access
hincrby; 4; write denyoom fast; 1 1 1; @write @hash @fast; ; RW access update
hlen; 2; readonly fast; 1 1 1; @read @hash @fast; ; RO
hset; -4; write denyoom fast; 1 1 1; @write @hash @fast; ; RW update
incr; 2; write denyoom fast; 1 1 1; @write @string @fast; ; RW access update
incrby; 3; write denyoom fast; 1 1 1; @write @string @fast; ; RW access update
keys; 2; readonly; 0 0 0; @keyspace @read @slow @dangerous; req:all_shards,nondeterministic_output_order;
llen; 2; readonly fast; 1 1 1; @read @list @fast; ; RO
lpop; -2; write fast; 1 1 1; @write @list @fast; ; RW access delete
lpush; -3; write denyoom fast; 1 1 1; @write @list @fast; ; RW insert
lrange; 4; readonly; 1 1 1; @read @list @slow; ; RO access
mset; -3; write denyoom; 1 -1 2; @write @string @slow; req:multi_shard,resp:all_ok; OW update
multi; 1; noscript loading stale fast no_multi allow_busy; 0 0 0; @fast @transaction; ;
persist; 2; write fast; 1 1 1; @keyspace @write @fast; ; RW update
pexpire; -3; write fast; 1 1 1; @keyspace @write @fast; ; RW update
pexpireat; -3; write fast; 1 1 1; @keyspace @write @fast; ; RW update
ping; -1; fast; 0 0 0; @fast @connection; req:all_shards,resp:all_ok;
pttl; 2; readonly fast; 1 1 1; @keyspace @read @fast; nondeterministic_output; RO access
role; 1; noscript loading stale fast; 0 0 0; @admin @fast @dangerous; ;
rpop; -2; write fast; 1 1 1; @write @list @fast; ; RW access delete
rpush; -3; write denyoom fast; 1 1 1; @write @list @fast; ; RW insert
sadd; -3; write denyoom fast; 1 1 1; @write @set @fast; ; RW insert
scard; 2; readonly fast; 1 1 1; @read @set @fast; ; RO
select; 2; loading stale fast allow_busy; 0 0 0; @fast @connection; ;
set; -3; write denyoom; 1 1 1; @write @string @slow; ; RW access update variable_flags
setnx; 3; write denyoom fast; 1 1 1; @write @string @fast; ; OW insert
sismember; 3; readonly fast; 1 1 1; @read @set @fast; ; RO
smembers; 2; readonly; 1 1 1; @read @set @slow; nondeterministic_output_order; RO access
spop; -2; write fast; 1 1 1; @write @set @fast; nondeterministic_output; RW access delete
srem; -3; write fast; 1 1 1; @write @set @fast; ; RW delete
strlen; 2; readonly fast; 1 1 1; @read @string @fast; ; RO
ttl; 2; readonly fast; 1 1 1; @keyspace @read @fast; nondeterministic_output; RO access
type; 2; readonly fast; 1 1 1; @keyspace @read @fast; ; RO
unlink; -2; write fast; 1 -1 1; @keyspace @write @fast; req:multi_shard,resp:agg_sum; RM delete
unwatch; 1; noscript loading stale fast allow_busy; 0 0 0; @fast @transaction; ;
watch; -2; noscript loading stale fast no_multi allow_busy; 1 -1 1; @fast @transaction; ; RO
xadd; -5; write denyoom fast; 1 1 1; @write @stream @fast; nondeterministic_output; RW update
xlen; 2; readonly fast; 1 1 1; @read @stream @fast; ; RO
xrange; -4; readonly; 1 1 1; @read @stream @slow; ; RO access
zadd; -4; write denyoom fast; 1 1 1; @write @sortedset @fast; ; RW update
zcard; 2; readonly fast; 1 1 1; @read @sortedset @fast; ; RO
zrange; -4; readonly; 1 1 1; @read @sortedset @slow; ; RO access
zrem; -3; write fast; 1 1 1; @write @sortedset @fast; ; RW delete
zscore; 3; readonly fast; 1 1 1; @read @sortedset @fast; ; RO access
"""

# The key specs that carry a remark.
_NOTES = {
    b"set": b"RW and ACCESS due to the optional `GET` argument",
    b"xadd": b"UPDATE instead of INSERT because of the optional trimming feature",
}


def _key_specs(name: bytes, first: int, last: int, step: int, flags: str) -> list[object]:
    if not flags:
        return []
    spec: list[object] = [b"notes", _NOTES[name]] if name in _NOTES else []
    find = [b"lastkey", last - first if last >= 0 else last, b"keystep", step, b"limit", 0]
    spec += [b"flags", flags.encode().split()]
    spec += [b"begin_search", [b"type", b"index", b"spec", [b"index", first]]]
    spec += [b"find_keys", [b"type", b"range", b"spec", find]]
    return [spec]


def _long_tip(tip: str) -> bytes:
    for short, long in (
        ("req:", "request_policy:"),
        ("resp:", "response_policy:"),
        ("all_ok", "all_succeeded"),
    ):
        tip = tip.replace(short, long)
    return tip.encode()


def _entry(row: str) -> list[object]:
    name, arity, flags, keys, categories, tips, spec = (field.strip() for field in row.split(";"))
    first, last, step = (int(number) for number in keys.split())
    return [
        name.encode(),
        int(arity),
        flags.encode().split(),
        first,
        last,
        step,
        categories.encode().split(),
        [_long_tip(tip) for tip in tips.split(",") if tip],
        _key_specs(name.encode(), first, last, step, spec),
        [],
    ]


def _table() -> list[list[object]]:
    """Subcommands are put into the entry of their command, which stands before them."""
    table: dict[bytes, list[object]] = {}
    for row in _ROWS.strip().splitlines():
        entry = _entry(row)
        container, bar, _ = row.split(";")[0].partition("|")
        if bar:
            inner = table[container.encode()][9]
            assert isinstance(inner, list)
            inner.append(entry)
        else:
            table[container.encode()] = entry
    return list(table.values())


COMMAND_TABLE: list[list[object]] = _table()
