"""A test run that is ended from outside leaves no process behind."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until

ENDLESS = """
import os, subprocess, sys
from pathlib import Path

import pytest

@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()
    Path("torn-down").touch()

def test_endless(child):
    Path("started.new").write_text(str(child.pid))
    Path("started.new").rename("started")
    child.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "to_all"), [([], False), (["-n", "1"], True)], ids=["alone", "xdist"])
def test_sigterm_tears_fixtures_down(tmp_path: Path, workers: list[str], to_all: bool) -> None:
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", *workers]
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        [*argv, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: (tmp_path / "started").exists() or process.poll() is not None, "it has started")
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert (tmp_path / "torn-down").exists(), output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (tmp_path / "started").exists() and not (tmp_path / "torn-down").exists():
            with suppress(ProcessLookupError):
                os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)
