# Wardround. `make demo` runs the whole system on this machine; `make test` runs every test.
# Both set up .venv on the first run and start at once on the next.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
# Outside the lock, as its wheels differ by machine; its index for a machine without a GPU: TORCH="torch==2.13.0 --index-url ..."
TORCH ?= torch==2.13.0

.PHONY: help demo test check bench clean test-durability test-rounds test-podman podman test-blind test-privacy test-fuzz test-api \
        drill test-wifi test-restore test-opendp

help:  ## what can be made here
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.runtime  ## run the whole system: hub, edges, devices, rounds, faults, report
	@$(BIN)/wardround demo $(ARGS)

# In the order of their folders, so that the long ones begin first. Three on two cores: they wait more than they work.
test: $(VENV)/.dev $(VENV)/s3/.ready $(VENV)/flower/.ready  ## run every test, three files at a time (ARGS="..." goes to pytest)
	@scripts/test --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-podman: $(VENV)/.dev $(VENV)/s3/.ready podman  ## jobs in containers on three nodes, one over SSH, with nodes killed (root, Debian)
	@scripts/test tests/nodes $(ARGS)

podman:  ## install what the nodes of the tests and of `demo --nodes` need (root, Debian)
	@scripts/install-podman

test-rounds: $(VENV)/.dev  ## 10 000 seeded schedules of rounds in the simulation, 100 runs with real SIGKILLs, the relay study
	@WARDROUND_SCHEDULES=10000 WARDROUND_KILL_RUNS=100 scripts/test tests/simulation tests/rounds $(ARGS)

test-blind: $(VENV)/.dev  ## 50 blind studies of 30 edges, a fifth and the hub killed at random steps, 50 of 5 with kills all the time, 10 of 36 in groups, 20 of 15 with noise
	@WARDROUND_BLIND_WARD_RUNS=50 WARDROUND_BLIND_EDGES=30 WARDROUND_BLIND_RUNS=50 WARDROUND_BLIND_GROUP_RUNS=10 \
	  WARDROUND_BLIND_DP_RUNS=20 WARDROUND_BLIND_DP_EDGES=15 \
	  scripts/test tests/rounds/test_blind.py tests/rounds/test_blind_dp.py tests/rounds/test_blind_capture.py $(ARGS)

test-privacy: $(VENV)/.dev  ## 200 studies whose hub is killed while it releases, 200 whose edge is while it trains by DP-SGD: no ledger goes down
	@WARDROUND_BUDGET_RUNS=200 WARDROUND_EDGE_BUDGET_RUNS=200 scripts/test tests/rounds/test_budget.py tests/rounds/test_edge_budget.py \
	  tests/unit/learn/privacy $(ARGS)

test-opendp: $(VENV)/.dev $(VENV)/opendp/.ready  ## OpenDP's sampler beside ours, which `make test` leaves out (a download of 47 MB)
	@PYTHONPATH=$(VENV)/opendp scripts/test tests/unit/learn/privacy/test_samplers.py $(ARGS)

test-durability: $(VENV)/.dev  ## 200 runs from device to lake with kills, cuts, full disks and wrong clocks; 20 000 schedules; killed workers (root, Debian)
	@command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || apt-get install -qy mosquitto >/dev/null
	@WARDROUND_DURABILITY_RUNS=200 scripts/test tests/durability -s $(ARGS)
	@WARDROUND_SCHEDULES=20000 WARDROUND_FAULT_RUNS=20 scripts/test tests/simulation tests/integration/test_process.py tests/nodes

test-restore: $(VENV)/.dev  ## a running hub, then an edge, is backed up, lost and restored, with an erasure in between
	@WARDROUND_RESTORE=1 scripts/test tests/integration/test_backup.py $(ARGS)

.PHONY: test-takeover
test-takeover: $(VENV)/.dev  ## two hubs on one PostgreSQL: killed in the middle of a round, stopped for a while, without its database (Debian)
	@scripts/install-packages postgresql
	@WARDROUND_TAKEOVER=1 scripts/test tests/unit/store/test_lease.py tests/integration/test_takeover.py $(ARGS)

