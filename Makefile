# Needs python3 (3.10 or later) and make; installs everything else into $(VENV).

PYTHON ?= python3
VENV ?= .venv

BIN = $(VENV)/bin
SOURCES = $(shell find mcp_sync -name '*.py' -o -name py.typed)

# -qq: errors only. The machine's own pip configuration (mirrors, certificates) stays in force.
PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install -qq --use-pep517

# Whatever environment the caller has activated is none of ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PYTEST_ADDOPTS

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all mutants soak fuzz bench bench-server lint types audit peers clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1	\2/p' Makefile | expand -t 20

demo: $(VENV)/.for-demo  ## start a server, list its tools, call one (examples/quickstart.py)
	$(BIN)/python examples/quickstart.py

# Most tests wait for something, so more of them at once than there are processors. What measures something, or has the
# machine's one Docker engine, comes by itself. The lanes have to agree on the names of the tests, some of which come
# out of sets: so one hash seed for all.
LANES ?= 3

# Beside others a test may be disturbed. What fails there is run once more by itself, and has to pass then; the first
# failure stays in the output. What runs by itself anyway has one try.
ALONE_AGAIN = PYTHONHASHSEED=0 $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none
LATER = tests/containers tests/conformance tests/benchmarks

test: lint types peers  ## linter, types, and every test but the slow ones
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -m "not slow and not alone" -n $(LANES) --dist loadfile $(LATER:%=--ignore=%) \
		|| $(ALONE_AGAIN) -m "not slow and not alone" $(LATER:%=--ignore=%)
	$(BIN)/python -m pytest -m "not slow and alone" $(LATER:%=--ignore=%)
	$(BIN)/python -m pytest -m "not slow" -n $(LANES) --dist loadfile tests/conformance tests/benchmarks \
		|| $(ALONE_AGAIN) -m "not slow" tests/conformance tests/benchmarks
	$(BIN)/python -m pytest -m "not slow" tests/containers

test-all: lint types peers  ## the same with the slow tests
	$(BIN)/python -m pytest

# What to run instead of half an hour: make soak SOAK='--minutes 5 --seed 7'
soak: $(VENV)/.for-test  ## every transport at once under random faults for 30 minutes; figures at the end
	$(BIN)/python tests/soak/soak.py $(SOAK)

# How long, and what: make fuzz FUZZ='--seconds 600 --target sse'
fuzz: $(VENV)/.for-test  ## look for inputs that break something, a minute for each target
	nice $(BIN)/python tests/fuzz/run.py $(FUZZ)

# Which, and how many at once: make mutants MUTANTS='--only no-killpg retry-all --jobs 4'
mutants: $(VENV)/.for-test  ## seed known bugs, one by one, and see the tests find each
	$(BIN)/python tests/mutants/run.py $(MUTANTS)

# What to run instead of everything: make bench BENCH='--cases tiny,text1 --rounds 9'
bench: peers  ## what a call costs, beside a raw loop and the official SDK
	$(BIN)/python tests/benchmarks/run.py --write $(BENCH)

bench-server: peers  ## what a call costs a server, beside the official SDK and fastmcp; takes BENCH, too
	$(BIN)/python tests/benchmarks/install.py
	$(BIN)/python tests/benchmarks/serving.py $(BENCH)

lint: $(VENV)/.for-test  ## ruff
	$(BIN)/python -m ruff check .

types: $(VENV)/.for-test  ## mypy --strict
	$(BIN)/python -m mypy --strict mcp_sync

audit: $(VENV)/.for-test  ## ask the package index for known flaws of what is installed
	$(PIP_INSTALL) pip-audit
	$(BIN)/python -m pip_audit

# The scripts know what is there already, so they run every time.
peers: $(VENV)/.for-test  ## install the servers and hosts that the tests talk to
	$(BIN)/python tests/peers/install.py
	$(BIN)/python tests/hosts/install.py

clean:  ## remove all that was installed or built
	[ ! -f $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)
	rm -rf .fuzz build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf tests/peers/.venvs tests/hosts/.venvs
	find mcp_sync tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The demo wants the package as a user gets it, the tests want the checkout itself. Each install replaces the
# other, so each removes the other's stamp. build/ goes first: setuptools would pack modules that are long gone.
$(VENV)/.for-demo: $(VENV)/.made setup.cfg setup.py $(SOURCES)
	rm -rf build $(VENV)/.for-test
	$(PIP_INSTALL) '.[examples]'
	@rm -rf build && touch $@

$(VENV)/.for-test: $(VENV)/.made setup.cfg setup.py
	rm -f $(VENV)/.for-demo
	$(PIP_INSTALL) -e '.[test,fuzz]'
	@touch $@

# Some systems ship python3 without ensurepip. Then virtualenv will do, if it is there or pip can bring it.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or later is needed; say which with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -c 'import virtualenv' 2>/dev/null; then $(PYTHON) -m virtualenv -q $(VENV); \
	elif $(PYTHON) -m pip install -qq --target $(VENV)/.virtualenv virtualenv 2>/dev/null; then \
	    PYTHONPATH=$(VENV)/.virtualenv $(PYTHON) -m virtualenv -q $(VENV); \
	else \
	    echo "$(PYTHON) has neither venv nor pip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; fi
	@touch $@
