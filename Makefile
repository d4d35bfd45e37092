# Targets call tools; they hold no logic. `make` alone prints this help.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-integration test-qemu fmt lint type fuzz bench docs lock clean

help: ## Print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1|\2/' | column -t -s '|'

setup: .venv/.done ## Install system packages (sudo where needed) and the Python environment
	@scripts/setup-system

.venv/.done: requirements.lock pyproject.toml
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## Refresh requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--group dev pyproject.toml --output-file requirements.lock

clean: ## Remove the environment and caches of this checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
