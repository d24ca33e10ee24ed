# What people and CI run. Everything else is a detail of these.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := proto brain nodeagent webhook deploy tests
# Programs in Go share few cores with many others: they collect their garbage less often, and run one thread each.
LEAN := GOGC=400 GOMAXPROCS=1

.PHONY: help env binaries demo test unit explore e2e sanitize lint proto bench clean
help: ## This list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

env: .venv/.done ## The Python environment, in .venv
.venv/.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --upgrade pip # older ones take twice as long for what follows
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

demo: env ## A real cluster on this machine, with simulated GPUs, being repartitioned (KEEP=1 leaves it up)
	$(BIN)/python -m deploy.local.demo $(if $(KEEP),--keep)

test: binaries ## All that CI checks; the end-to-end tests, which take longest, have precedence over the rest
	$(MAKE) --jobs=3 --output-sync=target e2e lint unit

binaries: env ## Control plane, kubelet, helm and grpcurl, built once into the user's cache
	$(BIN)/python -m deploy.local binaries

unit: binaries ## Unit and component tests
	$(LEAN) nice $(BIN)/pytest -q --numprocesses=2 --dist=loadfile tests/unit tests/component

explore: env ## Property tests on examples that are new each time, ten times as many (EXAMPLES=10)
	EXAMPLES=$(or $(EXAMPLES),10) $(BIN)/pytest -q --numprocesses=auto -m hypothesis --hypothesis-profile=default \
		-o timeout=0 -o faulthandler_timeout=0 tests/unit tests/component

e2e: binaries ## End-to-end tests on real control planes with real kubelets: two clusters
	$(LEAN) $(BIN)/pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests/e2e

sanitize: env ## The driver for real GPUs, through the real binding, with AddressSanitizer in NVIDIA's library's stand-in
	NVML_CFLAGS='-fsanitize=address,undefined -fno-sanitize-recover=all' ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(BIN)/pytest -q tests/component/nodeagent/test_nvml.py tests/component/nodeagent/test_nvml_property.py

lint: env ## Style, types, import contracts, generated code
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	proto/generate.sh --check

proto: env ## Generates code from the .proto files
	proto/generate.sh

bench: env ## Prints the figures that the documentation names
	$(BIN)/python -m tests.bench

clean: ## Removes the Python environment and caches of tools
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
