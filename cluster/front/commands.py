"""What each command is, where its keys are, and what the front does with it.

*What it is* comes from the engine: `CommandTable.from_engine` reads the reply to its own COMMAND (Redis 7 or
Valkey: with key specifications and subcommands). So a key position can't be read in another way than the
engine reads it. Three commands need code of their own, as they do in the engine: SORT and GEORADIUS*, whose
STORE may stand anywhere.

*What is done with it* is decided here, by an **allow-list**. A command that the engine has and these tables
do not name is refused: it may do anything to the engine under us.
Dispositions:

| disposition | who answers |
|---|---|
| LOCAL | the front: state of the connection, what needs no data |
| TRANSACTION | the front gathers, the engine executes at EXEC |
| PLAIN | the engine, on the lane that all sessions share |
| BLOCKING | the engine, on a lane of the session's own: the reply may take for ever, or must overtake a
busy script | | PUBSUB | the front, by subscriptions (5/5) |
| REFUSED | nobody; `CommandSpec.refusal` says why |

XREAD and XREADGROUP block only with BLOCK, and COPY is refused only towards another database: for these
`lookup` returns a variant of the spec that fits the arguments.

`is_write` means *must run on the primary*: the engine's write flag, and what writes without having it:
scripts, PUBLISH (its effect travels in the stream) and PFCOUNT, which caches its result in the key.

Left out: engines whose COMMAND has no key specifications (Redis 6.2), and commands of modules.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Final, NamedTuple

from cluster.errors import CrossSlot, EngineError, Err
from cluster.front.resp import strict_integer
from cluster.shard.slots import key_slot
from cluster.types import Slot


class Disposition(Enum):
    LOCAL = "local"
    TRANSACTION = "transaction"
    PLAIN = "plain"
    BLOCKING = "blocking"
    PUBSUB = "pubsub"
    REFUSED = "refused"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# -- policy: what is done with each command; subcommands are written container|subcommand --------------------

LOCAL: Final = _names(
    "asking auth echo hello ping quit readonly readwrite reset select wait "
    "client|getname client|id client|info client|list client|no-evict client|no-touch client|setinfo "
    "client|setname "
    "cluster|countkeysinslot cluster|getkeysinslot cluster|help cluster|info cluster|keyslot cluster|myid "
    "cluster|myshardid cluster|nodes cluster|replicas cluster|shards cluster|slaves cluster|slots"
)
TRANSACTION: Final = _names("discard exec multi unwatch watch")
PUBSUB: Final = _names("psubscribe punsubscribe ssubscribe subscribe sunsubscribe unsubscribe")
BLOCKING: Final = _names(
    "blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin "
    # These two must reach an engine whose shared lane waits for the very script that they are to end.
    "function|kill script|kill"
)
PLAIN: Final = _names(
    # keys of any type
    "copy del delifeq dump exists expire expireat expiretime keys object|encoding object|freq "
    "object|help object|idletime object|refcount persist pexpire pexpireat pexpiretime pttl randomkey "
    "rename renamenx restore scan sort sort_ro touch ttl type unlink "
    # strings and bitmaps
    "append bitcount bitfield bitfield_ro bitop bitpos decr decrby get getbit getdel getex getrange "
    "getset incr incrby incrbyfloat lcs mget mset msetex msetnx psetex set setbit setex setnx setrange "
    "strlen substr "
    # lists
    "lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim rpop rpoplpush rpush "
    "rpushx "
    # hashes
    "hdel hexists hexpire hexpireat hexpiretime hget hgetall hgetdel hgetex hincrby hincrbyfloat hkeys "
    "hlen hmget hmset hpersist hpexpire hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetex "
    "hsetnx hstrlen httl hvals "
    # sets
    "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove spop "
    "srandmember srem sscan sunion sunionstore "
    # sorted sets
    "zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore "
    "zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex "
    "zremrangebyrank zremrangebyscore zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore "
    "zunion zunionstore "
    # geo, hyperloglog
    "geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro "
    "geosearch geosearchstore pfadd pfcount pfmerge "
    # streams
    "xack xadd xautoclaim xclaim xdel xgroup|create xgroup|createconsumer xgroup|delconsumer "
    "xgroup|destroy xgroup|help xgroup|setid xinfo|consumers xinfo|groups xinfo|help xinfo|stream xlen "
    "xpending xrange xread xreadgroup xrevrange xsetid xtrim "
    # scripts and functions
    "eval eval_ro evalsha evalsha_ro fcall fcall_ro function|delete function|dump function|flush "
    "function|help function|list function|load function|restore function|stats script|exists "
    "script|flush script|help script|load script|show "
    # messages
    "publish pubsub|channels pubsub|help pubsub|numpat pubsub|numsub pubsub|shardchannels "
    "pubsub|shardnumsub spublish "
    # the whole data set, and the engine itself
    "acl|cat acl|dryrun acl|genpass acl|getuser acl|help acl|list acl|log acl|users acl|whoami "
    "client|help command command|count command|docs command|getkeys command|getkeysandflags "
    "command|help command|info command|list commandlog|get commandlog|help commandlog|len "
    "commandlog|reset dbsize flushall flushdb info lastsave latency|doctor latency|graph latency|help "
    "latency|histogram latency|history latency|latest latency|reset lolwut memory|doctor memory|help "
    "memory|malloc-stats memory|purge memory|stats memory|usage slowlog|get slowlog|help slowlog|len "
    "slowlog|reset time "
)

_REPLICATION: Final = "replication is Azimuth's own"
_PERSISTENCE: Final = "every acknowledged write is in the log of a majority already"
_ENGINE: Final = "the engine belongs to its node"
_USERS: Final = "users are not kept by the engine"
_ONE_DATABASE: Final = "there is only database 0"
_LATER: Final = "not supported by this version of azimuth"
_SHARED: Final = "clients share their connection to the engine"
_LAYOUT: Final = "slots and nodes are given by the cluster's configuration"
# A container's name stands for all of its subcommands that are not named themselves.
REFUSED: Final[dict[str, str]] = {
    "acl|deluser": _USERS,
    "acl|load": _USERS,
    "acl|save": _USERS,
    "acl|setuser": _USERS,
    "bgrewriteaof": _PERSISTENCE,
    "bgsave": _PERSISTENCE,
    "client|caching": _LATER,
    "client|capa": _LATER,
    "client|getredir": _LATER,
    "client|import-source": _SHARED,
    "client|kill": _LATER,
    "client|pause": _SHARED,
    "client|reply": _LATER,
    "client|tracking": _LATER,
    "client|trackinginfo": _LATER,
    "client|unblock": _LATER,
    "client|unpause": _SHARED,
    "cluster": _LAYOUT,
    "clusterscan": _LATER,
    "config": _ENGINE,
    "debug": _ENGINE,
    "failover": _REPLICATION,
    "migrate": _LAYOUT,
    "module": _ENGINE,
    "monitor": _SHARED,
    "move": _ONE_DATABASE,
    "pfdebug": _ENGINE,
    "pfselftest": _ENGINE,
    "psync": _REPLICATION,
    "replconf": _REPLICATION,
    "replicaof": _REPLICATION,
    "restore-asking": _LAYOUT,
    "role": "ask CLUSTER SHARDS",
    "save": _PERSISTENCE,
    "script|debug": _SHARED,
    "shutdown": _ENGINE,
    "slaveof": _REPLICATION,
    "swapdb": _ONE_DATABASE,
    "sync": _REPLICATION,
    "waitaof": _PERSISTENCE,
}
_UNKNOWN: Final = "unknown to this version of azimuth"
_WRITES_WITHOUT_FLAG: Final = _names("eval evalsha fcall pfcount publish spublish")
_SPELLINGS_MAX: Final = 4096  # remembered spellings of names; the usual two of each are always there


def policy(full_name: str) -> tuple[Disposition, str]:
    """What is done with a command, `container|subcommand` or a plain name, and the reason of a refusal."""
    for names, disposition in (
        (PLAIN, Disposition.PLAIN),
        (LOCAL, Disposition.LOCAL),
        (BLOCKING, Disposition.BLOCKING),
        (TRANSACTION, Disposition.TRANSACTION),
        (PUBSUB, Disposition.PUBSUB),
    ):
        if full_name in names:
            return disposition, ""
    reason = REFUSED.get(full_name) or REFUSED.get(full_name.partition("|")[0]) or _UNKNOWN
    return Disposition.REFUSED, f"'{full_name}' is refused: {reason}"


# -- key specifications ------------------------------------------------------------------------------------


class KeySpec(NamedTuple):
    """One way to find keys, as COMMAND describes it. Begin at an index or after a keyword, then a range or
    a count.

    With `keyword`, `begin` is where the search starts (negative: from the end, backwards).
    With `counted`, the number of keys stands `count_at` arguments after the beginning and the first key
    `first_at` after it; else keys reach to `last_key` (relative to the beginning; negative: from the end of
    the command, of which `limit` says what part).
    """

    keyword: bytes | None
    begin: int
    counted: bool
    last_key: int
    limit: int
    count_at: int
    first_at: int
    step: int

    def positions(self, args: Sequence[bytes]) -> range | None:
        """Where the keys are; None if these arguments do not fit (the engine will say what is wrong)."""
        first = self.begin if self.keyword is None else self._after_keyword(args)
        if first == 0:
            return range(0)
        if self.counted:
            if first + self.count_at >= len(args):
                return None
            count = strict_integer(args[first + self.count_at])
            if count is None or count < 0:
                return None
            first += self.first_at
            last = first + count - 1 if self.step == 1 else first + (count - 1) * self.step
        elif self.last_key >= 0:
            last = first + self.last_key
        elif self.limit:
            last = first + (len(args) - first) // self.limit + self.last_key
        else:
            last = len(args) + self.last_key
        if last >= len(args) or last < first:
            return None
        return range(first, last + 1, self.step)

    def _after_keyword(self, args: Sequence[bytes]) -> int:
        """The position behind the keyword; 0 if it is not there. The last argument can't be it."""
        if self.begin > 0:
            places = range(self.begin, len(args) - 1)
        else:
            places = range(len(args) + self.begin, 1, -1)
        for place in places:
            if 1 <= place < len(args) and args[place].upper() == self.keyword:
                return place + 1
        return 0


