# Everything happens in .venv.  Only `make servers` installs elsewhere: Debian packages of DNS servers, if it may.

PYTHON ?= python3
VENV ?= .venv
SECONDS ?= 120
PACKETS ?= 2000000
SEED ?= 1
BIN = $(VENV)/bin
CPUS := $(shell nproc 2>/dev/null || echo 2)
# Integration tests wait for half of their time, for servers that start and timers that run out.
JOBS ?= $(shell echo $$(($(CPUS) * 2)))

# How much the unit tests try of what is repeated or random (tests/__init__.py): quick, usual or soak.
EFFORT ?= quick
test: EFFORT = usual

# The programs that the tests start by the hundred are not to be parsed each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test unit integration soak run check cover servers wheel sdist man image lock audit fuzz flood mutants compiled
.PHONY: test-compiled bench bench-steps bench-bad-names attack clean
.DEFAULT_GOAL := help

help:                        ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

venv: $(VENV)/ready          ## .venv with dotproxy and what its tests need; rebuilt when pyproject.toml changes

demo: $(VENV)/ready          ## run dotproxy with a DoT server and a throw-away CA on this machine; no internet needed
	$(BIN)/dotproxy demo

run: $(VENV)/ready           ## forward DNS: 127.0.0.1:5300 to Cloudflare and Quad9 (ARGS="--upstream …")
	$(BIN)/dotproxy run $(ARGS)

test: unit integration       ## unit and integration tests: minutes

unit: $(VENV)/ready          ## unit tests under trial, in parallel: seconds, no network (EFFORT=quick)
	TEST_EFFORT=$(EFFORT) $(BIN)/python -m twisted.trial -j$(CPUS) tests

integration: $(VENV)/ready servers  ## integration tests with real servers and clients, JOBS at a time (ARGS="-k …")
	$(BIN)/python -m pytest -n $(JOBS) tests/integration $(ARGS)

soak: $(VENV)/ready servers  ## long loads, measurements, machines that boot: what `make test` leaves out (20 minutes)
	TEST_EFFORT=soak $(BIN)/python -m twisted.trial -j$(CPUS) tests
	$(BIN)/python -m pytest -m soak tests/integration $(ARGS)

check: $(VENV)/ready-to-check  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Integration tests that run dotproxy in their own process, where its coverage can be measured.
IN_PROCESS = $(patsubst %,tests/integration/test_%.py,admin admin_attacks doctor doctor_in_process hostile_text in_process)

cover: $(VENV)/ready servers  ## branch coverage, of tests in one process; fails below 92 % (98 % in wire, policy, cache)
	$(BIN)/coverage run -m pytest -q tests --ignore tests/integration
	$(BIN)/coverage run --append -m pytest -q $(IN_PROCESS)
	$(BIN)/coverage report --fail-under=92
	$(BIN)/coverage report --include='dotproxy/wire/*,dotproxy/policy/*,dotproxy/cache/*' --fail-under=98

servers:                     ## install DNS servers and clients for the integration tests (Debian packages)
	@sh tests/integration/install_packages.sh

wheel: $(VENV)/ready-to-check  ## dist/dotproxy-….whl
	$(BIN)/python -m build --wheel --outdir dist .

image: $(VENV)/ready         ## build the container image without an engine and run it (root on Debian; four minutes)
	$(BIN)/python deploy/docker/verify.py $(ARGS)

lock: $(VENV)/ready          ## deploy/docker/*.lock: versions and hashes of what is in the image (ARGS="--upgrade" for the newest)
	$(BIN)/python -m pip install --quiet --editable '.[audit]'
	$(BIN)/python deploy/docker/lock.py $(ARGS)

audit: $(VENV)/ready         ## check the lock files against the database of known vulnerabilities
	$(BIN)/python -m pip install --quiet --editable '.[audit]'
	$(BIN)/python deploy/docker/audit.py

sdist: $(VENV)/ready-to-check  ## dist/dotproxy-….tar.gz
	$(BIN)/python -m build --sdist --outdir dist .

man: $(VENV)/ready           ## manual pages, tables of settings and metrics, deploy/dotproxy.toml: written from the code
	$(BIN)/python docs/man/make.py
	$(BIN)/python docs/tables.py

