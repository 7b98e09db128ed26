"""protoc writes absolute imports between generated modules; make them relative to their package."""

import re
import sys
from pathlib import Path

for path in Path(sys.argv[1]).glob("*_pb2*.py*"):
    text = path.read_text()
    path.write_text(re.sub(r"^import (\w+_pb2) as", r"from . import \1 as", text, flags=re.M))
