"""`python benchmarks/run.py …` is `azimuth bench …`: the code ships with the package, in
cluster/runtime/bench/.
"""

import sys

from cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
