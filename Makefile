# `make demo` and `make test` are each the only command needed after `git clone`.
# Everything is installed into .venv, which `make clean` removes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
# The build of torch that is installed stays until the other one is asked for.
TORCH ?= $(if $(wildcard .venv/.torch-cuda),cuda,cpu)
ifeq ($(filter cpu cuda,$(TORCH)),)
$(error TORCH must be cpu or cuda, got '$(TORCH)'. Choose one: make test TORCH=cpu, or make test TORCH=cuda)
endif

CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_PIN := $(shell sed -n 's/^torch==/&/p' constraints.txt)
PY := .venv/bin/python
PIP := $(PY) -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Prints "cpu" or "cuda" and the version, without importing torch, whose dependencies may not be there yet.
TORCH_BUILD := $(PY) -c "import importlib.util as u, runpy; \
  v = runpy.run_path(u.find_spec('torch').origin.replace('__init__', 'version')); \
  print('cuda' if v['cuda'] else 'cpu', v['__version__'])" 2>/dev/null

VERSION_OF = $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Why the .venv that is here cannot serve, or nothing when it can. Asked at every call, in a fraction of a second.
UNFIT := $(shell \
  [ -e .venv ] || { echo "there is none"; exit; }; \
  $(PIP) --version >/dev/null 2>&1 || { echo "it has no working pip"; exit; }; \
  $(PY) -c '$(NEW_ENOUGH)' || { echo "its Python is too old"; exit; }; \
  grep -qF '$(CURDIR)/.venv/' .venv/bin/pip || { echo "it was made in another folder"; exit; }; \
  [ $(origin PYTHON) = file ] || [ "$$($(call VERSION_OF,$(PYTHON)))" = "$$($(call VERSION_OF,$(PY)))" ] \
  || echo "its Python is not $(PYTHON)")

.PHONY: help demo test lint types format test-cuda bench bench-quality verify notebooks clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do
	  printf '  make %-13s %s\n' "$$name" "$$text"
	done
	echo
	echo "  PYTHON=python3.12  the Python that .venv is made with (3.11 or newer; now $(PYTHON))"
	echo "  TORCH=cpu|cuda     the build of $(TORCH_PIN) to install (now $(TORCH))"
	echo "  ARGS='-k radon'    more arguments for pytest"

demo: .venv/.demo ## install what the demo needs and run it; the results go to demo/
	@echo "== demo: results go to demo/"
	.venv/bin/workbench demo --out demo

test: lint types ## install everything, then lint, types and tests: what CI runs
	@echo "== tests: pytest in $(JOBS) processes"
	# One thread each: as many processes as cores, whose threads would only wait for one another.
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)
	echo "== tests took $$SECONDS s"

lint: .venv/.dev ## style, and the imports between the three floors
	@echo "== lint: ruff, import contracts"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports
	echo "== lint took $$SECONDS s"

types: .venv/.dev ## mypy, strict
	@echo "== types: mypy"
	$(PY) -m mypy operators workbench pipelines
	echo "== types took $$SECONDS s"

format: .venv/.dev ## rewrite the sources the way lint wants them
	@$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test-cuda: .venv/.dev ## the GPU tests; add TORCH=cuda the first time
	@echo "== GPU tests: pytest -m cuda"
	if ! $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
	  echo "No GPU is visible to torch ($$($(TORCH_BUILD))): nothing was tested."
	  echo "On a machine with an NVIDIA GPU: make test-cuda TORCH=cuda"
	  exit 0
	fi
	# pytest ends with 5 when it has collected no test.
	$(PY) -m pytest -m cuda $(ARGS) || { rc=$$?; [ $$rc = 5 ] || exit $$rc; echo "No test is marked cuda yet."; }

bench: .venv/.dev ## ours beside the peers, as tables; on an idle machine; ARGS=--help tells more
	@$(PY) -m pipelines.bench --install $(ARGS)

bench-quality: .venv/.dev ## solvers on held-out subjects, hours; goes on where it stopped; ARGS=--fast, --help
	@# A process per core, with one thread each.
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(PY) -m pipelines.quality --jobs $(JOBS) $(ARGS)

