# The two commands of the README are `make demo` and `make test`. Everything else is a part of them.

PYTHON ?= $(shell ./tools/python)
VENV := .venv
VENV_DEBIAN := .venv-debian
PYTEST := $(VENV)/bin/python -m pytest
# Booted machines and real servers on two busy cores: a test that fails is tried again, and the summary says so.
AGAIN := --reruns 2
# Real servers are waited for more than they work, and those of one file share what they start; the longest begin.
BESIDE := -n 3 --dist loadscope --no-loadscope-reorder

.PHONY: demo test unit unit-debian integration image lint setup deb bench clean

demo:
	@./tools/demo

test: setup lint unit unit-debian integration image

# what the machine itself must have, then two environments: today's PyPI, and Debian's own libraries
setup: $(VENV)/.done $(VENV_DEBIAN)/.done

$(VENV)/.done: pyproject.toml tests/apt-packages.txt tools/packages
	./tools/packages
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -e '.[aws,redis,zookeeper,dns,test,lint]'
	touch $@

$(VENV_DEBIAN)/.done: pyproject.toml tests/apt-packages.txt tools/packages
	./tools/packages
	/usr/bin/python3 -m venv --system-site-packages $(VENV_DEBIAN)
	$(VENV_DEBIAN)/bin/pip install --quiet pytest pytest-xdist pytest-rerunfailures hypothesis
	touch $@

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

unit: setup
	$(PYTEST) -n 4 tests/unit

# the same tests on the oldest versions that are supported: those of Debian 12
unit-debian: setup
	$(VENV_DEBIAN)/bin/python -m pytest -n 4 tests/unit

integration: setup
	$(PYTEST) $(AGAIN) $(BESIDE) tests/integration tests/servers

image: setup deb
	$(PYTEST) $(AGAIN) -n 2 --dist loadscope --no-loadscope-reorder tests/image

deb:
	./packaging/build-deb.sh dist

bench: setup
	@for file in bench/*.py; do echo "== $$file"; $(VENV)/bin/python $$file || exit 1; done

clean:
	rm -rf $(VENV) $(VENV_DEBIAN) build dist demo .mypy_cache .ruff_cache .hypothesis
