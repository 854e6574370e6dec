PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Most of a command's first seconds are imports; compiled once they take half as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup test test-slow demo ui check lint format lock

setup: $(READY)

# uv installs the lock file in seconds; it comes from the same index as everything else. An index that
# pip is configured for is handed on to it.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "setting up .venv (once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	index=$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true); \
		$(BIN)/uv pip sync --quiet $${index:+--default-index "$$index"} requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --offline --editable .
	touch $@

test: setup
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Kills at every stage, full disks, enormous maps: a quarter of an hour, so not with every change.
test-slow: setup
	$(BIN)/pytest -m slow

demo: setup
	$(BIN)/chargeback demo

ui: setup
	$(BIN)/chargeback demo --ui

# What dbt compiles against: a deployment without data.
LINTED := CHARGEBACK_HOME=$(CURDIR)/.venv/linted

check: setup
	@mkdir -p .venv/linted/build
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(LINTED) $(BIN)/dg check defs

# The style of the SQL too, as its macros expand: some minutes, so before a commit and not on every checkout.
lint: check
	$(LINTED) $(BIN)/sqlfluff lint --disable-progress-bar dbt

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@mkdir -p .venv/linted/build
	$(LINTED) $(BIN)/sqlfluff fix --disable-progress-bar dbt

lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--group dev pyproject.toml --output-file requirements.lock