fuzz: $(VENV)/ready          ## coverage-guided fuzzing of queries and responses, SECONDS=120 each (CPython 3.11 to 3.13)
	$(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(BIN)/python -m fuzz.corpora build/fuzz
	$(BIN)/python -m fuzz.queries -max_total_time=$(SECONDS) -max_len=4096 fuzz/corpus/queries build/fuzz/queries
	$(BIN)/python -m fuzz.replies -max_total_time=$(SECONDS) -max_len=4096 fuzz/corpus/replies build/fuzz/replies

flood: $(VENV)/ready         ## send PACKETS=2000000 mutated messages through a proxy in memory (SEED=1): no exception, no growth
	$(BIN)/python -m fuzz.flood --packets $(PACKETS) --seed $(SEED)

compiled: $(VENV)-compiled/ready  ## dist/compiled/….whl: the query path compiled by mypyc (needs a C compiler)

test-compiled: $(VENV)-compiled/ready  ## unit tests with the compiled modules in place of their sources
	rm -rf build/compiled && mkdir -p build/compiled/wheel build/compiled/tree
	git ls-files -z -co --exclude-standard | tar -cf - --null -T - | tar -xf - -C build/compiled/tree
	$(BIN)/python -m zipfile -e dist/compiled/*.whl build/compiled/wheel
	cd build/compiled/wheel && find . -name '*.so' | tar -cf - -T - | tar -xf - -C ../tree
	cd build/compiled/tree && $(abspath $(VENV)-compiled)/bin/python -m twisted.trial -j$(CPUS) tests
	cd build/compiled/tree && $(abspath $(VENV)-compiled)/bin/python -m fuzz.same 1 20000 >../compiled
	$(BIN)/python -m fuzz.same 1 20000 >build/compiled/interpreted
	cmp build/compiled/compiled build/compiled/interpreted
	cd build/compiled/tree && $(abspath $(VENV)-compiled)/bin/python -m fuzz.flood >../flood-compiled
	$(BIN)/python -m fuzz.flood >build/compiled/flood-interpreted
	cat build/compiled/flood-compiled build/compiled/flood-interpreted
	test "$$(tail -n 1 build/compiled/flood-compiled)" = "$$(tail -n 1 build/compiled/flood-interpreted)"

mutants: $(VENV)/ready       ## change the code in 200 places, one at a time; list what no unit test notices (ARGS="--seed 2 --count 50")
	$(BIN)/python -m mutants $(ARGS)

bench: $(VENV)-compiled/ready servers ## measure beside Unbound, dnsdist, Knot Resolver and stubby, into docs/performance.md (ARGS="--quick")
	$(VENV)-compiled/bin/python -m benchmarks --write docs/performance.md $(ARGS)

bench-steps: $(VENV)/ready   ## time each step of a query
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pytest benchmarks/test_steps.py --benchmark-columns=min,median,iqr,rounds --benchmark-sort=name $(ARGS)

bench-bad-names: $(VENV)/ready servers ## measure what queries that end connections cost others, beside peers (ARGS="--quick")
	$(BIN)/python -m benchmarks.bad_names $(ARGS)

attack: $(VENV)/ready servers ## measure what one hostile client costs others, beside Unbound and dnsdist (ARGS="--quick")
	$(BIN)/python -m benchmarks.attack $(ARGS)

clean:                       ## remove what make made
	rm -rf $(VENV) .venv-* dist build .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis _trial_temp*
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name dropin.cache -exec rm -f {} +

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

COMPILED = pyproject.toml mypy.ini $(wildcard dotproxy/*.py dotproxy/*/*.py dotproxy/*/*/*.py)

$(VENV)-compiled/ready: $(VENV)/ready-to-check $(COMPILED)
	rm -rf dist/compiled $(VENV)-compiled
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m build --outdir dist/compiled .
	$(PYTHON) -m venv $(VENV)-compiled
	$(VENV)-compiled/bin/python -m pip install --quiet --upgrade pip
	set -- dist/compiled/*.whl && $(VENV)-compiled/bin/python -m pip install --quiet "$$1[test,bench]"
	@touch $@

$(VENV)/ready-to-check: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
