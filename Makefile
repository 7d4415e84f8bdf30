# `make ablation` and `make test` set themselves up; everything else is optional.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: ablation test bench lint format lock clean

ablation: $(READY)  ## train and compare the placements of batch norm; the answer, and runs/digits_placement/report.html
	$(BIN)/python -m experiments run configs/digits_placement.py

# The library's tests compile as its users do. The laboratory's programs are large and run once: without LLVM's
# optimizations and XLA's newer code generators they compile in half the time. `pytest` alone compiles all as users do.
LABORATORY = $(shell grep -lE "^(from|import) (experiments|benchmarks)" tests/test_*.py)
test: $(READY)  ## the whole suite, doctests included
	$(BIN)/python -m pytest tests jbn $(addprefix --ignore=,$(LABORATORY))
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false" $(BIN)/python -m pytest $(LABORATORY) experiments

bench: $(READY)  ## jbn against its installed peers and the memory's limit; QUICK=1 takes under 4 minutes
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(READY)
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

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
