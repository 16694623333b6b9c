# The few verbs a person types. Everything is set up on first use, in .venv* beside this file.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help demo test campaign soak bench conformance image image-test image-wheels sbom deploy-check check format proto docs lock clean

help:
	@echo "make demo    the whole ceremony, narrated: embedded KMS, broker, a real import"
	@echo "make test    every test"
	@echo "make campaign  faults, restarts and outages at full length (half an hour)"
	@echo "make soak    20 minutes of mixed traffic, faults and reloads; draws docs/soak.svg"
	@echo "make bench   what a broker costs beside a bare gRPC server, in three minutes; draws docs/bench.svg"
	@echo "make conformance  every client, in every language, against one table"
	@echo "make check   lint, types, import contracts, proto lint, generated code"
	@echo "make image   the container image, by docker, podman or buildah; make image-test runs it, make sbom tells what is in it"
	@echo "make deploy-check  the manifests and the unit file"
	@echo "make format  let the formatters have their way"
	@echo "make proto   generate the Python stubs anew"
	@echo "make docs    generate the tables of settings and metrics anew"
	@echo "make lock    resolve requirements/*.txt anew"

demo: .venv .venv-kms
	@$(BIN)/python -m demo.ceremony

test: .venv .venv-kms
	@scripts/needs redis-server redis-server
	@scripts/needs prometheus prometheus promtool
	$(BIN)/python -m pytest

campaign: .venv .venv-kms
	@scripts/needs redis-server redis-server
	KEYBROKER_CAMPAIGN=1 $(BIN)/python -m pytest tests/fleet tests/lifecycle --timeout 3600 -s

soak: MINUTES = 20
soak: .venv
	@mkdir -p build
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --out docs/soak.svg --csv build/soak.csv

bench: .venv
	$(BIN)/python -m benchmarks.bench --out docs/bench.svg

conformance: .venv .venv-kms
	scripts/conformance

image:
	scripts/image

image-test: .venv .venv-kms
	scripts/image-test

image-wheels: .venv
	scripts/image-wheels

sbom:
	scripts/sbom

deploy-check: .venv
	PYTHON=$(PYTHON) scripts/deploy-check

check: .venv .venv-proto
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/protos .venv build/protos
	$(BIN)/buf format protos --diff --exit-code && $(BIN)/buf lint build/protos
	scripts/stubs .venv-proto build/stubs && diff -r -x '*.pyc' -x __pycache__ build/stubs/keyimport/v1 clients/python/keyimport/v1

format: .venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format protos -w

proto: .venv-proto
	scripts/stubs .venv-proto clients/python

docs: .venv
	$(BIN)/python scripts/docs-tables

lock:
	scripts/lock

.venv: requirements/dev.txt pyproject.toml clients/python/pyproject.toml
	scripts/venv $(PYTHON) $@ requirements/dev.txt
	$@/bin/pip install --quiet --no-build-isolation --no-deps --editable clients/python --editable .
	@touch $@

.venv-kms: requirements/kms.txt
	scripts/venv $(PYTHON) $@ $<

.venv-proto: requirements/proto.txt
	scripts/venv $(PYTHON) $@ $<

clean:
	rm -rf .venv .venv-kms .venv-proto .venv-deploy build
