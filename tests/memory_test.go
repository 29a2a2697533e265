package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"

	"golang.org/x/sync/errgroup"
)

const (
	memoryClients = 8
	memoryLayer   = 256 << 20
	mostAnonymous = 256 << 20
)

// TestMemoryStaysFlatUnderLargePushes uses a build without the race detector, which multiplies memory by itself.
// PUSHPROXY_TESTS_LAYER=BYTES makes the layers larger.
func TestMemoryStaysFlatUnderLargePushes(t *testing.T) {
	if testing.Short() {
		leftOut(t, "the memory check writes gigabytes, and -short was asked for")
	}
	if runtime.GOOS != "linux" {
		leftOut(t, "anonymous memory is read from /proc")
	}
	size := int64(fromEnvironment(t, "PUSHPROXY_TESTS_LAYER", memoryLayer))
	program := pushproxyProgram(t, buildPlain)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, func(r *rig) { r.program = program })
	stop, peak := make(chan struct{}), make(chan int64)
	go sampleAnonymous(r.Pid(), stop, peak)
	start := time.Now()
	var clients errgroup.Group
	for i := range memoryClients {
		clients.Go(func() error {
			return pushLarge(r.api(), fmt.Sprintf("%s/large/app%d", upstreamName, i), byte(100+i), size)
		})
	}
	err := clients.Wait()
	close(stop)
	most := <-peak
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d clients pushed layers of %d MiB in %s; most anonymous memory: %d MiB", memoryClients, size>>20, time.Since(start).Round(time.Second), most>>20)
	if most > mostAnonymous {
		t.Errorf("anonymous memory reached %d MiB, at most %d are allowed", most>>20, mostAnonymous>>20)
	}
	for i := range memoryClients {
		repo := fmt.Sprintf("large/app%d", i)
		upstreamAPI(reg).want(t, http.StatusOK, "HEAD", "/v2/"+repo+"/manifests/v1", nil, "Accept", typeManifest)
	}
}

// pushLarge pushes an artifact with one large layer the way docker does: one PATCH without a length.
func pushLarge(a api, repo string, seed byte, size int64) error {
	stream := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{seed}), size) }
	h := sha256.New()
	if _, err := io.Copy(h, stream()); err != nil {
		return err
	}
	digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
	config := digestOf([]byte("{}"))
	if a.client == nil {
		a.client = &http.Client{Timeout: 30 * time.Minute}
	}
	if err := uploadStream(a, repo, config, strings.NewReader("{}")); err != nil {
		return err
	}
	if err := uploadStream(a, repo, digest, stream()); err != nil {
		return err
	}
	content := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`, typeManifest, typeEmpty, config, digest, size)
	_, err := a.expect(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/v1", strings.NewReader(content), "Content-Type", typeManifest)
	return err
}

func uploadStream(a api, repo, digest string, content io.Reader) error {
	location, err := a.expect(http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	location, err = a.expect(http.StatusAccepted, "PATCH", location, struct{ io.Reader }{content}, "Content-Type", "application/octet-stream")
	if err != nil {
		return err
	}
	_, err = a.expect(http.StatusCreated, "PUT", withDigest(location, digest), nil)
	return err
}

// expect sends a request that has one right status and returns the Location of its answer.
func (a api) expect(status int, method, target string, body io.Reader, header ...string) (string, error) {
	resp, err := a.send(method, target, body, header...)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil || resp.StatusCode != status {
		return "", fmt.Errorf("%s %s: %s %s, want %d", method, target, resp.Status, text, status)
	}
	return resp.Header.Get("Location"), nil
}

// sampleAnonymous reports the largest RssAnon of a process until stop is closed.
func sampleAnonymous(pid int, stop <-chan struct{}, peak chan<- int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var most int64
	for {
		most = max(most, anonymous(pid))
		select {
		case <-tick.C:
		case <-stop:
			peak <- most
			return
		}
	}
}

// anonymous returns the anonymous resident memory of a process in bytes, 0 when it cannot be read.
func anonymous(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "RssAnon:"); found {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// fromEnvironment returns the number in the variable, or usual where it is not set: for runs by hand at full size.
func fromEnvironment(t *testing.T, name string, usual int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
