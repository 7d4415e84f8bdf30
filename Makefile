# `make ablation` and `make test` create the environment that they need; all other targets are optional.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = $(VENV)/bin
READY = $(VENV)/.ready
SITE_READY = $(VENV)/.site-ready

.PHONY: help ablation test test-all test-reference test-newest test-floor test-export test-cluster test-wheel mutants quote bench site site-test lint format lock clean

help:  ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-14s %s\n", $$1, $$2}'

ablation: $(READY)  ## train and compare the placements of batch norm; writes runs/digits_placement/report.html
	$(BIN)/python -m experiments run configs/digits_placement.py

# The tests of library and site compile with the options that users have. The laboratory's programs are large and run once, so
# they use options that halve the compile time. Plain `pytest` uses the users' options everywhere.
LIBRARY = tests/jbn $(wildcard tests/test_*.py) jbn
test: $(READY)  ## run all but the slowest tests, and the doctests
	$(BIN)/python -m pytest $(LIBRARY) tests/explainer $(MARKS)
	XLA_FLAGS="$$($(BIN)/python tests/quick_compile.py)" $(BIN)/python -m pytest tests/experiments tests/benchmarks experiments $(MARKS)

test-all: MARKS = -m "not long and not browser"
test-all: test  ## run the whole suite

test-reference: $(READY)  ## test contract, derivatives, memory and correctness with the plain kernels
	JBN_KERNELS=reference $(BIN)/python -m pytest $(MARKS) tests/benchmarks/test_correctness.py \
		$(addprefix tests/jbn/test_,$(addsuffix .py,contract derivatives_everywhere batch_norm batch_norm_gradients memory))

test-newest: $(READY)  ## test the library on Python 3.12 or newer, for which requirements.lock has a newer jax
	python=$$(.ci/newer-python) && $(BIN)/uv venv --quiet --clear --python $$python $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest/bin/python --no-deps -r requirements.lock -e .
	$(VENV)-newest/bin/python -m pytest $(LIBRARY)

test-floor: $(READY)  ## test the library with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-floor
	$(BIN)/uv pip install --quiet --python $(VENV)-floor/bin/python --resolution lowest-direct -e ".[dev]"
	$(VENV)-floor/bin/python -m pytest $(LIBRARY)

test-export: $(READY)  ## test exports to ONNX, SavedModel and TFLite with the locked jax and flax; installs gigabytes
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-export
	grep -E '^(beartype|flax|hypothesis|jax|jaxlib|jaxtyping|pytest|pytest-xdist)==' requirements.lock | \
		$(BIN)/uv pip install --quiet --python $(VENV)-export/bin/python -r - -e ".[export]"
	$(VENV)-export/bin/python -m pytest -m export tests/jbn/test_exporters.py

test-cluster: $(READY)  ## test sweeps on a Ray cluster of two nodes on this machine, with ray and the locked versions
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-cluster
	$(BIN)/uv pip install --quiet --python $(VENV)-cluster/bin/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(VENV)-cluster/bin/python --constraint requirements.lock -e ".[cluster]"
	$(VENV)-cluster/bin/python -m pytest -n 0 tests/experiments/test_cluster.py

test-wheel: $(READY)  ## test the built wheel in bare environments: alone, and with each extra
	VENV=$(VENV) .ci/wheel

mutants: $(READY)  ## check that the tests can fail: break one law of the source at a time and run its test
	$(BIN)/python tests/mutations.py

quote: $(READY)  ## write the numbers and verdicts of the published runs into the pages and the docstrings of the configs
	$(BIN)/python -m experiments.quoting

bench: $(READY)  ## time jbn against its installed peers and the memory bandwidth; QUICK=1 takes under 4 minutes
	$(BIN)/python -m benchmarks speed $(if $(QUICK),--quick)

site: $(SITE_READY)  ## build documentation and explainer, _site/index.html, which opens from disk; needs node >= 20 and npm
	$(BIN)/python -m explainer build

site-test: site  ## test the site, also in a browser (Chromium)
	$(BIN)/python -m pytest tests/explainer -m "not long"

lint: $(READY)  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(READY)  ## format, and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# uv, because it installs this set in seconds where pip takes minutes.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or run make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "error: cannot create $(VENV); on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

$(SITE_READY): $(READY) explainer/requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r explainer/requirements.lock
	@touch $@

COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --upgrade --quiet --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"
lock: $(READY)  ## pin the newest versions that pyproject.toml and the site allow, for Python 3.11 and newer
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock
	$(COMPILE) explainer/requirements.in --constraint requirements.lock -o explainer/requirements.lock

clean:  ## remove environments, caches and the built site
	rm -rf _site explainer/_build explainer/node_modules $(VENV) $(VENV)-newest $(VENV)-floor $(VENV)-export $(VENV)-cluster .pytest_cache .ruff_cache .hypothesis
