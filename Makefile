# make run    build .venv, install, start the workbench (without a terminal: a demonstration)
# make test   the same set-up, then every check
# Needs only make and a Python, 3.11 to 3.14 (what torch has builds for).

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := engine workbench kernels presets
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
EDITABLE := $(PIP) --no-build-isolation --config-settings editable_mode=strict -e

# The repository's root stays off sys.path: transformers imports another package named kernels.
export PYTHONSAFEPATH := 1

.PHONY: run test pictures clean
.DELETE_ON_ERROR:

run: $(VENV)/installed
	@$(BIN)/memwb

test: $(VENV)/installed-dev
	@echo "ruff" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "mypy" && $(BIN)/mypy -p memwb.engine -p memwb.workbench -p memwb.kernels -p memwb.presets
	@echo "import contract" && $(BIN)/lint-imports --no-cache --no-logo
	@# One worker more than cores: tests of the workbench and of processes wait much of their time.
	@echo "pytest"      && $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

# After a change that is meant: draw anew the pictures that the tests compare with.
pictures: $(VENV)/installed-dev
	@$(BIN)/python docs/gallery.py

clean:
	@rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@python=""; for name in python3 python3.13 python3.12 python3.11 python3.14; do \
		if $$name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
			2>/dev/null; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
		echo "memwb needs Python 3.11 to 3.14, with its venv module; \`python3\` here is" \
			"$$(python3 --version 2>&1)." >&2; \
		echo "Install one (on Debian and Ubuntu: python3 and python3-venv) and run make again." >&2; \
		exit 1; fi; \
	echo "$(VENV): a virtual environment with $$($$python --version)"; \
	$$python -m venv $(VENV)

# Written anew only when a file has come or gone: a strict editable install links each file, so
# an edit needs nothing and a new file needs the install repeated.
$(VENV)/files: FORCE | $(VENV)/bin/python
	@find $(PACKAGES) -type f ! -name '*.pyc' | sort > $@.now; \
	if cmp -s $@.now $@; then rm $@.now; else mv $@.now $@; fi

$(VENV)/installed: pyproject.toml setup.py constraints.txt $(VENV)/files
	@echo "installing memwb and what it runs on (the first time this takes some minutes)"
	@rm -rf build/__editable__.*
	@$(PIP) 'setuptools>=77.0.3'
	@$(EDITABLE) .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(EDITABLE) '.[dev]'
	@touch $@

FORCE:
