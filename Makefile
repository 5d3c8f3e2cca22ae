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
# The optional parts to install; the tests of --engine ray, of --deepspeed and of the site are skipped without theirs:
#   make setup EXTRAS=test,lint,deepspeed,ray,docs
EXTRAS ?= test,lint,deepspeed
# What pytest is told besides:
#   make test TESTS='tests/test_packaging.py -k wheel'
TESTS ?=
# Processes that the tests are divided among, file by file:
#   make test JOBS=0      # in one process, as a debugger wants it
JOBS ?= 2

PYTHON_M := $(VENV)/bin/python -m
# Contents, not times: a checkout of another branch and back installs nothing.
LOCK := $(shell { cat constraints.txt pyproject.toml tools/install_torch.py; echo '$(TORCH_INDEX) $(EXTRAS)'; } \
	| cksum | tr ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help setup test bench docs lint format clean demo round start loop FORCE

##@ Start

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install the pinned packages, if constraints.txt or pyproject.toml changed
	@echo "$(VENV) holds what constraints.txt pins"

$(VENV)/.installed: $(if $(filter-out $(LOCK),$(shell cat $(VENV)/.installed 2>/dev/null)),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "iterppo needs Python 3.11 or newer; '$(PYTHON)' is not. Name one: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON_M) pip --version >/dev/null 2>&1 || { echo "$(VENV): a new one, $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); }
	@$(VENV)/bin/python tools/install_torch.py $(TORCH_INDEX)
	@echo "iterppo[$(EXTRAS)] and what it needs, as constraints.txt pins it (about a minute)"
	@$(PYTHON_M) pip install -qq --disable-pip-version-check -e '.[$(EXTRAS)]' -c constraints.txt
	@printf 'TORCH_INDEX ?= %s\nEXTRAS ?= %s\n' '$(TORCH_INDEX)' '$(EXTRAS)' > $(VENV)/choices.mk
	@echo '$(LOCK)' > $@

##@ Develop

test: $(VENV)/.installed ## Run the tests
	$(PYTHON_M) pytest -n $(JOBS) --dist loadfile $(TESTS)

bench: $(VENV)/.installed ## Measure speed beside named peers, in some minutes; numbers to read, not to pass
	@$(PYTHON_M) pip install -qq --disable-pip-version-check -e '.[$(EXTRAS),bench]' -c constraints.txt
	$(PYTHON_M) benchmarks.ingest --quick
	$(PYTHON_M) benchmarks.fit_q --quick

docs: $(VENV)/.installed ## Build the documentation into build/site; a broken link, or a warning, is an error
	@$(PYTHON_M) mkdocs --version >/dev/null 2>&1 || \
		$(PYTHON_M) pip install -qq --disable-pip-version-check -e '.[$(EXTRAS),docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(PYTHON_M) mkdocs build --strict --quiet
	@echo "build/site/index.html"

lint: $(VENV)/.installed ## Check style and types, change nothing
	$(PYTHON_M) ruff check
	$(PYTHON_M) ruff format --check
	$(PYTHON_M) mypy

format: $(VENV)/.installed ## Mend what ruff can mend
	$(PYTHON_M) ruff check --fix
	$(PYTHON_M) ruff format

clean: ## Remove what tools leave behind; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find iterppo stages tests tools -name __pycache__ -prune -exec rm -rf {} +

##@ Rounds

# The folder of one round, its logs, and what every stage is configured by:
#   make round ROUND=runs/star/000 LOGS='logs/*.jsonl.gz' CONFIG=configs/tiny.toml SET='seed=1 ppo.clip=0.1'
ROUND ?= runs/mine/000
LOGS ?= $(ROUND)/log/log.jsonl
CONFIG ?= configs/tiny.toml
SET ?=
# The environment, folder and number of rounds of `make loop`:
#   make loop ROUNDS=3 RUN=runs/shop ENV=shop
ENV ?= shop
RUN ?= runs/$(subst :,-,$(ENV))
ROUNDS ?= 2
# Conversations of the last policy, which are there to be counted only; empty: as many as of the others.
LAST ?=
# UNTIL=converged ends `make loop` before ROUNDS, after the first round whose Q has converged against
# the round's before (`iterppo converged`; TOLERANCE in discounted outcomes, empty: its default):
#   make loop ROUNDS=5 UNTIL=converged
UNTIL ?=
TOLERANCE ?=
$(if $(filter-out converged,$(UNTIL)),$(error UNTIL=$(UNTIL) is not known. Write UNTIL=converged, or leave it out))

# GATE=yes asks after every round whether its policy may be shipped (`iterppo evaluate --gate`), and
# ends `make loop` where it may not: that policy holds no conversation.
GATE ?=
# ACTIONS=yes asks the policy for next actions before fit-q (SET=fit-q.method=fqe);
# JUDGE=yes fits Q twice, each on half of the conversations: ppo climbs the one, the other one judges
# when to stop.
JUDGE ?=
# CREDIT=yes learns one reward a turn from the outcomes (ITPO), and computes returns from those.
CREDIT ?=
# EARLIER='runs/mine/000 …' names rounds whose conversations Q is fitted on as well; `make loop` names all.
EARLIER ?=
# NOISE=accept lets ppo train on a Q that fit-q found to be noise.
ACTIONS ?=
NOISE ?=
# What is mistyped is said before anything runs: a loop of `x` rounds holds none, and GATE=no is no gate.
yes = $(if $(filter-out yes,$($(1))),$(error $(1)=$($(1)) is not known. Write $(1)=yes, or leave it out))
number = $(if $(shell echo '$($(1))' | grep -xE '$(3)'),,$(error $(1)=$($(1)) is no number for it. Write $(1)=$(2)))
$(foreach choice,GATE JUDGE CREDIT ACTIONS,$(call yes,$(choice)))
$(call number,ROUNDS,3,[1-9][0-9]*)
$(if $(LAST),$(call number,LAST,1000,[1-9][0-9]*))
$(if $(TOLERANCE),$(call number,TOLERANCE,0.05,[0-9]*\.?[0-9]+))

ITERPPO := $(VENV)/bin/iterppo
FLAGS = --config $(CONFIG) $(foreach setting,$(SET),--set $(setting))
# The policy that made a round's logs: the previous round's, or for a first round its own `init`.
PREVIOUS := $(shell echo '$(ROUND)' | awk -F/ '$$NF ~ /^[0-9]+$$/ && $$NF > 0 { \
	printf "%s%0" length($$NF) "d", substr($$0, 1, length($$0) - length($$NF)), $$NF - 1 }')
BEHAVIOUR := $(if $(wildcard $(PREVIOUS)/policy/manifest.json),$(PREVIOUS)/policy,$(ROUND)/init)
MADE := manifest.json
# What was asked for, by contents: with other choices every stage looks whether it is still up to date.
CHOICES = $(strip $(FLAGS) logs=$(LOGS) credit=$(CREDIT) judge=$(JUDGE) actions=$(ACTIONS) earlier=$(EARLIER))
same = $(and $(findstring x$(1)x,x$(2)x),$(findstring x$(2)x,x$(1)x))
READY = $(CONFIG) $(ROUND)/.choices | $(VENV)/.installed
# An artifact that is up to date is not written again; make is to see that it was looked at.
LOOKED_AT = @touch -c $@

demo: ## Simulated logs to an improved policy, in some minutes: scripted logs, π_0, one round, π_1, comparison
	@$(MAKE) --no-print-directory loop ROUNDS=1 RUN=runs/demo LAST=1000
	@$(ITERPPO) report runs/demo

round: $(ROUND)/export/$(MADE) ## One round on files: ROUND=runs/star/000 LOGS='…' [CONFIG=…] [SET='seed=1 …']
	@echo "$(ROUND): done. Look at it with: $(ITERPPO) inspect $(ROUND)"

$(ROUND)/.choices: $(if $(call same,$(CHOICES),$(shell cat $(ROUND)/.choices 2>/dev/null)),,FORCE)
	@mkdir -p $(ROUND) && printf '%s\n' '$(subst ','\'',$(CHOICES))' > $@

$(ROUND)/trajectories/$(MADE): $(wildcard $(LOGS)) $(READY)
	$(ITERPPO) ingest $(patsubst %,'%',$(LOGS)) --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)

ifndef KEEP_INIT
$(ROUND)/init/$(MADE): $(ROUND)/trajectories/$(MADE) $(READY)
	$(ITERPPO) init --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)
endif

$(ROUND)/returns/$(MADE): $(ROUND)/trajectories/$(MADE) $(READY)
	$(ITERPPO) returns --round $(ROUND) $(FLAGS) $(if $(CREDIT),--rewards credit)
	$(LOOKED_AT)

ifneq ($(CREDIT),)
$(ROUND)/credit/$(MADE): $(ROUND)/trajectories/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) credit --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)

$(ROUND)/returns/$(MADE): $(ROUND)/credit/$(MADE)
endif

$(ROUND)/q/$(MADE): $(ROUND)/trajectories/$(MADE) $(ROUND)/returns/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) fit-q --round $(ROUND) $(EARLIER:%=--earlier %) $(FLAGS) $(if $(JUDGE),--set fit-q.part=first-half)
	$(LOOKED_AT)

ifneq ($(ACTIONS),)
$(ROUND)/actions/$(MADE): $(ROUND)/trajectories/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) actions --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)

