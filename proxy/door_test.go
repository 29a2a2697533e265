package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/oci"
)

func TestTheRootSaysWhichAPIItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"/v2/", "/v2/?ns=ghcr.io"} {
		got := r.want(200, "GET", path, nil)
		r.hasHeaders(got, flags{"Content-Type": "application/json", "Docker-Distribution-API-Version": "registry/2.0", "Server": "pushproxy", "WWW-Authenticate": ""})
		if string(got.body) != "{}" {
			t.Errorf("body %q", got.body)
		}
	}
	r.want(200, "HEAD", "/v2/", nil)
}

func TestBadNamesAndPathsAreRefusedInTheSpecificationsFormat(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/", 404, "UNSUPPORTED"},
		{"GET", "/v1/_ping", 404, "UNSUPPORTED"},
		{"GET", "/v2/registry.test/acme/app", 404, "UNSUPPORTED"},
		{"GET", "/v2/evil.test/app/manifests/v1", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/acme/app/tags/list", 404, "NAME_UNKNOWN"},
		{"POST", "/v2/evil.test/app/blobs/uploads/", 404, "NAME_UNKNOWN"},
		{"PUT", "/v2/evil.test/app/manifests/v1", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/registry.test/Acme/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/registry.test/a%2fb/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/registry.test/a%00b/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/registry.test:5000/a/manifests/v1", 400, "NAME_INVALID"},
		{"GET", "/v2/registry.test/a/manifests/v1?ns=%zz", 400, "NAME_INVALID"},
		{"POST", app + "/manifests/v1", 405, "UNSUPPORTED"},
		{"PUT", "/v2/", 405, "UNSUPPORTED"},
		{"GET", app + "/blobs/uploads/../../x", 404, "UNSUPPORTED"},
	} {
		got := r.want(test.status, test.method, test.path, nil)
		if code, _ := r.code(got); code != test.code {
			t.Errorf("%s %s: code %s, want %s", test.method, test.path, code, test.code)
		}
	}
	if seen := r.up.Requests(); len(seen) > 0 {
		t.Errorf("the upstream saw %q", seen)
	}
}

func TestANamespaceIsHonouredOnEveryEndPoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const ns = "?ns=registry.test"
	for _, name := range []string{"/v2/acme/app", app} {
		blob := []byte("by " + name)
		d := digest.FromBytes(blob)
		r.want(404, "HEAD", name+"/blobs/"+d.String()+ns, nil)
		start := r.want(202, "POST", name+"/blobs/uploads/"+ns, nil)
		r.hasHeaders(start, flags{"OCI-Namespace": "registry.test"})
		at := start.header.Get("Location")
		if !strings.HasSuffix(at, ns) {
			t.Fatalf("location %q lost the namespace", at)
		}
		r.want(204, "GET", at, nil)
		done := r.want(201, "PUT", at+"&digest="+d.String(), blob)
		r.hasHeaders(done, flags{"Location": name + "/blobs/" + d.String() + ns})
		r.want(200, "GET", done.header.Get("Location"), nil)
		r.want(201, "POST", name+"/blobs/uploads/"+ns+"&mount="+d.String()+"&from=other/name", nil)
		put := r.want(201, "PUT", name+"/manifests/v1"+ns, image(blob), ociType)
		r.hasHeaders(put, flags{"Location": name + "/manifests/" + digest.FromBytes(image(blob)).String() + ns})
		r.want(200, "HEAD", put.header.Get("Location"), nil)
		r.want(201, "PUT", name+"/manifests/v2"+ns, image(blob), ociType)
		list := r.want(200, "GET", name+"/tags/list"+ns+"&n=1", nil)
		r.hasHeaders(list, flags{"Link": fmt.Sprintf(`<%s/tags/list%s&last=v1&n=1>; rel="next"`, name, ns)})
		if _, _, ok := r.up.Manifest("acme/app", "v1"); !ok {
			t.Error("the upstream does not have the manifest")
		}
	}
	for _, q := range r.up.Log() {
		if q.Query.Has("ns") {
			t.Errorf("the upstream saw the namespace: %s", q)
		}
	}
	if code, _ := r.code(r.want(404, "POST", "/v2/acme/app/blobs/uploads/?ns=evil.test", nil)); code != "NAME_UNKNOWN" {
		t.Errorf("code %s", code)
	}
}

