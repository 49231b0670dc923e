# The README's two commands are `make demo` and `make test`. The other targets are parts of them.

PYTHON ?= $(shell ./tools/python)
VENV := .venv
VENV_DEBIAN := .venv-debian
PYTEST := $(VENV)/bin/python -m pytest
# Most unit tests wait more than they compute. An idle worker takes tests from a busy one, so that no slow file runs last alone.
UNIT := -n 6 --dist worksteal
# The tests of one file share the servers that it starts. Files with long tests run first.
INTEGRATION := -n 3 --dist loadscope --no-loadscope-reorder
IMAGE := -n 2 --dist loadscope --no-loadscope-reorder
# Without bytecode every worker and every `parbake` that a test starts compiles the whole tree again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test unit unit-debian integration image lint setup deb bench clean

demo:
	@./tools/demo

test: setup lint unit unit-debian integration image

# Debian packages first, then two environments: one with today's releases from PyPI, one with Debian's own libraries.
setup: $(VENV)/.done $(VENV_DEBIAN)/.done

$(VENV)/.done: pyproject.toml tests/apt-packages.txt tools/packages
	./tools/packages
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e '.[aws,redis,zookeeper,dns,test,lint]'
	touch $@

$(VENV_DEBIAN)/.done: pyproject.toml tests/apt-packages.txt tools/packages
	./tools/packages
	/usr/bin/python3 -m venv --system-site-packages $(VENV_DEBIAN)
	$(VENV_DEBIAN)/bin/pip install --quiet pytest pytest-xdist hypothesis
	touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

unit: setup
	$(PYTEST) $(UNIT) tests/unit

# The same tests with the oldest supported versions of the libraries, those of Debian 12.
unit-debian: setup
	$(VENV_DEBIAN)/bin/python -m pytest $(UNIT) tests/unit

integration: setup
	$(PYTEST) $(INTEGRATION) tests/integration tests/servers

image: setup deb
	$(PYTEST) $(IMAGE) tests/image

deb:
	./packaging/build-deb.sh dist

bench: setup
	@for file in bench/*.py; do echo "== $$file"; $(VENV)/bin/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(VENV_DEBIAN) build dist demo .mypy_cache .ruff_cache .hypothesis
