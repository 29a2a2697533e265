package tests

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// A build that panics where it is told to, once at each place, with a secret as the panic's value.

// faultPlaces are the places, by name: one of each kind of goroutine that pushproxy runs, and the handlers.
var faultPlaces = map[string]parts.Change{
	"handler": {File: "proxy/registry.go", Old: "	if err := g.Guard.check(r); err != nil {\n"},
	"flight":  {File: "forward/flight.go", Old: "			fl.outcome, err = f.fly(ctx, e)\n"},
	"push":    {File: "forward/push.go", Old: "		p.result, err = f.push(ctx, p.Job, 0)\n"},
	"stream":  {File: "forward/stream.go", Old: "	if s.owner, err = s.t.Owner(ctx, s.repo); err != nil {\n"},
	"start":   {File: "forward/forward.go", Old: "		size, err := f.cache.Stat(f.life, d)\n"},
	"learn":   {File: "forward/facts.go", Old: "		group, ctx := errgroup.WithContext(f.life)\n"},
	"warm":    {File: "forward/warm.go", Old: "f.aside(func() { _ = t.Warm("},
	"blob":    {File: "forward/manifest.go", Old: "			o, err := r.f.ensure(groupCtx, e)\n"},
	"attempt": {File: "forward/attempt.go", Old: "	stored, ok, err := q.Forward.meta.Manifest(ctx, j.Repo, j.Digest)\n"},
	"queue":   {File: "forward/queue.go", Old: "		timer := time.NewTimer(q.start(attempts, &running))\n"},
	"chunk":   {File: "blobcache/upload.go", Old: "			err := u.c.bodies.PutChunk(u.ctx, u.id, n, withSum(full, sum))\n"},
	"facts":   {File: "metadata/batch.go", Old: "		err := oci.Guarded(func() error { return b.apply(batch) })\n"},
	"first":   {File: "proxy/tls.go", Old: "	p := &peeked{Conn: c}\n"},
	"secret":  {File: "cmd/pushproxy/secret.go", Old: "		secret, err := installationSecret(r.file)\n"},
}

// fault is added to each of their packages.
const fault = `
import (
	"os"
	"path/filepath"
	"strings"
	"sync"
)

var faults sync.Map

func fault(name string) {
	if !strings.Contains(","+os.Getenv("PUSHPROXY_FAULTS")+",", ","+name+",") {
		return
	}
	if _, err := os.Stat(os.Getenv("PUSHPROXY_FAULTS_DIR")); err != nil {
		return // it is still starting
	}
	if _, had := faults.LoadOrStore(name, true); !had {
		_ = os.WriteFile(filepath.Join(os.Getenv("PUSHPROXY_FAULTS_DIR"), name), nil, 0o600)
		panic(os.Getenv("PUSHPROXY_FAULTS_VALUE"))
	}
}
`

// buildFaulty builds it once.
var buildFaulty = sync.OnceValues(func() (string, error) {
	var changes []parts.Change
	packages := map[string]string{"proxy": "proxy", "forward": "forward", "blobcache": "blobcache", "metadata": "metadata", "cmd/pushproxy": "main"}
	for name, c := range faultPlaces {
		statement := fmt.Sprintf("fault(%q)\n", name)
		c.New = statement + c.Old
		switch name {
		case "warm":
			c.New = strings.Replace(c.Old, "{ _ =", "{ fault(\"warm\"); _ =", 1)
		case "facts":
			c.New = strings.Replace(c.Old, "{ return", "{ fault(\"facts\"); return", 1)
		}
		changes = append(changes, c)
	}
	// What is tried again is tried again soon, so that a test need not wait.
	changes = append(changes,
		parts.Change{File: "upstream/retry.go", Old: "firstDelay      = 500 * time.Millisecond", New: "firstDelay      = 5 * time.Millisecond"},
		parts.Change{File: "upstream/retry.go", Old: "longestDelay    = 30 * time.Second", New: "longestDelay    = 50 * time.Millisecond"})
	for dir, name := range packages {
		changes = append(changes, parts.Change{File: dir + "/fault_for_tests.go", New: "package " + name + "\n" + fault})
	}
	return parts.BuildChanged(context.Background(), suiteDir, "faulty", raceEnabled, changes)
})

// startFaulty runs the faulty build with faults at the named places; struck tells which have been met.
func startFaulty(t *testing.T, upstreamURL, value string, names []string, change func(*rig)) (r *rig, struck func() []string) {
	t.Helper()
	pushproxyProgram(t, buildRace)
	program, err := buildFaulty()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "struck")
	r = startRig(t, upstreamURL, func(r *rig) {
		r.program = program
		r.env = append(r.env, "PUSHPROXY_FAULTS="+strings.Join(names, ","), "PUSHPROXY_FAULTS_VALUE="+value, "PUSHPROXY_FAULTS_DIR="+dir)
		if change != nil {
			change(r)
		}
	})
	mkdir(t, dir)
	return r, func() (met []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			met = append(met, e.Name())
		}
		return met
	}
}

func TestS33APanicAnywhereEndsWhatItWasAboutAndNothingElse(t *testing.T) {
	t.Parallel()
	var names []string
	for name := range faultPlaces {
		names = append(names, name)
	}
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r, struck := startFaulty(t, reg.URL, canary, names, nil)
	large, last := randomBytes(33, 5<<20), ""
	deadline := time.Now().Add(90 * time.Second)
	for round := 0; len(struck()) < len(names) && time.Now().Before(deadline); round++ {
		repo := fmt.Sprintf("%s/acme/round%d", upstreamName, round)
		last = r.pushThroughFaults(t, repo, append(large, byte(round)))
	}
	if got := struck(); len(got) < len(names) {
		t.Errorf("only %q were met of %q (last refusal: %s)", got, names, last)
	}
	// All has been met: from here on everything works.
	digest := pushSmall(t, r.api(), killRepo)
	wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, "acme/app", "1"), digest)
	out, _, err := r.run(t, "queue", "ls")
	if err != nil {
		t.Errorf("queue ls: %v %s", err, out)
	}
	if strings.Contains(r.Output(), canary) {
		t.Error("the value of a panic was logged")
	}
	if !strings.Contains(r.Output(), "forward/flight.go:") {
		t.Error("the log does not say where a fault is")
	}
}

// pushThroughFaults pushes, pulls and queues whatever becomes of it, and returns the last refusal.
func (r *rig) pushThroughFaults(t *testing.T, repo string, large []byte) (refusal string) {
	t.Helper()
	a := r.api()
	ask := func(status int, method, path string, body []byte, header ...string) (answer, bool) {
		resp, err := a.send(method, path, strings.NewReader(string(body)), header...)
		if err != nil {
			refusal = err.Error()
			return answer{}, false
		}
		defer resp.Body.Close()
		if resp.StatusCode != status {
			refusal = method + " " + path + ": " + resp.Status
		}
		return answer{Response: resp}, resp.StatusCode == status
	}
	var layers []desc
	for _, content := range [][]byte{[]byte("{}"), large} {
		start, ok := ask(http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
		if !ok {
			return refusal
		}
		patch, ok := ask(http.StatusAccepted, "PATCH", start.Header.Get("Location"), content)
		if !ok {
			return refusal
		}
		if _, ok = ask(http.StatusCreated, "PUT", withDigest(patch.Header.Get("Location"), digestOf(content)), nil); !ok {
			return refusal
		}
		layers = append(layers, desc{MediaType: "application/octet-stream", Digest: digestOf(content), Size: int64(len(content))})
	}
	m := artifactOf(t, layers[0], layers[1])
	ask(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/1", m, "Content-Type", typeManifest)
	ask(http.StatusOK, "GET", "/v2/"+repo+"/manifests/1", nil, "Accept", typeManifest)
	ask(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/2", m, "Content-Type", typeManifest, "Pushproxy-Mode", "async")
	return refusal
}
