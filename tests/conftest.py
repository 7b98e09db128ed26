"""What all tests share. `--rewrite` is an option of the golden scripts (tests/scripts)."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        default=False,
        help="write what golden scripts print now into them; explain the diff before you commit it",
    )
