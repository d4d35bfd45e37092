# Targets call tools; they hold no logic. `make` alone prints this help.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=
PYTEST := $(BIN)/python -m pytest -q -ra --require-tools

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests base demo test test-fast test-integration test-qemu test-k3s test-tutorial test-machine fmt lint type fuzz soak bench screenshots recording docs deb wheel lock clean

help: ## Print this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## (.*)/  \1|\2/' | column -t -s '|'

setup: ## Install the system packages that Bramble runs (sudo where needed) and the Python environment
	@scripts/setup-system
	@$(MAKE) --no-print-directory .venv/.done

setup-tests: ## The same, and what the tests run: a browser, databases, foreign clients and servers
	@scripts/setup-system --tests
	@$(MAKE) --no-print-directory .venv/.done

.venv/.done: requirements.lock pyproject.toml
	@echo "setup: making .venv, one or two minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --require-hashes --requirement requirements.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Three virtual boards: blank disks to a Ready cluster, then one boots from its own disk
	@$(BIN)/bramble lab demo

test: setup-tests lint type test-fast base test-integration test-qemu ## Everything that CI runs

base: setup ## The Debian base that the demo and the tests start from; minutes once, then found
	@$(BIN)/bramble base build debian-trixie

test-fast: ## Unit and protocol tests (1–2 min)
	$(PYTEST) -n 2 tests/unit tests/protocol $(TEST_ARGS)

test-integration: ## Real tools, sockets and processes
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m integration tests/integration tests/k3s $(TEST_ARGS)

test-qemu: ## Virtual boards from blank to Ready
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going $(BOARD_TESTS)

# Two files at a time, the longest first, and no workers of one pytest: a lab enters a network namespace, which
# a process that has threads can not.
LONGEST := $(addprefix tests/e2e/test_,$(addsuffix .py,stock_images reimage dashboard_live))
BOARD_TESTS := $(addprefix run-,$(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/e2e/test_*.py)))

.PHONY: $(BOARD_TESTS)
$(BOARD_TESTS): run-%:
	$(PYTEST) -m e2e $* $(TEST_ARGS)

test-k3s: setup-tests ## The contract of joining and draining against a real k3s, K3S=DIR with a release's files
	K3S=$(abspath $(K3S)) $(PYTEST) -m 'integration or e2e' tests/k3s $(TEST_ARGS)

test-tutorial: setup-tests ## Follow the tutorials on virtual boards, with the lines that the pages show
	$(PYTEST) -m e2e tests/tutorial $(TEST_ARGS)

test-machine: setup-tests ## Bramble's server on a virtual board: its package, systemd, a restart (15 min; needs PyPI)
	$(PYTEST) -m e2e tests/machine $(TEST_ARGS)

fmt: ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: ## Style, arrows between packages, shell scripts, spelling
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports > .import_linter.log || { cat .import_linter.log; exit 1; }
	@shellcheck scripts/* .ci/run deploy/debian/*.sh
	@$(BIN)/codespell

type: ## mypy, strict, on product and tests
	@$(BIN)/mypy

fuzz: ## Property tests with many more examples, then every parser under coverage-guided fuzzing
	$(PYTEST) tests/protocol --hypothesis-profile=fuzz $(TEST_ARGS)
	@$(BIN)/pip install -qq 'atheris>=2.3'
	for target in dhcp dns http tftp; do $(BIN)/python -m tests.fuzz $$target --runs 2500000 || exit 1; done

soak: ## An hour of use and misuse of the boot server, which must not grow (SOAK_S=seconds)
	SOAK_S=$${SOAK_S:-3600} $(PYTEST) -m integration tests/integration/pxe/test_tftp_soak.py $(TEST_ARGS)

bench: ## Measure against peers and print the table of docs/benchmarks.md
	$(BIN)/python -m benchmarks

screenshots: ## Take the dashboard's pictures in docs/images anew
	$(BIN)/python tests/support/dashboard_pictures.py docs/images

recording: ## Run the demo and record it anew for docs/images
	$(BIN)/python tests/support/demo_recording.py docs/images/demo.svg

docs: ## Rewrite docs/reference.md from the command tree and the models
	$(BIN)/python -m bramble.reference docs/reference.md

deb: setup ## Debian packages for amd64 and arm64, in dist/ (DEB_ARGS='--arch arm64' for one)
	$(BIN)/python deploy/debian/build.py $(DEB_ARGS)

wheel: setup ## A wheel in dist/ for pipx, and constraints.txt: the versions that it was tested with
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@sed -nE 's/^([A-Za-z0-9._-]+==[^\]*[^\ ]) *\\?$$/\1/p' requirements.lock > dist/constraints.txt
	@ls dist/*.whl dist/constraints.txt

lock: ## Refresh requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--group dev pyproject.toml --output-file requirements.lock

clean: ## Remove the environment and caches of this checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .import_linter.log build dist