KeyFinder = Callable[[Sequence[bytes]], list[bytes]]


def _sort_keys(args: Sequence[bytes]) -> list[bytes]:
    """SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [STORE destination]; the last STORE
    counts.
    """
    stored: list[bytes] = []
    place = 2
    while place < len(args):
        option = args[place].upper()
        if option == b"LIMIT":
            place += 2
        elif option in (b"GET", b"BY"):
            place += 1
        elif option == b"STORE" and place + 1 < len(args):
            stored = [args[place + 1]]
        place += 1
    return [args[1], *stored]


def _georadius_keys(args: Sequence[bytes]) -> list[bytes]:
    """GEORADIUS[BYMEMBER] key … [STORE key] [STOREDIST key]; the last one counts."""
    stored: list[bytes] = []
    place = 5
    while place < len(args):
        if args[place].upper() in (b"STORE", b"STOREDIST") and place + 1 < len(args):
            stored = [args[place + 1]]
            place += 1
        place += 1
    return [args[1], *stored]


_KEY_FINDERS: Final[dict[str, KeyFinder]] = {
    "sort": _sort_keys,
    "sort_ro": lambda args: [args[1]],  # the keys that BY and GET make up are not known before it runs
    "georadius": _georadius_keys,
    "georadiusbymember": _georadius_keys,
}