.PHONY: test-upgrade
test-upgrade: $(VENV)/.dev  ## homes of hub and edge that an earlier version made are taken up by this one, which runs on them
	@WARDROUND_UPGRADE=1 scripts/test tests/upgrade $(ARGS)

.PHONY: test-drill
test-drill: $(VENV)/.dev  ## live drills on a real hub and real edges: every fault that can be ordered, nine edges (some minutes)
	@WARDROUND_DRILL=1 scripts/test tests/integration/test_drill_live.py tests/unit/live_drills $(ARGS)

.PHONY: test-rollback
test-rollback: $(VENV)/.dev  ## a step of the server ruins the model: gone back from by itself, and undone, among real processes (a minute)
	@WARDROUND_ROLLBACK=1 scripts/test tests/rounds/test_rollback_live.py $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev  ## 200 edges and 2,000 devices for SOAK_S seconds (1800) with faults at random: the hub's memory, lost, duplicated, rounds stuck
	@$(BIN)/python -m tests.soak.run $(or $(SOAK_S),1800) $(or $(SEED),0)

.PHONY: image sbom wheel
image: $(VENV)/.runtime  ## the image of the hub and the edge, for Podman (BASE=an image with Python 3.11; none: Debian's packages)
	@scripts/image

sbom: $(VENV)/bin/python  ## what it is made of, as a CycloneDX bill of materials: wardround.cdx.json
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(BIN)/python scripts/sbom.py > wardround.cdx.json

wheel: $(VENV)/.dev  ## the wheel, in dist/; the same commit gives the same bytes
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(BIN)/python -m hatchling build -t wheel

test-wifi: $(VENV)/.dev  ## WPA3-Enterprise in the air: an edge joins and trains over simulated radios in a virtual machine (root, Debian)
	@scripts/install-packages qemu-system-x86 mmdebstrap e2fsprogs
	@WARDROUND_WIFI=1 scripts/test tests/wifi -s $(ARGS)

.PHONY: test-browser
test-browser: $(VENV)/.dev  ## the whole story in a real browser, with hub and edges as processes; pictures in artifacts/story (Debian)
	@scripts/install-packages chromium
	@WARDROUND_STORY=1 scripts/test tests/browser/test_story.py $(ARGS)

.PHONY: picture
picture: $(VENV)/.dev  ## docs/images/overview.png made anew, from a demo in Chromium
	@$(BIN)/python tests/browser/picture.py

.PHONY: test-docs
test-docs: $(VENV)/.dev  ## the commands of README.md and docs/ that want a hub and an edge that run, or minutes
	@WARDROUND_DOCS=1 scripts/test tests/integration/test_docs.py $(ARGS)

.PHONY: test-deploy
test-deploy: $(VENV)/.dev podman  ## the image, and what `deploy render` writes: hub and edge as pods that work together (root, Debian)
	@WARDROUND_DEPLOY=1 scripts/test tests/deploy $(ARGS)

.PHONY: test-newcomer
test-newcomer: $(VENV)/.dev  ## docs/first-study.md as a newcomer types it: in a clean container, or without Podman or root in a new environment
	@WARDROUND_NEWCOMER=1 scripts/test tests/integration/test_first_study.py $(ARGS)

check: $(VENV)/.dev  ## lint, types, import rules
	@scripts/check

