# `make demo` and `make test` do all the set-up on a fresh machine, which needs only
# python3 (3.11 to 3.13, with venv) and make.
PYTHON ?= python3
# Number of test processes, which spend most of their time compiling on one core each.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test results docs release-check lock lint format clean

# Every file is checked against its SHA-256 in the lock, and nothing else is fetched.
$(STAMP): requirements-lock.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: call make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/python -m hkdnet_jax.quickstart --out out/demo

# A file's tests stay in one process, which then compiles what they share once.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# HKDNET_DATA: folder with tno/, vifb/ and hkdnet_demo/; HKDNET_VGG: VGG16 weights.
results: $(STAMP)
	$(BIN)/python -m hkdnet_jax.results --data "$(HKDNET_DATA)" --vgg "$(HKDNET_VGG)" --rows out/results --out docs/results.md

# The site, in docs/_build/html. A link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html

# Builds wheel and sdist, fuses a pair from each in an empty environment, lists what the
# wheel brings (SBOM), and looks up known vulnerabilities of the lock.
release-check: $(STAMP)
	$(BIN)/python tools/check_release.py

# Writes the lock anew from the pins in requirements*.txt; needs uv (pip install uv).
LOCKING := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header
lock:
	@echo "# Written by make lock: every package that make installs, with SHA-256 hashes." > requirements-lock.txt
	$(LOCKING) requirements.txt requirements-dev.txt >> requirements-lock.txt
	$(LOCKING) --no-deps requirements-onnx.txt >> requirements-lock.txt

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck --external-sources launch/*.sh launch/*.sbatch launch/gke/*.sh
	$(BIN)/hadolint launch/docker/Dockerfile

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out build dist *.egg-info docs/_build docs/reference/modules
