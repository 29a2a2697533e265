STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4

.PHONY: help run test torture bench profile check demo screenshot
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## run pushproxy without a configuration
	go run ./cmd/pushproxy serve

test: ## bring what the tests need, then run all of them
	@go run ./tests/setup
	@race=-race; [ "$$(go env CGO_ENABLED)$$CI" != 0 ] || race=; go test $$race -timeout 45m ./... # without a C compiler no race detector

torture: ## break a running pushproxy in every way, hours of it (the counts are flags; see tests/torture)
	go test -v -timeout 12h ./tests/torture -kills 1000 -stops 200 -cuts 100 -fills 50 -flips 500 -outages 100 -pushes 20000 -gib 10 -blobs 64000
	go test -v -timeout 6h ./tests/torture -run 'FullDisk|PowerCuts|Damage|OpensQuickly' -storage files -cuts 100 -fills 50 -flips 500 -gib 10 -blobs 64000
	go test -v -timeout 2h ./tests/torture -run OpensQuickly -gib 100 -hollow
	go test -v -timeout 4h ./forward -run 201Is -soak 100000 -soak-every 1s
	go test -v -timeout 4h ./forward -run 201Is -soak 100000 -soak-every 1s -soak-files

bench: ## compare with pushing directly and with another registry, write docs/benchmarks.md
	go run ./tests/bench

profile: ## where the processor time goes that taking in a blob costs
	@d=$$(mktemp -d) && go test -run '^$$' -bench '^BenchmarkIngest' -benchmem -o $$d/test -cpuprofile $$d/cpu ./blobcache && \
		go tool pprof -top -nodecount 25 $$d/test $$d/cpu; status=$$?; rm -rf $$d; exit $$status

check: ## formatting, vet, staticcheck, govulncheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt these:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	@out=$$(go run $(GOVULNCHECK) ./... 2>&1) && echo "$$out" || case "$$out" in \
		*"fetching vulnerabilities"*) echo "check: left out: govulncheck, its database cannot be reached from here";; \
		*) echo "$$out"; exit 1;; esac

demo: ## push an image twice and to a second repository, through pushproxy to a registry with a password
	@go run ./tests/demo

screenshot: ## take docs/status.png, the status page during real pushes
	@go run ./tests/demo -pictures docs
