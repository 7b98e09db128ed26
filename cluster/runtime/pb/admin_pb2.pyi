from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("cluster_id", "node", "shard", "az", "raft_role", "serving", "term", "leader", "commit_index", "last_index", "commit_offset", "applied_offset", "engine_version", "engine_pid", "isolated_from", "uptime_ms", "counters", "engine_trouble", "engine_deaths")
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    AZ_FIELD_NUMBER: _ClassVar[int]
    RAFT_ROLE_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    APPLIED_OFFSET_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_PID_FIELD_NUMBER: _ClassVar[int]
    ISOLATED_FROM_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_TROUBLE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_DEATHS_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    node: str
    shard: str
    az: str
    raft_role: str
    serving: str
    term: int
    leader: str
    commit_index: int
    last_index: int
    commit_offset: int
    applied_offset: int
    engine_version: str
    engine_pid: int
    isolated_from: _containers.RepeatedScalarFieldContainer[str]
    uptime_ms: int
    counters: _containers.ScalarMap[str, int]
    engine_trouble: str
    engine_deaths: int
    def __init__(self, cluster_id: _Optional[str] = ..., node: _Optional[str] = ..., shard: _Optional[str] = ..., az: _Optional[str] = ..., raft_role: _Optional[str] = ..., serving: _Optional[str] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., commit_index: _Optional[int] = ..., last_index: _Optional[int] = ..., commit_offset: _Optional[int] = ..., applied_offset: _Optional[int] = ..., engine_version: _Optional[str] = ..., engine_pid: _Optional[int] = ..., isolated_from: _Optional[_Iterable[str]] = ..., uptime_ms: _Optional[int] = ..., counters: _Optional[_Mapping[str, int]] = ..., engine_trouble: _Optional[str] = ..., engine_deaths: _Optional[int] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("offset", "digest", "stream_crc32c")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STREAM_CRC32C_FIELD_NUMBER: _ClassVar[int]
    offset: int
    digest: str
    stream_crc32c: int
    def __init__(self, offset: _Optional[int] = ..., digest: _Optional[str] = ..., stream_crc32c: _Optional[int] = ...) -> None: ...

class IsolateRequest(_message.Message):
    __slots__ = ("azs",)
    AZS_FIELD_NUMBER: _ClassVar[int]
    azs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, azs: _Optional[_Iterable[str]] = ...) -> None: ...

class IsolateReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TransferRequest(_message.Message):
    __slots__ = ("to_node",)
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    to_node: str
    def __init__(self, to_node: _Optional[str] = ...) -> None: ...

class TransferReply(_message.Message):
    __slots__ = ("accepted", "reason")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...
