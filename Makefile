# Two commands do it all: `make run` and `make test`. `make help` lists the rest.
#
# PYTHON chooses the interpreter (3.11 or newer). Each version has its own virtual environment and
# build directory, so that changing between versions rebuilds nothing.

PYTHON ?= python3
CARGO  ?= cargo

TAG    := $(shell $(PYTHON) -c 'import sys; print("%d.%d%s" % (*sys.version_info[:2], getattr(sys, "abiflags", "")))' 2>/dev/null)
VENV   ?= .venv-$(TAG)
PY     := $(VENV)/bin/python
BUILD  := target/python-$(TAG)

# What the extension module is built from.
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find crates/rondel-engine/src crates/rondel-python -name target -prune -o -type f -print)
RUST    := --workspace --exclude rondel-python --exclude rondel-pyo3 --exclude rondel-pyo3-testing --all-features

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-rust test-loom test-miri test-python test-traces test-extension test-conformance test-panic test-asan test-bench test-packaging test-ecosystem test-upstream ecosystem-setup build bench figures lint lint-rust lint-python lint-docs lint-workflows lint-shell lint-words check-msrv deny fmt docs wheel wheels clean tools

help: ## List what can be made
	@echo "usage: make TARGET [PYTHON=python3.13] [ARGS=...]"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: build ## Build everything and take the tour of the example programs
	@$(PY) examples/tour.py $(ARGS)

test: test-rust test-loom test-python test-traces test-extension test-conformance test-panic test-bench ## Build and run every test, Rust and Python

test-rust: tools ## Run the tests of the Rust crates
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    echo "$(CARGO) nextest run $(RUST)"; $(CARGO) nextest run $(RUST) --no-tests pass; \
	else \
	    echo "$(CARGO) test --all-targets $(RUST)"; $(CARGO) test $(RUST) --lib --bins --tests --examples; \
	fi
	$(CARGO) test --doc $(RUST)

test-python: build ## Run the Python tests; ARGS go to pytest
	$(PY) -m pytest -o cache_dir=$(abspath $(VENV))/pytest-cache $(ARGS)

# The same random programs on asyncio and in the Rust face, whose program for it has a folder of its
# own.
test-traces: build
	$(CARGO) build --package rondel --example trace --target-dir $(BUILD)
	$(PY) -m pytest -o cache_dir=$(abspath $(VENV))/pytest-cache tests/differential/test_rust_traces.py --rust-trace $(BUILD)/debug/examples/trace $(ARGS)

# An extension module made with rondel-pyo3, awaited on each loop that is installed.
test-extension: build $(VENV)/extension/.built ## Test Rust futures on Python's loops; ARGS go to pytest
	PYTHONPATH=$(abspath $(VENV))/extension $(PY) -m pytest -o cache_dir=$(abspath $(VENV))/pytest-cache tests/extension $(ARGS)

test-conformance: build ## Run CPython's own asyncio tests on Rondel; ARGS go to tests/conformance/run.py
	$(PY) tests/conformance/run.py $(ARGS)

# Tests every interleaving of threads, in a separate build: loom replaces the standard library's
# types.
test-loom: tools
	RUSTFLAGS="--cfg loom" $(CARGO) test --package rondel-engine --test inbox_loom --target-dir target/loom
	RUSTFLAGS="--cfg loom" $(CARGO) test --package rondel-engine --package rondel --lib --target-dir target/loom interleavings

# Miri interprets what makes no system calls: the engine's modules of that kind, and scopes of
# tasks. There a test forgets a scope, so that leaks are allowed. A few cases of each property are
# enough.
MIRI_ENGINE := event_loop read_buffer flow_control recv_size literal interest
test-miri: tools ## Run the engine's pure modules and scopes of tasks under Miri, if nightly Rust has it
	@if $(CARGO) +nightly miri --version >/dev/null 2>&1; then set -ex; export PROPTEST_CASES=4; \
	    MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --package rondel-engine --lib --target-dir target/miri -- $(MIRI_ENGINE); \
	    MIRIFLAGS=-Zmiri-ignore-leaks $(CARGO) +nightly miri test --package rondel --lib --target-dir target/miri -- task::scope; \
	else echo "SKIPPED: nightly Rust with Miri is not here (rustup toolchain install nightly --component miri,rust-src)"; fi

test-panic: build $(VENV)/panic-probe
	$(PY) -m pytest tests/robustness/test_panics.py --panic-probe $(abspath $(VENV))/panic-probe

# Use of freed memory rarely crashes. A build of the module with AddressSanitizer reports each one.
# Run it to look for such bugs; a workflow runs it every night. It takes longer than all other tests
# together.
ASAN_TESTS  := tests/robustness/hostile $(addprefix tests/,$(addsuffix .py,loop/test_calls loop/test_loop_in_steps \
    package/test_keywords robustness/test_collection robustness/test_reentrancy streams/test_cancellation streams/test_streams \
    sync/test_copies sync/test_sync_primitives tasks/test_eager_tasks tasks/test_foreign_futures tasks/test_futures \
    tasks/test_task_groups tasks/test_tasks tasks/test_timeouts tasks/test_unbound threads/test_to_thread tls/test_tls \
    transports/test_datagrams transports/test_pipes transports/test_transports transports/test_writes_leave \
    waits/test_as_completed waits/test_gather waits/test_shield waits/test_wait))