verify: .venv/.dev ## operators against their adjoints, solvers against closed forms, as tables; ARGS=--fast
	@echo "== verify: the tests that take long"
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) -m slow
	echo
	echo "== verify: adjoints, the dot-product error of every operator"
	$(PY) -m tests.adjoint_table
	echo
	echo "== verify: solvers against closed forms"
	# On small problems threads only wait for one another: a process per core.
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 .venv/bin/workbench verify $(ARGS)
	echo
	echo "== verify: integrators, error against evaluations"
	OMP_NUM_THREADS=1 .venv/bin/workbench verify integrators
	echo "== verify took $$SECONDS s"

notebooks: ## nothing yet
	@echo "make notebooks: no notebook exists yet; nothing was executed."

clean: ## remove .venv and the caches
	@echo "Removing .venv, .bench, build products and caches"
	rm -rf .venv .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps. Each is touched last, so that an interrupted step is done again at the next call.

ifneq ($(UNFIT),)
.venv/.python: FORCE
endif

.venv/.python:
	@fail() { printf '%s\n' "$$@" >&2; exit 1; }
	if [ -z "$(UNFIT)" ]; then
	  echo "Using the .venv that is here"; touch $@; exit 0
	fi
	command -v $(PYTHON) >/dev/null || fail "There is no $(PYTHON) on this machine." \
	  "Install Python 3.11 or newer, or name the one you have: make $(MAKECMDGOALS) PYTHON=python3.12"
	$(PYTHON) -c '$(NEW_ENOUGH)' || fail \
	  "$(PYTHON) is $$($(PYTHON) --version 2>&1), but the workbench needs Python 3.11 or newer." \
	  "Name one: make $(MAKECMDGOALS) PYTHON=python3.12"
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || fail \
	  "$(PYTHON) cannot make a virtual environment. Install the missing part and call make again:" \
	  "  sudo apt install $(if $(filter python3,$(PYTHON)),python3,python$$($(call VERSION_OF,$(PYTHON))))-venv"
	echo "== .venv: making it with $$($(PYTHON) --version 2>&1) ($(UNFIT))"
	rm -rf .venv
	$(PYTHON) -m venv .venv
	touch $@

.venv/.torch-$(TORCH): .venv/.python constraints.txt
	@rm -f .venv/.torch-*
	build=$$($(TORCH_BUILD) || true)
	case "$$build" in
	"$(TORCH) $(subst torch==,,$(TORCH_PIN))"*) ;;
	*)
	  echo "== torch: installing $(TORCH_PIN)$(if $(filter cpu,$(TORCH)),; asking for the CPU wheel first)"
	  if [ -n "$$build" ]; then $(PIP) uninstall -qy torch; fi
	  if [ $(TORCH) = cuda ] || ! $(PIP) install --no-deps --retries 0 --timeout 5 \
	      --index-url $(CPU_INDEX) $(TORCH_PIN); then
	    [ $(TORCH) = cuda ] || echo "No CPU wheel from $(CPU_INDEX):" \
	      "taking the plain $(TORCH_PIN) instead, which on Linux brings several GB of CUDA libraries."
	    $(PIP) install --no-deps $(TORCH_PIN)
	  fi
	  build=$$($(TORCH_BUILD))
	  ;;
	esac
	echo "== torch: the $${build%% *} build is installed, $${build#* }"
	touch $@

.venv/.demo: EXTRAS := cli,io,ct
.venv/.dev: EXTRAS := all,dev
.venv/.demo .venv/.dev: .venv/.torch-$(TORCH) pyproject.toml constraints.txt
	@echo "== install: inverse-workbench[$(EXTRAS)] at the pins of constraints.txt; full log in .venv/install.log"
	# pip names every package; a person wants to see that something large is on its way, and the errors.
	# Byte code is made when it is needed, which most of it never is.
	$(PIP) install --no-compile --progress-bar off -c constraints.txt $(TORCH_PIN) -e '.[$(EXTRAS)]' 2>&1 \
	  | tee .venv/install.log | sed -un \
	    -e 's|^ *Downloading \(.*/\)\{0,1\}\(.*\.whl ([0-9.]* [MG]B)\).*|   downloading \2|p' \
	    -e 's|^Installing collected packages.*|   unpacking; this says nothing for a minute or two|p' \
	    -e '/^ERROR/p' \
	  || { tail -n 20 .venv/install.log; echo "The install failed. Call make again, or make clean first."; exit 1; }
	echo "== install took $$SECONDS s"
	# [all,dev] contains what the demo needs.
	touch .venv/.demo $@
