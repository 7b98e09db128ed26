"""How hard the state machines are worked: little and always the same in CI, more and ever new by hand.

    AZIMUTH_EXAMPLES=2000 .venv/bin/pytest tests/sim/test_stateful_raft.py --timeout 0

A red example is shrunk to the fewest steps and printed as a script of the machine's own methods. Without
AZIMUTH_EXAMPLES the examples are derived from the machine itself, so a red CI is red at home as well.
"""

import os

from hypothesis import HealthCheck, settings


def budget(examples: int, steps: int) -> settings:
    asked = os.environ.get("AZIMUTH_EXAMPLES")
    return settings(
        max_examples=int(asked) if asked else examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=asked is None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