ASAN_RUNS   ?= 400
ASAN_TARGET  = $(shell rustc -vV | sed -n 's/^host: //p')
test-asan: $(VENV)/asan/.built ## Run hostile programs and a third of the Python tests with AddressSanitizer; ARGS go to pytest
	LD_PRELOAD=$$(cc -print-file-name=libasan.so) PYTHONMALLOC=malloc PYTHONPATH=$(abspath $(VENV))/asan RONDEL_OPERATIONS=$(ASAN_RUNS) \
	    ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1 \
	    $(PY) -m pytest -o cache_dir=$(abspath $(VENV))/asan/pytest-cache --timeout 600 $(or $(ARGS),$(ASAN_TESTS))

# Debian's PostgreSQL, Redis and nginx. The policy file keeps the packages from starting them.
ecosystem-setup: ## Install the servers that test-ecosystem uses (as root, on Debian)
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
	apt-get update -qq && apt-get install -qq --no-install-recommends postgresql redis-server nginx-light; status=$$?; rm /usr/sbin/policy-rc.d; exit $$status

# Each has its own environment, so that the project's own tests don't see these packages.
test-ecosystem: build $(VENV)/ecosystem/.ready ## Run real programs (uvicorn, aiohttp, asyncpg, …) on Rondel; ARGS go to pytest
	cd tests/ecosystem && $(abspath $(VENV))/ecosystem/bin/python -m pytest $(ARGS)
	cd tests/ecosystem && $(abspath $(VENV))/ecosystem/bin/python -m rondel -m pytest $(ARGS)

test-upstream: build $(VENV)/upstream/.ready ## Run the suites of aiohttp, anyio and uvicorn on Rondel; ARGS go to tests/upstream/run.py
	$(VENV)/upstream/bin/python tests/upstream/run.py $(ARGS)