# -- one command -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command or subcommand of the engine, and what the front does with it."""

    name: str  # lower case; of a subcommand its container's: "client"
    full_name: str  # "client|setname", "get"
    arity: int  # number of arguments with the name; negative: at least so many
    flags: frozenset[str]  # as COMMAND gives them
    disposition: Disposition
    refusal: str  # text of the error when REFUSED
    is_write: bool  # must run on the primary (see the module)
    is_read: bool  # only reads; a replica may run it
    key_at: int  # position of the one key that such a command always has; 0: ask keys()
    first_key: int  # 0: none at fixed positions
    last_key: int  # negative: from the end
    key_step: int
    key_specs: tuple[KeySpec, ...]
    find_keys: KeyFinder | None
    subcommands: dict[bytes, "CommandSpec"] = field(default_factory=dict, compare=False)
    variant: "CommandSpec | None" = None  # what it is when `varies` says so
    varies: Callable[[Sequence[bytes]], bool] | None = None

    @property
    def is_keyless(self) -> bool:
        """It never names a key; any node's engine will do."""
        return not self.first_key and not self.key_specs and self.find_keys is None

    @property
    def is_blocking(self) -> bool:
        return self.disposition is Disposition.BLOCKING

    def keys(self, args: Sequence[bytes]) -> list[bytes]:
        """The keys in a command of the right arity; [] also when the engine will refuse it.

        A shard channel (SPUBLISH) counts: it has a slot as well.
        """
        if self.key_at:
            return [args[self.key_at]]
        if self.find_keys is not None:
            return self.find_keys(args)
        if self.first_key:
            last = self.last_key if self.last_key >= 0 else len(args) + self.last_key
            return list(args[self.first_key : last + 1 : self.key_step])
        keys: list[bytes] = []
        for spec in self.key_specs:
            positions = spec.positions(args)
            if positions is None:
                return []
            keys += [args[position] for position in positions]
        return keys

    def slot(self, args: Sequence[bytes]) -> Slot | None:
        """The slot of all keys, None without keys. Raises CrossSlot."""
        if self.key_at:
            return key_slot(args[self.key_at])
        keys = self.keys(args)
        if not keys:
            return None
        slot = key_slot(keys[0])
        for key in keys:
            if key_slot(key) != slot:
                raise CrossSlot("Keys in request don't hash to the same slot")
        return slot


