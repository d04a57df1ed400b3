# Everything a developer runs. Each target makes .venv when it is missing or when what is installed has changed.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
WORKERS ?= auto
PYTEST_ARGS ?=
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check slow bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1: \2/p' Makefile

demo: $(READY)  ## explain two photos with a pretrained network, into demo/report.html (offline)
	@mkdir -p demo/photos
	@$(PY) examples/demo_photos.py demo/photos
	@$(VENV)/bin/convscope explain convscope:efficientnet_lite0 demo/photos/cat.png demo/photos/coffee.png \
	  --methods grad-cam,guided,deconvnet,occlusion --out demo
	@test -s demo/report.html || { echo "the demo made no demo/report.html" >&2; exit 1; }
	@echo "Open $(CURDIR)/demo/report.html in a browser."

test: $(READY)  ## every test that is not slow
	@OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" $(PY) -m pytest -m "not slow" -n $(WORKERS) --maxprocesses 4 $(PYTEST_ARGS)

check: $(READY)  ## what the automated check runs: lint, format, types, tests, the built wheel
	@echo "== ruff check"
	@$(VENV)/bin/ruff check .
	@echo "== ruff format --check"
	@$(VENV)/bin/ruff format --check .
	@echo "== mypy"
	@$(VENV)/bin/mypy
	@echo "== pytest"
	@$(MAKE) --no-print-directory test
	@echo "== the wheel, outside the checkout"
	@$(PY) tests/packaging/check_wheel.py

slow: $(READY)  ## the slow tests
	@$(PY) -m pytest -m slow $(PYTEST_ARGS) || test $$? -eq 5  # 5: there are none

bench: $(READY)  ## every benchmark, one after the other
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt torch-lucent </dev/null
	@shopt -s nullglob; for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) "$$script" || exit 1; done

docs: $(READY)  ## make the documentation's pictures and pages by running it
	@$(PY) docs/make.py
	@$(PY) docs/patterns.py
	@$(PY) docs/atlas.py
	@$(PY) docs/studies.py

clean:  ## remove what the other targets made, .venv excepted
	@rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@for folder in convscope tests benchmarks docs examples; do \
	  if [ -d "$$folder" ]; then find "$$folder" -type d -name __pycache__ -prune -exec rm -rf {} +; fi; done

# A Python counts when it is new enough and can make environments (Debian packages that part separately).
$(READY): pyproject.toml constraints.txt
	@if ! $(PY) -c '' 2>/dev/null; then \
	  for python in python3.13 python3.12 python3.11 python3 none; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	  done; \
	  if [ "$$python" = none ]; then \
	    echo "convscope needs Python 3.11 or newer with its venv module (on Debian and Ubuntu: apt install python3-venv);" \
	      "none of python3.13, python3.12, python3.11, python3 is that" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV); the first time that is a few GB and takes minutes"
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt -e '.[demo,dev,faces,onnx,peers,studies,tables,tensorboard]' </dev/null
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -c constraints.txt --no-deps quantus cachetools </dev/null
	@touch $@
