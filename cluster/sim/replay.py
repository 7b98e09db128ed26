"""A run as a file: the whole configuration as JSON and back.

A seed repeats a run as long as nobody changes how runs are drawn; a shrunk run has no seed that draws it at
all. Both can be kept this way. What is read is checked like any user's file: unknown keys, wrong types and
impossible values are one line each (ConfigError), never a run that means something else.
"""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Final, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from cluster.errors import ConfigError
from cluster.sim import swarm
from cluster.sim.config import SimConfig
from cluster.sim.scenario import Subject
from cluster.sim.toml_lines import shown
from cluster.sim.workloads import KINDS

FORMAT: Final = 1
T = TypeVar("T")


def dump(config: SimConfig, subject: str) -> str:
    """JSON, to be read by `load` and by people."""
    return json.dumps({"format": FORMAT, "subject": subject, "config": asdict(config)}, indent=1) + "\n"


def load(text: str, where: str) -> tuple[SimConfig, str]:
    """Configuration and subject. `where` begins every error: the file's name."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ConfigError(f"{where}: not a replay of this version (format {FORMAT})")
    _refuse_unknown(value, ("format", "subject", "config"), where)
    subject = _convert(Subject, value.get("subject"), f"{where}: subject")
    config = _build(SimConfig, value.get("config"), f"{where}: config")
    _check(config, where)
    return config, cast(str, subject)


def _build(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object")
    hints = get_type_hints(kind)
    _refuse_unknown(value, tuple(hints), where)
    for each in fields(cast(Any, kind)):
        if each.name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{where}.{each.name} is missing")
    try:
        return kind(
            **{name: _convert(hints[name], value[name], f"{where}.{name}") for name in hints if name in value}
        )
    except ConfigError as error:  # of RaftConfig: it does not know where it stands
        text = str(error)
        raise ConfigError(text if text.startswith(where.partition(":")[0]) else f"{where}: {text}") from None


def _refuse_unknown(value: Mapping[str, object], names: tuple[str, ...], where: str) -> None:
    for name in value:
        if name not in names:
            raise ConfigError(f"{where}: unknown key {shown(name)}")


def _convert(hint: Any, value: object, where: str) -> object:
    """`value` as the type that a field is declared with."""
    hint = getattr(hint, "__supertype__", hint)  # NewType
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _build(cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list")
        return tuple(_convert(inner[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if origin is types.UnionType:
        return None if value is None else _convert(inner[0], value, where)
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{where} must be one of {', '.join(inner)}, not {shown(value)}")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite")
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return float(value)
    if isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ConfigError(f"{where} must be {_NAMES[hint]}, not {shown(value)}")


_NAMES: Final = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _check(config: SimConfig, where: str) -> None:
    """What types do not say."""
    for work in config.workloads:
        if work.kind not in KINDS:
            raise ConfigError(f"{where}: no workload {shown(work.kind)}; there are {', '.join(KINDS)}")
        if min(work.clients, work.keys, work.depth) < 1 or work.ops_per_second <= 0:
            raise ConfigError(f"{where}: {work.kind}: clients, keys, depth, ops_per_second must be positive")
    for fault in config.faults:
        if fault.kind not in swarm.FAULTS:
            kinds = ", ".join(sorted(swarm.FAULTS))
            raise ConfigError(f"{where}: no fault {shown(fault.kind)}; there are {kinds}")
        if not (0 <= fault.pick < 1 and 0 <= fault.amount <= 1 and min(fault.at_us, fault.duration_us) >= 0):
            raise ConfigError(f"{where}: {fault.kind}: pick or amount is not 0 … 1, or a time is negative")
    if not 0 <= config.victim < len(config.azs):
        raise ConfigError(f"{where}: victim {config.victim} is none of the {len(config.azs)} azs")
    for least, most in ((config.delay_min_us, config.delay_max_us), (config.sync_min_us, config.sync_max_us)):
        if not 0 <= least <= most:
            raise ConfigError(f"{where}: {least} to {most} us is no time that a message or a sync can take")