def _has_block(args: Sequence[bytes]) -> bool:
    """XREAD … BLOCK. A key of that name is taken for it, too: that only costs a lane of one's own."""
    return any(len(arg) == 5 and arg.upper() == b"BLOCK" for arg in args)


def _copies_away(args: Sequence[bytes]) -> bool:
    """COPY source destination [DB n] [REPLACE] to a database other than 0, or to none at all."""
    options = [arg.upper() for arg in args[3:]]
    return any(
        option == b"DB" and options[place + 1 : place + 2] != [b"0"] for place, option in enumerate(options)
    )


def _with_variant(spec: CommandSpec) -> CommandSpec:
    match spec.full_name:
        case "xread" | "xreadgroup":
            return replace(spec, variant=replace(spec, disposition=Disposition.BLOCKING), varies=_has_block)
        case "copy":
            refusal = f"'copy' to another database is refused: {_ONE_DATABASE}"
            variant = replace(spec, disposition=Disposition.REFUSED, refusal=refusal)
            return replace(spec, variant=variant, varies=_copies_away)
        case _:
            return spec


# -- the table ---------------------------------------------------------------------------------------------


def _own(name: bytes, arity: int, subcommands: Sequence[list[object]] = ()) -> list[object]:
    """An entry as COMMAND would give it, of a command without keys."""
    return [name, arity, [], 0, 0, 0, [], [], [], list(subcommands)]


# What the front answers without any engine's help exists even if the engine has never heard of it.
_FRONT_OWN: Final = (
    _own(b"asking", 1),
    _own(b"quit", -1),
    _own(b"readonly", 1),
    _own(b"readwrite", 1),
    _own(b"reset", 1),
    _own(b"wait", 3),
    _own(
        b"cluster",
        -2,
        [
            *(_own(b"cluster|" + name, 2) for name in (b"info", b"myid", b"nodes", b"shards", b"slots")),
            _own(b"cluster|keyslot", 3),
        ],
    ),
)


class CommandTable:
    """All commands of an engine, found by name in any spelling."""

    _last: ClassVar[tuple[object, "CommandTable"] | None] = (
        None  # the reply that was read last, and its table
    )

    def __init__(self, specs: Iterable[CommandSpec]) -> None:
        self.specs: dict[str, CommandSpec] = {spec.name: spec for spec in sorted(specs, key=lambda s: s.name)}
        self._spellings: dict[bytes, CommandSpec] = {}
        for name, spec in self.specs.items():
            for spelling in (name, name.upper(), name.capitalize()):
                self._spellings[spelling.encode()] = spec
        self._spellings_max = len(self._spellings) + _SPELLINGS_MAX

    @classmethod
    def from_engine(cls, reply: object) -> "CommandTable":
        """Build it from the engine's reply to COMMAND as hiredis parses it. EngineError if that is of
        another shape.
        """
        if not isinstance(reply, list) or not reply:
            raise EngineError("the engine's reply to COMMAND is not a list of commands")
        if cls._last is not None and cls._last[0] is reply:
            return cls._last[1]  # a model engine's table is one object: many nodes of a simulation share it
        try:
            known = {entry[0] for entry in reply}
            own = (entry for entry in _FRONT_OWN if entry[0] not in known)
            table = cls(_read_command(entry) for entry in (*reply, *own))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                "the engine's reply to COMMAND is not that of Redis 7 or Valkey "
                f"({type(error).__name__}: {error})"
            ) from error
        cls._last = (reply, table)
        return table

    def __len__(self) -> int:
        return len(self.specs)

    def lookup(self, args: Sequence[bytes]) -> CommandSpec:
        """What a command is. Raises Err, in Valkey's words, if it is unknown or has the wrong number of
        arguments.
        """
        spec = self._spellings.get(args[0])
        if spec is None:
            spec = self._lookup_spelling(args)
        if spec.subcommands and len(args) > 1:
            spec = _subcommand(spec, args)
        count = len(args)
        if count != spec.arity and (spec.arity > 0 or count < -spec.arity):
            raise Err(f"wrong number of arguments for '{spec.full_name}' command")
        if spec.varies is not None and spec.varies(args):
            assert spec.variant is not None, "what varies has a variant"
            return spec.variant
        return spec

    def _lookup_spelling(self, args: Sequence[bytes]) -> CommandSpec:
        spec = self._spellings.get(args[0].lower())
        if spec is None:
            raise unknown_command(args)
        if len(self._spellings) < self._spellings_max:
            self._spellings[args[0]] = spec
        return spec

    def all_specs(self) -> list[CommandSpec]:
        """Every command and subcommand, in the order of their full names."""
        found = list(self.specs.values())
        for spec in self.specs.values():
            found += [sub for name, sub in spec.subcommands.items() if name == name.lower()]
        return sorted(found, key=lambda spec: spec.full_name)


