"""What all tests share. `--rewrite` is an option of the golden scripts (tests/scripts)."""

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
