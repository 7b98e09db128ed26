# Every target works on a fresh machine: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

SEED ?= 42
SEEDS ?= 0..300
BATCH := 1000

.PHONY: demo test check bench sim sweep soak mutants proto clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/azimuth demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

bench: $(VENV)/.installed
	$(BIN)/azimuth bench

# One run of the simulator: make sim SEED=42.
sim: $(VENV)/.installed
	$(BIN)/azimuth sim run --seed $(SEED)

# Many: make sweep SEEDS=0..10000.
sweep: $(VENV)/.installed
	$(BIN)/azimuth sim sweep --seeds $(SEEDS)

# Ever new seeds, in batches, until Ctrl-C. The commands that repeat failing ones gather in failing-seeds.txt.
soak: $(VENV)/.installed
	@first=$$(date +%s)000; while true; do \
		$(BIN)/azimuth sim sweep --keep-going --failures-to failing-seeds.txt \
			--seeds $$first..$$((first + $(BATCH))); \
		code=$$?; if [ $$code -gt 1 ]; then exit $$code; fi; \
		first=$$((first + $(BATCH))); \
	done

# Breaks one rule after another in scratch copies, and shows that somebody notices. About ten minutes.
mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.sim.mutants --jobs 2

# Regenerates cluster/runtime/pb from proto/*.proto.
proto: $(VENV)/.installed-dev
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=cluster/runtime/pb --pyi_out=cluster/runtime/pb \
		--grpc_python_out=cluster/runtime/pb proto/*.proto
	$(BIN)/python proto/fix_imports.py cluster/runtime/pb

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
