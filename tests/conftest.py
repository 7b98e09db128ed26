"""What all tests share. `--rewrite` is an option of the golden scripts (tests/scripts)."""

import signal
import threading
from types import FrameType

import pytest
from hypothesis import settings

# Machines that run tests are slow and shared: how long an example takes says nothing.
settings.register_profile("azimuth", deadline=None, print_blob=True)
settings.load_profile("azimuth")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        default=False,
        help="write what golden scripts print now into them; explain the diff before you commit it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends a run, or a worker of xdist, as Ctrl-C does: fixtures are torn down, and with them go the
    processes that tests have started."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(number, lambda number, frame: None)  # not ignored: that would be inherited
    raise KeyboardInterrupt
