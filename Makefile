# Everything that demo, train, test and bench need goes into .venv.
#   make test TORCH=                 without torch, and so without the comparisons with it
#   make test TORCH_INDEX=URL        torch from an index of its own (such as that of its CPU builds)
#   make test PYTEST_ARGS="-k layer" some of the tests
#   make test WORKERS=0              one after the other; N: by N processes
#   make oldest                      the same build's tests with the oldest NumPy it runs with
#   make train TRAIN_ARGS="--norms batch,none --data DIR"
#   make bench BENCH_ARGS="layer_norm --json result.json"
#   make bench PEERS=                beside NumPy and what else is installed
#   CC=clang-19 make ...             another compiler

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTEST_ARGS ?=
WORKERS ?= 2
TRAIN_ARGS ?=
BENCH_ARGS ?=
PEERS ?= yes
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-19 clang-format) clang-format)

BIN := .venv/bin
PYTEST = -m pytest -n $(WORKERS) --dist loadgroup
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo train test oldest bench kernels core sanitize race lint format clean

demo: .venv/demo
	$(BIN)/python examples/demo.py

train: .venv/train
	$(BIN)/python examples/lenet.py $(TRAIN_ARGS)

test: .venv/test $(if $(TORCH),.venv/torch)
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

bench: .venv/bench $(if $(PEERS),.venv/peers $(if $(TORCH),.venv/torch))
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Built with NumPy 2 as ever, tested in an environment that has the oldest; Python 3.11 or 3.12.
oldest: .venv/normc .venv-oldest
	.venv-oldest/bin/python $(PYTEST) --ignore tests/test_core.py $(PYTEST_ARGS)

.venv-oldest:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip --disable-pip-version-check --quiet install \
	    'numpy==1.26.4' 'ml_dtypes<0.5' 'pytest>=8' pytest-xdist hypothesis mpmath

# The core alone, without Python, on every instruction set that this machine has.
core:
	$(MAKE) -C tests/core OUT=$(CURDIR)/build/core run

# Each kernel on each instruction set, in gigabytes a second; KERNELS=rows: those of that name.
kernels:
	$(MAKE) -C tests/core OUT=$(CURDIR)/build/core ARGS=$(KERNELS) kernels

.venv/python:
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=23.1' 'setuptools>=77' 'numpy>=2.0'
	touch $@

.venv/normc: .venv/python $(SOURCES)
	$(PIP) --no-build-isolation --config-settings editable_mode=compat --editable .
	touch $@

# normc itself is installed already: this adds what the extra asks for.
.venv/demo .venv/train .venv/test .venv/bench .venv/peers: .venv/%: .venv/normc
	$(PIP) 'normc[$*]'
	touch $@

.venv/torch: .venv/python
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) '$(TORCH)' || \
	    { echo 'no torch: TORCH_INDEX=URL names an index that has it, TORCH= leaves it out'; exit 1; }
	touch $@

# Builds of their own, beside the installed one: of the core's test, and of the module. With -j2,
# two of them at a time.
build/sanitize/core/core build/sanitize/module: SANITIZE := 1
build/race/core/core build/race/module: SANITIZE := thread
build/%/core/core: $(SOURCES) $(wildcard tests/core/*)
	$(MAKE) -C tests/core OUT=$(CURDIR)/$(@D) CC=gcc SANITIZE=$(SANITIZE) $(CURDIR)/$@
build/%/module: .venv/python $(SOURCES) $(wildcard normc/*.py*)
	NORMC_SANITIZE=$(SANITIZE) CC=gcc $(BIN)/python setup.py --quiet build \
	    --build-base build/$* --build-lib build/$*/lib
	touch $@

# The interpreter is not instrumented, so the runtime is loaded before it; it keeps objects to its
# end, so nothing is said about leaks; with its own allocator off, every object's bounds are watched.
# --capture=sys leaves the file descriptor alone that the runtime reports to before it ends the
# process.
RUNTIME = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libstdc++.so)
sanitize: .venv/test build/sanitize/core/core build/sanitize/module
	build/sanitize/core/core
	NORMC_SANITIZE=1 PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/sanitize/lib PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:allocator_may_return_null=1 \
	    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 LD_PRELOAD="$(RUNTIME)" \
	    $(BIN)/python $(PYTEST) --capture=sys --ignore tests/test_core.py $(PYTEST_ARGS)

# Calls that share their work, for races: no report is allowed. Without the forks, since the runtime
# gives up where a child of several threads makes others; halves are for the core alone. Its shadow
# memory asks for addresses that are not random.
race: .venv/test build/race/core/core build/race/module
	setarch -R build/race/core/core races
	NORMC_SANITIZE=thread PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/race/lib \
	    TSAN_OPTIONS=halt_on_error=1 setarch -R env LD_PRELOAD=$(shell gcc -print-file-name=libtsan.so) \
	    $(BIN)/python -m pytest --capture=sys tests/test_threads.py -k 'not small and not float16'

C_FILES = $(shell find csrc tests/core -name '*.[ch]' -o -name '*.inc')
lint: .venv/python
	$(CLANG_FORMAT) --dry-run --Werror $(C_FILES)
	! grep -rnE '^.{101,}' --include='*.[ch]' --include='*.def' --include='*.inc' \
	    --include='*.py' --include='*.pyi' setup.py csrc normc tests benchmarks examples
	NORMC_DEV=1 $(BIN)/python setup.py --quiet build_ext --force \
	    --build-lib build/lint --build-temp build/lint

format:
	$(CLANG_FORMAT) -i $(C_FILES)

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info normc/*.so demo.png lenet.png .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