bench: $(VENV)/.dev $(VENV)/flower/.ready  ## every claim of speed and quality, each beside its rival or limit (DATA=folder of recordings)
	@$(BIN)/python bench/round_latency.py && $(BIN)/python bench/round_latency.py --blind
	@$(BIN)/python bench/transfer.py
	@$(BIN)/python bench/collect.py
	@$(BIN)/python bench/hub_memory.py --edges 100 1000
	@$(BIN)/python bench/at_rest.py
	@$(BIN)/python bench/fold.py
	@$(BIN)/python bench/masks.py
	@$(BIN)/python bench/privacy.py $(if $(wildcard $(DATA)),--data "$(DATA)")
	@$(BIN)/python bench/flower.py
	@$(BIN)/python bench/fleet.py && $(BIN)/python bench/fleet.py --hidden 64
	@$(BIN)/python bench/processing.py
	@$(BIN)/python bench/erase.py
	@if command -v chromium >/dev/null; then $(BIN)/python bench/console.py; fi
	@$(BIN)/python bench/watching.py $(if $(wildcard $(DATA)),--data "$(DATA)")
	@$(BIN)/python bench/advisory.py
	@$(BIN)/python bench/api.py
	@if [ -d "$(DATA)/nab" ]; then $(BIN)/python bench/nab.py --data "$(DATA)/nab"; fi
	@$(BIN)/python bench/bedside_edge.py
	@if [ -d "$(DATA)/icu_vitals" ]; then $(BIN)/python bench/bedside.py --data "$(DATA)" --stays 4000; fi
	@if [ -d "$(DATA)" ]; then \
	  $(BIN)/python bench/attacks.py --data "$(DATA)" --only masks && $(BIN)/python bench/rpeaks.py --data "$(DATA)/mitbih_subset" && $(BIN)/python bench/quality.py --data "$(DATA)"; \
	else echo "no recordings at $(DATA): make bench DATA=folder with mitbih_subset/ and har_smartphone/"; fi

.PHONY: attacks
attacks: $(VENV)/.dev  ## docs/attacks.md made anew from real data (about an hour; DATA=folder)
	@$(BIN)/python bench/attacks.py --data "$(DATA)" --write docs/attacks.md $(ARGS)

drill: $(VENV)/.runtime  ## 18 faults with three seeds each, with a past and without, and 2,000 healthy rounds (some ten minutes)
	@$(BIN)/wardround drill --fault all --seeds 0,1,2 --healthy 2000 $(ARGS)
	@$(BIN)/wardround drill --fault all --seeds 0,1,2 --from-round 0 --rounds 100 $(ARGS)

test-api: $(VENV)/.dev  ## the API's whole description played by schemathesis for TEST_API_S seconds (600), FHIR included (SEED=first seed)
	@WARDROUND_API_S=$(or $(TEST_API_S),600) WARDROUND_API_SEED=$(or $(SEED),0) scripts/test tests/unit/api/test_schema.py $(ARGS)

test-fuzz: $(VENV)/.dev $(VENV)/fuzz/.ready  ## every decoder and the join token under atheris, FUZZ_S seconds each (600)
	@$(BIN)/python tests/fuzz/run.py $(or $(FUZZ_S),600) $(ARGS)

clean:  ## remove what the demo and the tests left
	rm -rf demo-run artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis

# An S3-compatible server for the tests, apart: its libraries and ours want different versions of the same things.
$(VENV)/s3/.ready: tests/s3-server.lock | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/s3
	@$(VENV)/s3/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/s3-server.lock
	@touch $@

# Flower, for the tests and the bench, apart for the same reason.
$(VENV)/flower/.ready: tests/flower.lock | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/flower
	@$(VENV)/flower/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/flower.lock
	@touch $@

# The fuzzer, apart: it is large, and nothing else needs it.
$(VENV)/fuzz/.ready: tests/fuzz.lock | $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/fuzz
	@$(VENV)/fuzz/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/fuzz.lock
	@touch $@

# OpenDP, apart: it is large, and one test needs it.
$(VENV)/opendp/.ready: tests/opendp.lock | $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --require-hashes --target $(VENV)/opendp -r tests/opendp.lock
	@touch $@

# A marker changes only when the install it stands for is complete, so an interrupted one is done again.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here: install Python 3.11 or newer, or say PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "Setting up $(VENV) (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "Setting up $(VENV) with the development tools (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@ $(VENV)/.runtime
