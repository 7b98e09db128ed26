"""What the allocator does with large values."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from cluster.runtime.main import keep_memory

if sys.argv[1] == "keep":
    keep_memory()

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(size)[::4096] = b"x" * (size // 4096)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

size = 40 << 20
faults(size)
print(faults(size))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_large_value_does_not_touch_fresh_pages_each_time() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = (40 << 20) // 4096
    assert faults("as it is") >= pages
    assert faults("keep") < pages // 10
