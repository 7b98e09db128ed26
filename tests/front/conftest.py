from collections.abc import Iterator

import pytest

from tests.front.engine import StockEngine, stock_engine, valkey_binary


@pytest.fixture(scope="session")
def valkey() -> Iterator[StockEngine]:
    with stock_engine(valkey_binary()) as engine:
        yield engine