def _subcommand(spec: CommandSpec, args: Sequence[bytes]) -> CommandSpec:
    sub = spec.subcommands.get(args[1]) or spec.subcommands.get(args[1].lower())
    if sub is None:
        raise Err(f"unknown subcommand '{_quoted(args[1], 128)}'. Try {spec.name.upper()} HELP.")
    return sub


def unknown_command(args: Sequence[bytes]) -> Err:
    """Valkey's error for a command that it does not have, quoting as much of it as Valkey does."""
    beginning = ""
    for arg in args[1:]:
        if len(beginning) >= 128:
            break
        beginning += f"'{_quoted(arg, 128 - len(beginning))}' "
    return Err(f"unknown command '{_quoted(args[0], 128)}', with args beginning with: {beginning}")


def _quoted(text: bytes, bytes_max: int) -> str:
    """As C's `%.128s` prints it: up to a NUL. Bytes that are not UTF-8 pass through `ReplyError.resp`
    unchanged.
    """
    return text[:bytes_max].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


# -- reading the engine's COMMAND --------------------------------------------------------------------------


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, str):
        return value
    raise TypeError(f"expected a name, got {type(value).__name__}")


def _read_command(entry: Any, container: str | None = None) -> CommandSpec:
    """One element of COMMAND: name, arity, flags, first, last, step, categories, tips, key specs,
    subcommands.
    """
    full_name = _text(entry[0]).lower()
    name = container or full_name
    flags = frozenset(_text(flag) for flag in entry[2])
    first, last, step = int(entry[3]), int(entry[4]), int(entry[5])
    disposition, refusal = policy(full_name)
    specs = tuple(spec for spec in map(_read_key_spec, entry[8]) if spec is not None)
    finder = _KEY_FINDERS.get(full_name)
    movable = "movablekeys" in flags or finder is not None
    single = not movable and first > 0 and first == last and abs(int(entry[1])) > first
    spec = CommandSpec(
        name=name,
        full_name=full_name,
        arity=int(entry[1]),
        flags=flags,
        disposition=disposition,
        refusal=refusal,
        is_write="write" in flags or full_name in _WRITES_WITHOUT_FLAG,
        is_read="readonly" in flags and full_name not in _WRITES_WITHOUT_FLAG,
        key_at=first if single else 0,
        first_key=0 if movable else first,
        last_key=last,
        key_step=step or 1,
        key_specs=specs,
        find_keys=finder,
    )
    for child in entry[9]:
        sub = _read_command(child, full_name)
        short = sub.full_name.partition("|")[2]
        spec.subcommands[short.encode()] = spec.subcommands[short.upper().encode()] = sub
    return _with_variant(spec)


def _read_key_spec(entry: Any) -> KeySpec | None:
    """One key specification; None for `unknown` ones, whose commands have a finder of their own."""
    fields = _fields(entry)
    begin, find = _fields(fields["begin_search"]), _fields(fields["find_keys"])
    begin_type, find_type = _text(begin["type"]), _text(find["type"])
    if "unknown" in (begin_type, find_type):
        return None
    where, how = _fields(begin["spec"]), _fields(find["spec"])
    by_keyword, counted = begin_type == "keyword", find_type == "keynum"
    if begin_type not in ("index", "keyword") or find_type not in ("range", "keynum"):
        raise ValueError(f"key specification of type {begin_type}, {find_type}")
    return KeySpec(
        keyword=_text(where["keyword"]).upper().encode() if by_keyword else None,
        begin=int(where["startfrom" if by_keyword else "index"]),
        counted=counted,
        last_key=0 if counted else int(how["lastkey"]),
        limit=0 if counted else int(how["limit"]),
        count_at=int(how["keynumidx"]) if counted else 0,
        first_at=int(how["firstkey"]) if counted else 0,
        step=int(how["keystep"]) or 1,
    )


def _fields(pairs: Any) -> dict[str, Any]:
    """A RESP2 map (a flat list) or a RESP3 one."""
    if isinstance(pairs, dict):
        return {_text(key): value for key, value in pairs.items()}
    return {_text(pairs[i]): pairs[i + 1] for i in range(0, len(pairs), 2)}
