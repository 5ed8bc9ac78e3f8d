# slipway: `make help` lists what there is to make. Needs Go 1.26; everything else it installs or names.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := slipway

# The binary is static: pure Go. Only the race detector needs a C compiler.
export CGO_ENABLED := 0

VERSION := $(shell git describe --tags --exact-match 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)$(shell [ -z "$$(git status --porcelain 2>/dev/null)" ] || echo -modified)
STAMP   := -X slipway/internal/cli.version=$(VERSION) -X slipway/internal/cli.commit=$(COMMIT)

# Tools live in a folder per set of versions, so that a branch with others does not rebuild them back and forth.
TOOLS := .cache/tools/$(shell cat tools/go.sum | sha256sum | cut -c1-12)

.PHONY: slipway
slipway: ## build ./slipway, a static binary
	go build -trimpath -buildvcs=false -ldflags '-s -w $(STAMP)' -o slipway ./cmd/slipway

.PHONY: demo
demo: deps slipway ## watch the main job: a repository and a pipeline in, a pushed and running image out
	SLIPWAY=$(CURDIR)/slipway examples/demo/run.sh

.PHONY: test
test: deps ## run all tests; those that need the kernel need root, and others are told what was skipped
	tools/gotest ./...

.PHONY: check
check: $(TOOLS)/golangci-lint ## what CI holds a change to: format, vet, lint, the house's arrows, tests under the race detector
	@tools/deps race
	@echo gofumpt; unformatted=$$($(TOOLS)/gofumpt -l cmd internal); \
	[ -z "$$unformatted" ] || { printf 'not formatted (make fmt):\n%s\n' "$$unformatted"; exit 1; }
	go vet ./...
	go test ./internal/archtest
	$(TOOLS)/golangci-lint run ./...
	[ ! -f web/package.json ] || npm --prefix web test
	CGO_ENABLED=1 go test -race ./...

.PHONY: check-long
check-long: check fuzz ## check, and then fuzz every parser: half an hour and more

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## format the Go code
	$(TOOLS)/gofumpt -w cmd internal

.PHONY: bench
bench: ## run the Go benchmarks
	go test -run '^$$' -bench . -benchmem ./...

FUZZTIME := 60s
.PHONY: fuzz
fuzz: ## fuzz every parser for FUZZTIME (60s) each
	tools/fuzz $(FUZZTIME)

.PHONY: deps
deps: ## install what the demo and the tests need from Debian, if anything is missing
	@tools/deps

.PHONY: clean
clean: ## remove what was built here
	rm -rf slipway .cache web/dist

.PHONY: help
help: ## list what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "make %-11s %s\n", $$1, $$2}'

$(TOOLS)/golangci-lint: tools/go.mod tools/go.sum
	@echo "building gofumpt and golangci-lint (once, about a minute)"
	cd tools && go build -ldflags '-s -w' -o ../$(TOOLS)/ tool
	touch $@
