# `make ablation` and `make test` set themselves up; everything else is optional.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: help ablation test test-all test-reference test-newest test-floor test-export test-wheel mutants bench lint format lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'

ablation: $(READY)  ## train and compare the placements of batch norm; the answer, and runs/digits_placement/report.html
	$(BIN)/python -m experiments run configs/digits_placement.py

# The library's tests compile as its users do. The laboratory's programs are large and run once: with quick options they
# compile in half the time. `pytest` alone compiles all as users do.
LIBRARY = tests/jbn $(wildcard tests/test_*.py) jbn
test: $(READY)  ## the suite but for its slowest tests, doctests included
	$(BIN)/python -m pytest $(LIBRARY) $(MARKS)
	XLA_FLAGS="$$($(BIN)/python tests/quick_compile.py)" $(BIN)/python -m pytest tests/experiments tests/benchmarks experiments $(MARKS)

test-all: MARKS = -m "not long"
test-all: test  ## the whole suite

test-reference: $(READY)  ## contract, derivatives, memory and correctness by the plain kernels
	JBN_KERNELS=reference $(BIN)/python -m pytest $(MARKS) tests/benchmarks/test_correctness.py \
		$(addprefix tests/jbn/test_,$(addsuffix .py,contract derivatives_everywhere batch_norm batch_norm_gradients memory))

test-newest: $(READY)  ## the library's half on Python 3.12 or newer, where requirements.lock has a newer jax
	python=$$(.ci/newer-python) && $(BIN)/uv venv --quiet --clear --python $$python $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest/bin/python --no-deps -r requirements.lock -e .
	$(VENV)-newest/bin/python -m pytest $(LIBRARY)

test-floor: $(READY)  ## the library's half with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-floor
	$(BIN)/uv pip install --quiet --python $(VENV)-floor/bin/python --resolution lowest-direct -e ".[dev]"
	$(VENV)-floor/bin/python -m pytest $(LIBRARY)

test-export: $(READY)  ## exports to ONNX, SavedModel and TFLite, from the locked jax and flax; installs gigabytes
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-export
	grep -E '^(beartype|flax|hypothesis|jax|jaxlib|jaxtyping|pytest|pytest-xdist)==' requirements.lock | \
		$(BIN)/uv pip install --quiet --python $(VENV)-export/bin/python -r - -e ".[export]"
	$(VENV)-export/bin/python -m pytest -m export tests/jbn/test_exporters.py

test-wheel: $(READY)  ## the built wheel in bare environments: alone, and with each extra
	VENV=$(VENV) .ci/wheel

mutants: $(READY)  ## whether the tests can fail: breaks laws of the source, and runs the test of each
	$(BIN)/python tests/mutations.py

bench: $(READY)  ## jbn against its installed peers and the memory's limit; QUICK=1 takes under 4 minutes
	$(BIN)/python -m benchmarks speed $(if $(QUICK),--quick)

lint: $(READY)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(READY)  ## formats, and mends what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# uv, because it installs this set in seconds where pip takes minutes.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or write make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "error: cannot make $(VENV); on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

lock: $(READY)  ## newest versions that pyproject.toml allows, exact, for Python 3.11 and up
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements.lock

clean:  ## removes environments and caches
	rm -rf $(VENV) $(VENV)-newest $(VENV)-floor $(VENV)-export .pytest_cache .ruff_cache .hypothesis
