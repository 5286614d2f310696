# make setup   a virtual environment with everything, pinned by constraints.txt
# make demo    data to invoice, and a language model that is taught, on a platform of its own
# make up      the platform on http://127.0.0.1:8080, until Ctrl-C
# make test    the whole suite            make check   lint, types, layers, generated files
# make bench   measure, and write dated reports under benchmarks/reports/
# make bench-peers   the same beside Triton, MLServer, Ray Serve, … (installs them once, 2 GB)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo up test test-all check bench bench-peers format clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

# Runs again only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Meuse needs Python 3.11 to 3.13; say which: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/meuse demo

up: setup
	@$(BIN)/meuse up

# A file's tests stay together: they share platforms. In the order of the tree, since files of few
# tests, which would come last otherwise, are those that take long.
# A process that dies has failed the run: in its place another would wait for ever for its last test.
PARALLEL := -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

# Everything that `test` has, and what takes long.
test-all: setup
	$(BIN)/python -m pytest $(PARALLEL) -m ''

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate_wire.py --check
	$(BIN)/python tools/generate_docs.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/compression.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/billing.py
	$(BIN)/python benchmarks/llm.py --parts api
	$(BIN)/python benchmarks/llm_adapters.py
	$(BIN)/python benchmarks/llm_lora.py
	$(BIN)/python benchmarks/llm_compression.py

bench-peers: setup
	$(BIN)/python benchmarks/serving.py --peers all
	$(BIN)/python benchmarks/llamacpp.py
	$(BIN)/python benchmarks/llm.py --parts peers
	$(BIN)/python benchmarks/llm.py --parts one
	$(BIN)/python benchmarks/llm_external.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
