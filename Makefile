# Needs Python >= 3.11 with pip, and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: up test install clean

up: $(STAMP)
	@exec $(VENV)/bin/mesh up $(ARGS)

install: $(STAMP)

test: $(STAMP)
	@exec $(VENV)/bin/nox --no-venv -s tests -- $(ARGS)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("meshwright needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@# xds-protos carries old copies of files of other packages, so it goes first and theirs win.
	@awk '/^[^ #]/ { wanted = /^xds-protos==/ } wanted' requirements.lock > $(VENV)/first.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/first.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

clean:
	rm -rf $(VENV)