$(ROUND)/q/$(MADE) $(ROUND)/judge/$(MADE): $(ROUND)/actions/$(MADE)
endif

ifneq ($(JUDGE),)
$(ROUND)/judge/$(MADE): $(ROUND)/trajectories/$(MADE) $(ROUND)/returns/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) fit-q --round $(ROUND) $(EARLIER:%=--earlier %) --out $(ROUND)/judge $(FLAGS) --set fit-q.part=second-half
	$(LOOKED_AT)

$(ROUND)/policy/$(MADE): $(ROUND)/judge/$(MADE)
endif

$(ROUND)/prompts/$(MADE): $(ROUND)/trajectories/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) prompts --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)

$(ROUND)/policy/$(MADE): $(ROUND)/prompts/$(MADE) $(ROUND)/q/$(MADE) $(BEHAVIOUR)/$(MADE) $(READY)
	$(ITERPPO) ppo --round $(ROUND) $(FLAGS) $(if $(filter accept,$(NOISE)),--force)
	$(LOOKED_AT)

$(ROUND)/export/$(MADE): $(ROUND)/policy/$(MADE) $(ROUND)/prompts/$(MADE) $(READY)
	$(ITERPPO) export --round $(ROUND) $(FLAGS)
	$(LOOKED_AT)

# Not $(MAKE) in the recipe itself: make runs a line that names it even under --dry-run.
ROUND_OF_LOOP = $(MAKE) --no-print-directory round

start: $(VENV)/.installed ## π_0 for RUN: the environment's scripted logs, cloned by a small model
	$(ITERPPO) rollout --policy scripted --env $(ENV) --round $(RUN)/scripted $(FLAGS)
	$(ITERPPO) ingest --round $(RUN)/scripted $(FLAGS)
	$(ITERPPO) init --trajectories $(RUN)/scripted/trajectories --round $(RUN)/000 $(FLAGS)

loop: start ## ROUNDS rounds in an environment: hold conversations, improve, repeat; then compare all policies
	@set -e; rounds=0; before=; held=; earlier="$(EARLIER)"; for k in $$(seq -f %03g 0 $$(($(ROUNDS) - 1))); do \
		$(ITERPPO) rollout --env $(ENV) --round $(RUN)/$$k $(FLAGS); \
		$(ROUND_OF_LOOP) ROUND=$(RUN)/$$k KEEP_INIT=yes EARLIER="$(if $(ACTIONS),,$$earlier)"; \
		$(ITERPPO) rounds $(RUN)/$$k $$(test $$rounds = 0 || echo --no-header); \
		if [ -n "$(GATE)" ]; then \
			here=$(RUN)/$$k; status=0; \
			$(ITERPPO) actions --round $$here --policy $$here/policy --out $$here/proposals $(FLAGS); \
			$(ITERPPO) fit-q --round $$here --actions $$here/proposals --out $$here/fqe $(FLAGS) --set fit-q.method=fqe; \
			$(ITERPPO) evaluate --round $$here --gate $(FLAGS) || status=$$?; \
			if [ $$status = 1 ]; then held=$$k; break; elif [ $$status != 0 ]; then exit $$status; fi; \
		fi; \
		rounds=$$((rounds + 1)); newest=$$k; \
		if [ -n "$(UNTIL)" ] && [ -n "$$before" ]; then \
			status=0; \
			$(ITERPPO) converged $(RUN)/$$before/q $(RUN)/$$k/q $(if $(TOLERANCE),--tolerance $(TOLERANCE)) || status=$$?; \
			if [ $$status = 0 ]; then break; elif [ $$status != 1 ]; then exit $$status; fi; \
		fi; \
		before=$$k; earlier="$$earlier $(RUN)/$$k"; \
	done; \
	if [ -n "$$held" ]; then \
		echo "$(RUN)/$$held: its policy is held back, and the loop ends; why: $(RUN)/$$held/evaluation"; \
		if [ $$rounds = 0 ]; then exit 0; fi; \
		$(ITERPPO) compare --ignore-sample-ratio $$(seq -f '$(RUN)/%03g/trajectories' 0 $$rounds); \
		echo "everything lies in $(RUN); the newest policy to serve in $(RUN)/$$newest/export"; exit 0; \
	fi; \
	last=$$(printf %03d $$rounds); \
	$(ITERPPO) rollout --env $(ENV) --round $(RUN)/$$last $(FLAGS) $(if $(LAST),--set rollout.conversations=$(LAST)); \
	$(ITERPPO) ingest --round $(RUN)/$$last $(FLAGS); \
	echo; $(ITERPPO) compare --ignore-sample-ratio $$(seq -f '$(RUN)/%03g/trajectories' 0 $$rounds); \
	echo "everything lies in $(RUN); the newest policy to serve in $(RUN)/$$newest/export"
