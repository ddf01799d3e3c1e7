.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # the tests start some hundred processes; each would compile everything anew
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2

.PHONY: help setup demo test test-long check format lint types imports bench docs clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with everything in it (asks for nothing but Python 3.11 or 3.12)

$(STAMP): requirements.lock pyproject.toml
	@set -eu; \
	for python in $(PYTHON) python3.12 python3.11 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "Meterline needs Python 3.11 or 3.12, and none was found. Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found has no venv module. On Debian and Ubuntu: apt-get install python3-venv; then run this again." >&2; exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$found" --version) (a minute or two the first time)"; \
	if ! $(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then "$$found" -m venv --clear .venv; fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	touch $@

demo: setup ## Run the main job on the real stack: events in, invoices out, proven (DEMO="--trace FILE --once")
	$(BIN)/meterline demo $(DEMO)

test: setup ## Run the tests on the real stack (TESTS="tests/pricing -k …" for some; WORKERS=3)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15 $(TESTS)

test-long: setup ## Run the long suites: a hundred kills, generated traffic, long stalls (half an hour and more; TESTS="tests/long …")
	$(BIN)/pytest -m long -s $(or $(TESTS),tests)
	$(if $(TESTS),,$(BIN)/pytest --hypothesis-profile thorough --timeout 900 tests/pricing tests/schemas)

check: setup format lint types imports ## Check format, lint, types and the layers

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/basedpyright

imports:
	$(BIN)/lint-imports

bench: setup ## Measure ingestion on the real stack (BENCH="ingest --rate 150000")
	$(BIN)/meterline bench $(or $(BENCH),ingest)

docs: setup ## Write docs/openapi.json anew
	$(BIN)/python -m ingestion_api.openapi > docs/openapi.json

lock: setup ## Resolve requirements.lock anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --all-extras pyproject.toml -o requirements.lock

clean: ## Remove the environment and the caches inside the checkout
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache
