package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const killRepo = upstreamName + "/acme/app"

func TestAnUploadGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	content := randomBytes(30, 12<<20)
	const acknowledged, sentBefore = 8 << 20, 11 << 20
	location := p.api().begin(t, killRepo)
	next := p.api().want(t, http.StatusAccepted, "PATCH", location, content[:acknowledged]).Header.Get("Location")

	// The second PATCH is under way, three more MiB of it sent, when the process dies.
	body, feed := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		resp, err := p.api().send("PATCH", next, body)
		if err == nil {
			err = resp.Body.Close()
		}
		failed <- err
	}()
	if _, err := feed.Write(content[acknowledged:sentBefore]); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	_ = feed.CloseWithError(io.ErrUnexpectedEOF)
	<-failed
	p.start(t)

	status := p.api().want(t, http.StatusNoContent, "GET", next, nil)
	offset := rangeEnd(t, status.Header.Get("Range"))
	if offset < acknowledged || offset > sentBefore {
		t.Fatalf("after the restart the upload stands at %d, %d were acknowledged and %d sent", offset, acknowledged, sentBefore)
	}
	rest := content[offset:]
	next = p.api().want(t, http.StatusAccepted, "PATCH", status.Header.Get("Location"), rest, "Content-Type", "application/octet-stream",
		"Content-Range", fmt.Sprintf("%d-%d", offset, len(content)-1)).Header.Get("Location")
	p.api().want(t, http.StatusCreated, "PUT", withDigest(next, digestOf(content)), nil)

	blob := desc{Digest: digestOf(content), Size: int64(len(content)), MediaType: "application/octet-stream"}
	p.api().pushManifest(t, killRepo, "v1", artifactOf(t, p.api().pushBlob(t, killRepo, []byte("{}")), blob))
	upstreamAPI(p.reg).pull(t, "acme/app", "v1")
}

func TestACommittedBlobIsNotAskedForAgainAfterAKill(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	closed := newGate() // nothing reaches the upstream before the kill
	p.rec.setRule(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" && r.Method != "HEAD" {
			closed.wait(r.Context())
		}
		return false
	})
	content := randomBytes(31, 6<<20)
	config, blob := p.api().pushBlob(t, killRepo, []byte("{}")), p.api().pushBlob(t, killRepo, content)
	p.Kill()
	p.rec.setRule(nil)
	close(closed.open)
	p.rec.reset()
	p.start(t)

	for _, d := range []desc{config, blob} {
		got := p.api().want(t, http.StatusOK, "HEAD", "/v2/"+killRepo+"/blobs/"+d.Digest, nil)
		if got.ContentLength != d.Size {
			t.Errorf("the blob of %d bytes is said to have %d", d.Size, got.ContentLength)
		}
	}
	p.api().pushManifest(t, killRepo, "v1", artifactOf(t, config, blob))
	upstreamAPI(p.reg).pull(t, "acme/app", "v1")
	if n := p.rec.requests().bodies().sum(); n != blob.Size+config.Size {
		t.Errorf("%d bytes went upstream after the restart, want %d", n, blob.Size+config.Size)
	}
}

func TestAKillInTheMiddleOfForwardingLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	sending := newGate()
	p.rec.setRule(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PUT" || r.Method == "PATCH" {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			sending.wait(r.Context())
			panic(http.ErrAbortHandler)
		}
		return false
	})
	content := randomBytes(32, 6<<20)
	config, blob := p.api().pushBlob(t, killRepo, []byte("{}")), p.api().pushBlob(t, killRepo, content)
	select {
	case <-sending.waiting:
	case <-time.After(patience):
		t.Fatal("a committed blob was not forwarded before the manifest came")
	}
	p.Kill()
	p.rec.setRule(nil)
	close(sending.open)
	p.start(t)
	p.api().pushManifest(t, killRepo, "v1", artifactOf(t, config, blob))
	upstreamAPI(p.reg).pull(t, "acme/app", "v1")
	got := p.api().do(t, "GET", "/v2/"+killRepo+"/blobs/"+blob.Digest, nil)
	if !bytes.Equal(got.body, content) {
		t.Errorf("pushproxy serves %d bytes that are not the blob", len(got.body))
	}
}

func TestAPushThatAKillCutsOffIsInTheHistory(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	putting := newGate()
	p.rec.setRule(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/") {
			putting.wait(r.Context())
			panic(http.ErrAbortHandler)
		}
		return false
	})
	content := artifactOf(t, p.api().pushBlob(t, killRepo, []byte("{}")), p.api().pushBlob(t, killRepo, randomBytes(33, 1<<20)))
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := p.api().send("PUT", "/v2/"+killRepo+"/manifests/v1", bytes.NewReader(content), "Content-Type", typeManifest); err == nil {
			t.Errorf("a push that was cut off was answered: %s", resp.Status)
			resp.Body.Close()
		}
	}()
	select {
	case <-putting.waiting:
	case <-time.After(patience):
		t.Fatal("the manifest was not forwarded")
	}
	history := filepath.Join(p.config.DataDir, "pushes.jsonl")
	poll(t, "the push is written down", func() bool { return strings.Contains(readFile(t, history), `"tags":["v1"]`) })
	p.Kill()
	<-left
	p.rec.setRule(nil)
	close(putting.open)
	p.start(t)

	var push struct{ ID string }
	_ = json.Unmarshal([]byte(strings.SplitN(readFile(t, history), "\n", 2)[0]), &push)
	const why = "pushproxy ended while this push was under way"
	if out, _, err := p.run(t, "status"); err != nil || !strings.Contains(out, why) {
		t.Errorf("status: %v\n%s", err, out)
	}
	out, _, err := p.run(t, "status", push.ID)
	if err != nil || !strings.Contains(out, why) || !strings.Contains(out, "push again") || !strings.Contains(out, "acme/app:v1") || !strings.Contains(out, digestOf(content)) {
		t.Errorf("status %s: %v\n%s", push.ID, err, out)
	}
	if shown := p.shown(t); strings.Count(shown, why) < 4 {
		t.Errorf("page and JSON do not say that it was cut off:\n%s", shown)
	}
	p.rec.reset()
	p.api().pushManifest(t, killRepo, "v1", content)
	if n := p.rec.requests().bodies().sum(); n != 0 {
		t.Errorf("%d bytes of blobs went upstream again", n)
	}
	if out, _, err := p.run(t, "status"); err != nil || !strings.Contains(out, "done in") || !strings.Contains(out, why) {
		t.Errorf("status after it was pushed again: %v\n%s", err, out)
	}
}

// rangeEnd returns how many bytes a Range header of an upload says there are.
func rangeEnd(t *testing.T, header string) int {
	t.Helper()
	_, last, found := strings.Cut(header, "-")
	n, err := strconv.Atoi(last)
	if !found || err != nil {
		t.Fatalf("Range %q of an upload cannot be read", header)
	}
	return n + 1
}
