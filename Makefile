# Everything happens in this checkout: .venv holds the packages of uv.lock, .tools holds uv where the machine has none.

PORT ?= 8080
STATE_DIR ?=
ARGS ?=
JSON ?=
ROWS ?=
MINUTES ?= 30
SECONDS ?= 300
SEED ?=
AUDIT ?=
CHOSEN := $(origin PYTHON)
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$each; break; }; done)

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help run test faults bench soak fuzz hostile timing sbom install lint format chosen

help: ## What can be made
	@echo 'make TARGET [PYTHON=python3.12]   (any Python from 3.11 on; nothing else needs to be installed)'
	@echo
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 12

run: $(INSTALLED) ## Start Postgres, Vault and the service [PORT=8080] [STATE_DIR=folder]; Ctrl-C stops all
	@exec $(BIN)/vault-credentials run --port '$(PORT)' $(if $(STATE_DIR),--state-dir '$(STATE_DIR)')

test: $(INSTALLED) ## The whole test suite, on real servers that it starts [ARGS='-k words'] [TEST_BACKEND=auto, local or containers; default: auto]
	@$(BIN)/pytest $(ARGS)

faults: $(INSTALLED) ## Faults under load for 20 to 45 minutes, 210 kills among them: a table, and JSON=file of the counts [ARGS=--help]
	@$(BIN)/python -m tests.faults $(if $(JSON),--json '$(JSON)') $(ARGS)

bench: $(INSTALLED) ## Measure opening a credential beside the alternatives, in about twelve minutes [ROWS=open_64,rss] [JSON=file] [BENCH_KV=all] [ARGS=--help]
	@$(BIN)/python -m benchmarks --rows '$(ROWS)' $(if $(JSON),--json '$(JSON)') $(ARGS)

soak: $(INSTALLED) ## Everything at once for half an hour: no call may fail, no process grow [MINUTES=30] [JSON=file] [ARGS=--help]
	@$(BIN)/python -m benchmarks.soak --minutes '$(MINUTES)' $(if $(JSON),--json '$(JSON)') $(ARGS)

fuzz: $(INSTALLED) ## Fuzz all that reads what others send [SECONDS=300, at least 30] [SEED=number, as printed] [ARGS=--help]
	@$(BIN)/python -m tests.fuzz --seconds '$(SECONDS)' $(if $(SEED),--seed '$(SEED)') $(ARGS)

hostile: $(INSTALLED) ## What hostile callers get, as tables: roles by routes, forged tokens, proxied paths, connections (some minutes)
	@$(BIN)/pytest -q -s tests/security/test_role_table.py tests/security/test_role_table_of_tokens.py \
		tests/security/test_token_attacks.py tests/security/test_hostile_proxy_paths.py \
		tests/security/test_hostile_connections.py $(ARGS)

timing: $(INSTALLED) ## Whether a 404 takes longer for another's credential than for none, by a rank-sum test [ARGS='--samples 1000']
	@$(BIN)/python -m benchmarks.stranger_timing $(ARGS)

sbom: $(INSTALLED) ## What the image's Python packages are, as CycloneDX, in dist/sbom.cdx.json
	@mkdir -p dist
	@$(BIN)/uv export --frozen --no-default-groups --preview-features sbom-export --format cyclonedx1.5 \
		--output-file dist/sbom.cdx.json --quiet
	@echo 'written: dist/sbom.cdx.json'

install: $(INSTALLED) ## The packages of uv.lock into .venv
	@echo 'installed: $(BIN)/vault-credentials'

lint: $(INSTALLED) ## ruff, mypy --strict, import contracts, terraform fmt where it is, secrets, advisories against dependencies [AUDIT=require]
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/lint-imports || status=1; \
	if command -v terraform >/dev/null; then terraform fmt -check -recursive vault-policies || status=1; \
	else echo 'no terraform on PATH: vault-policies/terraform is not checked'; fi; \
	$(BIN)/python scripts/check_secrets.py || status=1; \
	AUDIT='$(AUDIT)' scripts/audit_dependencies || status=1; \
	exit $$status

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

# A PYTHON given with the command counts even if .venv is there already.
$(INSTALLED): pyproject.toml uv.lock scripts/install $(if $(filter command line,$(CHOSEN)),chosen)
	@PYTHON='$(PYTHON)' scripts/install
	@touch $@
