package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
)

func TestS29OnePrincipalsBytesAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	who := people(t, r, "alice", "bob")
	r.door.Limits = NewLimits(0, 0, 100_000)
	first := r.pushAs(who[0], app, blobOf(50_000))
	// The same blob again takes no room.
	r.pushAs(who[0], app+"2", blobOf(50_000))
	full := func(method, path string, body []byte) {
		t.Helper()
		code, message := r.code(r.want(507, method, path, body, who[0]))
		if code != "DENIED" || message == "" {
			t.Errorf("%s %s: %s %s", method, path, code, message)
		}
	}
	at := r.want(202, "POST", app+"/blobs/uploads/", nil, who[0]).header.Get("Location")
	full("PATCH", at, blobOf(50_001))
	r.want(202, "PATCH", at, blobOf(30_000), who[0])
	full("PATCH", at, blobOf(30_000))
	other := blobOf(20_001)
	full("POST", app+"/blobs/uploads/?digest="+digest.FromBytes(other).String(), other)
	// What is announced is not waited for.
	if status := r.raw("PATCH " + at + " HTTP/1.1\r\nHost: localhost:5001\r\n" + who[0] + "\r\nContent-Length: 9000000\r\n\r\n"); !strings.Contains(status, "507") {
		t.Errorf("9 MB that are announced are answered %s", status)
	}
	// A body whose length is not announced is stopped on the way.
	got, err := r.try("PATCH", at, &onlyReader{bytes.NewReader(blobOf(40_000))}, who[0])
	if err != nil || got.status != 507 {
		t.Errorf("a stream is answered %d, %v", got.status, err)
	}
	// What was refused leaves the upload as it was, and reads go on.
	r.hasHeaders(r.want(204, "GET", at, nil, who[0]), flags{"Range": "0-29999"})
	r.want(200, "GET", app+"/blobs/"+first.String(), nil, who[0])
	r.pushAs(who[1], app, blobOf(90_000))
	// What is given back can be used again.
	r.want(204, "DELETE", at, nil, who[0])
	r.pushAs(who[0], app, blobOf(40_000))
	// A restart counts what is there.
	r.start()
	who = people(t, r, "alice")
	r.door.Limits = NewLimits(0, 0, 100_000)
	if err := r.door.Count(t.Context()); err != nil {
		t.Fatal(err)
	}
	// To count again changes nothing.
	if err := r.door.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	more := blobOf(10_001)
	r.want(507, "POST", app+"/blobs/uploads/?digest="+digest.FromBytes(more).String(), more, who[0])
}

func TestS29WhatWasCollectedCountsNoLonger(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		who := people(t, r, "alice", "bob")
		r.door.Limits = NewLimits(0, 0, 100_000)
		const team = "/v2/registry.test/team/b"
		r.pushAs(who[0], app, blobOf(60_000))
		r.pushAs(who[1], team, blobOf(60_000))
		more := func(who string, status int) {
			t.Helper()
			blob := blobOf(50_000)
			r.want(status, "POST", app+"/blobs/uploads/?digest="+digest.FromBytes(blob).String(), blob, who)
		}
		more(who[0], 507)
		// A collection condemns, and a later one removes.
		limits := blobcache.Limits{Quota: 1, Idle: time.Hour}
		for range 3 {
			time.Sleep(2 * time.Hour)
			if _, err := r.door.Cache.Collect(t.Context(), limits); err != nil {
				t.Fatal(err)
			}
		}
		more(who[0], 507)
		if err := r.door.Recount(t.Context()); err != nil {
			t.Fatal(err)
		}
		more(who[0], 201)
		more(who[1], 201)
		more(who[1], 201) // the same again
		// The one that was collected counts again when it is there again.
		r.pushAs(who[0], app, blobOf(40_000))
		blob := blobOf(60_000)
		r.want(507, "POST", app+"/blobs/uploads/?digest="+digest.FromBytes(blob).String(), blob, who[0])
	})
}

// onlyReader hides how long a body is.
type onlyReader struct{ r *bytes.Reader }

// Read implements io.Reader.
func (o *onlyReader) Read(p []byte) (int, error) { return o.r.Read(p) }

func TestS28OneUploadTooManyEndsTheOneThatHasBeenIdleLongest(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.door.Limits = NewLimits(3, 0, 0)
		var at []string
		for range 3 {
			at = append(at, r.begin(app))
			time.Sleep(time.Second)
		}
		// One that was opened just now is about to be used.
		r.want(429, "POST", app+"/blobs/uploads/", nil)
		time.Sleep(idleFor)
		// The first is used again, so the second is the oldest.
		r.want(202, "PATCH", at[0], []byte("x"))
		time.Sleep(time.Second)
		at = append(at, r.begin(app))
		for i, status := range []int{204, 404, 204, 204} {
			r.want(status, "GET", at[i], nil)
		}
		// A finished one makes room.
		d := digest.FromString("y")
		r.want(201, "PUT", at[3]+"?digest="+d.String(), []byte("y"))
		r.begin(app)
		for i, status := range []int{204, 404, 204} {
			r.want(status, "GET", at[i], nil)
		}
	})
}

func TestS28UploadsThatAreAllInUseAreNotEnded(t *testing.T) {
	t.Parallel()
	l := NewLimits(2, 0, 0)
	for i := range 2 {
		if evict, err := l.begun("alice", fmt.Sprint(i)); err != nil || evict != "" {
			t.Fatal(evict, err)
		}
	}
	if evict, err := l.begun("alice", "more"); err == nil {
		t.Errorf("%q is ended while it is received", evict)
	}
	if _, err := l.begun("bob", "more"); err != nil {
		t.Errorf("another principal is refused: %v", err)
	}
	l.ended("alice", "0")
	if _, err := l.begun("alice", "more"); err != nil {
		t.Error(err)
	}
}

func TestS28RequestsOfOnePrincipalAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	who := people(t, r, "alice", "bob")
	r.door.Limits = NewLimits(0, 1, 0)
	block, entered := make(chan struct{}), make(chan struct{})
	r.hook = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/v2/acme/app/tags/list" {
			close(entered)
			<-block
		}
		return false
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.try("GET", app+"/tags/list", nil, who[0])
	}()
	<-entered
	got := r.want(429, "GET", "/v2/", nil, who[0])
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	r.want(200, "GET", "/v2/", nil, who[1])
	close(block)
	<-done
	r.want(200, "GET", "/v2/", nil, who[0])
	r.door.Limits.mu.Lock()
	defer r.door.Limits.mu.Unlock()
	if n := len(r.door.Limits.used); n > 0 {
		t.Errorf("%d principals that use nothing are remembered", n)
	}
}
