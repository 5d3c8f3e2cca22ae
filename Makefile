# iterppo: what a developer, a cron job or CI types. `make` alone lists it.

VENV := .venv
# TORCH_INDEX and EXTRAS as they were chosen last time, so that `make test` does not undo them.
-include $(VENV)/choices.mk

# The Python that .venv is made with, 3.11 or newer:
#   make setup PYTHON=python3.12
PYTHON ?= python3
# Where torch comes from. Empty: PyPI, but the CPU build on Linux without nvidia-smi (tools/install_torch.py).
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?=
# The optional parts to install:
#   make setup EXTRAS=test,lint,deepspeed
EXTRAS ?= test,lint
# What pytest is told besides:
#   make test TESTS='tests/test_packaging.py -k wheel'
TESTS ?=

RUN := $(VENV)/bin/python -m
# Contents, not times: a checkout of another branch and back installs nothing.
LOCK := $(shell { cat constraints.txt pyproject.toml tools/install_torch.py; echo '$(TORCH_INDEX) $(EXTRAS)'; } \
	| cksum | tr ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help setup test lint format clean FORCE

##@ Start

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install the pinned packages, if constraints.txt or pyproject.toml changed
	@echo "$(VENV) holds what constraints.txt pins"

$(VENV)/.installed: $(if $(filter-out $(LOCK),$(shell cat $(VENV)/.installed 2>/dev/null)),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "iterppo needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(RUN) pip --version >/dev/null 2>&1 || { echo "$(VENV): a new one, $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); }
	@$(VENV)/bin/python tools/install_torch.py $(TORCH_INDEX)
	@echo "iterppo[$(EXTRAS)] and what it needs, as constraints.txt pins it (about a minute)"
	@$(RUN) pip install -qq --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	@printf 'TORCH_INDEX ?= %s\nEXTRAS ?= %s\n' '$(TORCH_INDEX)' '$(EXTRAS)' > $(VENV)/choices.mk
	@echo '$(LOCK)' > $@

##@ Develop

test: $(VENV)/.installed ## Run the tests
	$(RUN) pytest $(TESTS)

lint: $(VENV)/.installed ## Check style and types, change nothing
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

format: $(VENV)/.installed ## Mend what ruff can mend
	$(RUN) ruff check --fix
	$(RUN) ruff format

clean: ## Remove what tools leave behind; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find iterppo stages tests tools -name __pycache__ -prune -exec rm -rf {} +

# Rounds (demo, round, loop) stand below. Whatever runs `iterppo` there has `| $(VENV)/.installed` behind its files.