// containerd that reaches this door by another address than the one in the
// image's name sends that name.
func TestANamespaceThatIsThisDoorSaysNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := r.want(202, "POST", app+"/blobs/uploads/?ns=localhost:5001", nil)
	r.hasHeaders(got, flags{"OCI-Namespace": ""})
	if at := got.header.Get("Location"); strings.Contains(at, "ns=") {
		t.Errorf("location %q", at)
	}
}

func TestS33APanicEndsOneRequestAndTellsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	target := r.door.Target
	r.door.Target = func(context.Context, string, string) (*forward.Target, error) { panic("secret-canary") }
	code, message := r.code(r.want(500, "GET", app+"/tags/list", nil))
	r.door.Target = target
	r.want(200, "GET", app+"/tags/list", nil)
	if log := r.log.String(); code != "UNKNOWN" || strings.Contains(message+log, "secret-canary") || !strings.Contains(log, "panic in a handler") {
		t.Errorf("%s %s, logged %s", code, message, log)
	}
}

func TestAStoppingProxySaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.door.Forward.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	code, message := r.code(r.want(503, "PUT", app+"/manifests/v1", []byte("{}"), ociType))
	if code != "UNAVAILABLE" || !strings.Contains(message, "push again") {
		t.Errorf("%s %s", code, message)
	}
}

func TestClientsSeeTheFirstErrorAndNo401(t *testing.T) {
	t.Parallel()
	first := after(oci.ErrDigestInvalid.With("first"), oci.ErrStorageFull.With("second"))
	if e := shown(first); e.Message != "first" || !strings.Contains(first.Error(), "second") {
		t.Errorf("%v shown as %v", first, e)
	}
	internal := after(errors.New("a broken store"), oci.ErrStorageFull)
	if e := shown(internal); e.Status != 500 || strings.Contains(e.Message, "broken") {
		t.Errorf("%v shown as %v", internal, e)
	}
	if e := shown(fmt.Errorf("wrapped: %w", oci.ErrUnauthorized.With("log in"))); e.Status != http.StatusForbidden || e.Message != "log in" {
		t.Errorf("a 401 is shown as %d %s", e.Status, e.Message)
	}
}

func TestS30TheLogHoldsNoQueriesAndNoLongLines(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.want(404, "GET", "/v2/"+strings.Repeat("x", 10000)+"/none?token=secret-canary", nil)
	r.want(404, "GET", "/v2/a%0aforged%20line%1b[31m/none", nil, "Authorization: Basic c2VjcmV0LWNhbmFyeQ==")
	for line := range strings.Lines(r.log.String()) {
		if len(line) > 3*maxLogged || strings.Contains(line, "canary") || strings.Contains(line, "c2VjcmV0") || strings.HasPrefix(line, "forged") || strings.Contains(line, "\x1b") {
			t.Errorf("logged %q", line)
		}
	}
}

// What a client sends to prove itself to this door is not for upstreams, and
// neither is anything else that it chose.
func TestS31ClientHeadersDoNotReachTheUpstream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.want(404, "GET", app+"/manifests/v1", nil, "Authorization: Bearer canary", "Cookie: canary", "X-Forwarded-Host: canary", "Connection: X-Secret", "X-Secret: canary")
	r.want(201, "PUT", app+"/manifests/v1", []byte("{}"), ociType, "Authorization: Bearer canary", "X-Secret: canary")
	for _, q := range r.up.Log() {
		for name, values := range q.Header {
			if strings.Contains(strings.Join(values, ""), "canary") {
				t.Errorf("%s carried %s", q, name)
			}
		}
	}
}

func TestAPushLeavesOneLineThatSaysWhatHappenedToEachBlob(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		r.pushBlob(app, []byte("{}"))
		layer := blobOf(100 << 10)
		r.up.AddBlob("acme/app", layer)
		r.pushBlob(app, layer)
		synctest.Wait()
		r.want(201, "PUT", app+"/manifests/v1", image([]byte("{}"), layer), ociType)
		var lines []string
		for line := range strings.Lines(r.log.String()) {
			if strings.Contains(line, "msg=push ") {
				lines = append(lines, line)
			}
		}
		if len(lines) != 1 {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		for _, words := range []string{"repository=registry.test/acme/app", "reference=v1", "uploaded.blobs=1", "uploaded.bytes=2", "skipped.blobs=1", "skipped.bytes=102400", digest.FromBytes(layer).Encoded()[:12] + " skipped"} {
			if !strings.Contains(lines[0], words) {
				t.Errorf("%q lacks %q", lines[0], words)
			}
		}
	})
}
