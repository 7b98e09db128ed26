"""The subjects by name. Each is imported when it is made: PySyncObj takes a while, and is no dependency of a
run that does not ask for it."""

from collections.abc import Callable

from cluster.sim.subjects import Subject


def _azimuth() -> Subject:
    from cluster.sim.subjects.azimuth import AzimuthSubject

    return AzimuthSubject()


def _async() -> Subject:
    from cluster.sim.subjects.asynchronous import AsyncSubject

    return AsyncSubject()


def _pysyncobj() -> Subject:
    from cluster.sim.subjects.pysyncobj_ import PySyncObjSubject

    return PySyncObjSubject()


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "azimuth": _azimuth,
    "async": _async,
    "pysyncobj": _pysyncobj,
}