# One by one if that fails: there are no wheels of some packages for new interpreters.
# (forbiddenfruit, pure Python, has no wheels at all.)
$(VENV)/%/.ready: tests/%/requirements.txt $(VENV)/.built
	test -x $(VENV)/$*/bin/python || $(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --only-binary :all: --no-binary forbiddenfruit -r $< || sed -e '/^#/d' $< | while read -r package; do \
	    $(VENV)/$*/bin/python -m pip install --quiet --only-binary :all: --no-binary forbiddenfruit "$$package" || echo "SKIPPED: $$package does not install here"; done
	VIRTUAL_ENV=$(abspath $(VENV)/$*) $(VENV)/$*/bin/python -m maturin develop --release --target-dir $(BUILD)
	@touch $@

# Tests the benchmarks themselves; `make bench` measures.
test-bench: build
	$(PY) -m pytest benchmarks/tests

build: $(VENV)/.built ## Build the extension module, optimised, and install it in the virtual environment

bench: build ## Run the benchmarks; ARGS go to benchmarks/run.py
	@sed -e '/^#/d' benchmarks/requirements.txt | while read -r peer; do \
	    $(PY) -m pip install --quiet "$$peer" || echo "skipped: $$peer does not install here"; done
	$(PY) benchmarks/run.py $(ARGS)

# Only on a quiet machine, because the figures are committed.
figures: build ## Measure the goals' cases, and put figures, plot and tables into docs/
	$(MAKE) bench PYTHON=$(PYTHON) ARGS='--goals --rounds 5 --record'

lint: lint-rust lint-python lint-docs lint-workflows lint-shell lint-words deny ## Run every linter; warnings are errors

lint-rust: tools $(VENV)/.tools
	$(CARGO) fmt --all --check
	PYO3_PYTHON=$(abspath $(PY)) $(CARGO) clippy --workspace --all-targets --all-features -- -D warnings -D clippy::undocumented_unsafe_blocks
	PYO3_PYTHON=$(abspath $(PY)) RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps --document-private-items --package rondel-engine --package rondel --package rondel-pyo3 --package rondel-python

lint-python: $(VENV)/.tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	for version in 3.11 3.12 3.13 3.14; do $(PY) -m mypy --python-version $$version || exit 1; done

lint-docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

lint-workflows: $(VENV)/.packaging
	$(VENV)/bin/zizmor --offline --quiet --pedantic .github/workflows

lint-shell: $(VENV)/.tools
	$(VENV)/bin/shellcheck --external-sources --check-sourced .ci/run

lint-words: $(VENV)/.tools
	$(VENV)/bin/typos

# The oldest Rust that Cargo.toml promises. Rustup gets it if it can.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
check-msrv: tools $(VENV)/.tools ## Check that everything compiles with the oldest Rust that is promised
	@if $(CARGO) +$(MSRV) --version >/dev/null 2>&1 || rustup toolchain install $(MSRV) --profile minimal >/dev/null 2>&1; then \
	    echo "$(CARGO) +$(MSRV) check --workspace --all-targets"; \
	    PYO3_PYTHON=$(abspath $(PY)) $(CARGO) +$(MSRV) check --quiet --workspace --all-targets --target-dir target/msrv; \
	else echo "SKIPPED: Rust $(MSRV) is not here and could not be installed"; fi

deny: tools
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    echo "$(CARGO) deny check licenses bans sources"; $(CARGO) deny --log-level warn check licenses bans sources; \
	else echo "SKIPPED: cargo deny is not installed (cargo install --locked cargo-deny)"; fi

fmt: tools $(VENV)/.tools ## Format the Rust and the Python code
	$(CARGO) fmt --all
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: tools lint-docs ## Build the documentation into target/site, and that of the Rust crate into target/doc
	$(CARGO) doc --no-deps --package rondel

wheel: $(VENV)/.tools ## Build a wheel into dist/
	$(PY) -m maturin build --release --interpreter $(PY) --target-dir $(BUILD) --out dist

wheels: tools $(VENV)/.packaging ## Build the source archive and a wheel for every Python found; ARGS go to packaging/build.py
	$(PY) packaging/build.py $(ARGS)

# In a folder of its own, so that files of an older build in dist/ are not tested.
test-packaging: tools $(VENV)/.packaging ## Install source archive and wheel into fresh environments, and use them
	rm -rf $(VENV)/dist
	$(PY) -m maturin sdist --out $(VENV)/dist
	$(PY) -m maturin build --quiet --release --interpreter $(PY) --target-dir $(BUILD) --out $(VENV)/dist
	$(PY) packaging/check.py --dist $(VENV)/dist $(ARGS)

clean: ## Remove what was built, the virtual environments included
	rm -rf target dist .venv-* python/rondel/*.so .pytest_cache .mypy_cache .ruff_cache

# Reports missing tools before something fails because of them.
tools:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs (1.90 or newer)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "A linker is missing; on Debian: sudo apt install gcc libc6-dev" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing; on Debian: sudo apt install python3 python3-venv (or PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: choose another with PYTHON=..." >&2; exit 1; }
	@[ -x $(PY) ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments; on Debian: sudo apt install python3-venv" >&2; exit 1; }

$(PY): | tools
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: tests/requirements.txt | $(PY)
	$(PY) -m pip install --quiet -r tests/requirements.txt
	@touch $@

$(VENV)/.docs: docs/requirements.txt | $(PY)
	$(PY) -m pip install --quiet -r docs/requirements.txt
	@touch $@

$(VENV)/.packaging: packaging/requirements.txt | $(PY)
	$(PY) -m pip install --quiet -r packaging/requirements.txt
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.tools | tools
	VIRTUAL_ENV=$(abspath $(VENV)) $(PY) -m maturin develop --release --target-dir $(BUILD)
	@touch $@

$(VENV)/extension/.built: $(VENV)/.built $(shell find crates/rondel/src crates/rondel-pyo3 crates/rondel-pyo3-macros -name '*.rs')
	PYO3_PYTHON=$(abspath $(PY)) PYO3_BUILD_EXTENSION_MODULE=1 \
	    $(CARGO) build --release --package rondel-pyo3-testing --target-dir $(BUILD)
	mkdir -p $(@D)
	cp $(BUILD)/release/librondel_pyo3_testing.so \
	    $(@D)/rondel_pyo3_testing$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	@touch $@

# Another build of the module, with functions that panic. After .built: both use the same build
# directory.
$(VENV)/panic-probe: $(VENV)/.built
	rm -rf $@ $(VENV)/panic-probe-wheel
	$(PY) -m maturin build --release --features panic-probe --interpreter $(PY) --target-dir $(BUILD) --out $(VENV)/panic-probe-wheel
	$(PY) -m pip install --quiet --no-deps --target $@ $(VENV)/panic-probe-wheel/*.whl

# Another build of the module, with AddressSanitizer. The flag is for nightly compilers only;
# RUSTC_BOOTSTRAP makes the stable compiler accept it.
$(VENV)/asan/.built: $(VENV)/.built
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes -Clink-arg=-Wl,--allow-shlib-undefined" \
	    PYO3_PYTHON=$(abspath $(PY)) PYO3_BUILD_EXTENSION_MODULE=1 \
	    $(CARGO) build --release --package rondel-python --target $(ASAN_TARGET) --target-dir target/asan-$(TAG)
	rm -rf $(@D) && mkdir -p $(@D)
	cp -r python/rondel $(@D)/rondel && rm -f $(@D)/rondel/*.so
	cp target/asan-$(TAG)/$(ASAN_TARGET)/release/lib_rondel.so \
	    $(@D)/rondel/_rondel$$($(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	@touch $@
