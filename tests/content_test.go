package tests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// What clients may store, and what upstreams may bring in.

// startUpstream runs a handler as the upstream of a rig.
func startUpstream(t *testing.T, handler http.HandlerFunc, change func(*rig)) *rig {
	t.Helper()
	pushproxyProgram(t, buildRace)
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return startRig(t, server.URL, change)
}

// wantHarmless checks that a browser would run nothing of an answer.
func wantHarmless(t *testing.T, what string, got answer) {
	t.Helper()
	h := got.Header
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	if len(got.body) > 0 && media != "application/json" && media != "application/octet-stream" && !strings.HasPrefix(media, "application/vnd.") {
		t.Errorf("%s: the answer's Content-Type is %q", what, h.Get("Content-Type"))
	}
	if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") != "default-src 'none'; sandbox" {
		t.Errorf("%s: a browser may run the answer: %v", what, h)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s: the answer has %s", what, name)
		}
	}
}

const script = `<script>alert(document.domain)</script>`

func TestS8NothingThatWasPushedRunsInABrowser(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	a, base := p.api(), "/v2/"+killRepo
	page := []byte("<!doctype html><html>" + script + "</html>")
	blob := a.pushBlob(t, killRepo, page)
	got := a.want(t, http.StatusOK, "GET", base+"/blobs/"+blob.Digest, nil, "Accept", "text/html")
	wantHarmless(t, "a page as a blob", got)
	wantEqual(t, "what the blob is served as", got.Header.Get("Content-Type")+" "+got.Header.Get("Content-Disposition"), "application/octet-stream attachment")
	config := a.pushBlob(t, killRepo, []byte("{}"))
	m := bytes.Replace(artifactOf(t, config, blob), []byte(`{`), fmt.Appendf(nil, `{"annotations":{%q:%q},`, script, script), 1)
	for _, media := range []string{"text/html", "text/html; charset=utf-8", "application/xhtml+xml", "image/svg+xml", "text/xml", "multipart/x-mixed-replace", "text/plain", "*/*", "text/javascript", script} {
		if got := a.do(t, "PUT", base+"/manifests/v1", m, "Content-Type", media); got.StatusCode != http.StatusBadRequest {
			t.Errorf("a manifest of the type %s is answered %v", media, got.Status)
		} else {
			wantHarmless(t, "the refusal of "+media, got)
		}
	}
	a.pushManifest(t, killRepo, "v1", m)
	for _, reference := range []string{"v1", digestOf(m)} {
		got := a.want(t, http.StatusOK, "GET", base+"/manifests/"+reference, nil, "Accept", typeManifest+", text/html")
		wantHarmless(t, "a manifest with a script in it", got)
		wantEqual(t, "its Content-Disposition", got.Header.Get("Content-Disposition"), "attachment")
	}
	for _, path := range []string{
		"/", "/" + script, "/v2/" + script, "/v2/" + upstreamName + "/" + script + "/manifests/v1", base + "/manifests/" + script, base + "/blobs/" + script, base + "/blobs/uploads/" + script,
		base + "/tags/list?n=" + script, base + "/referrers/" + digestOf(m) + "?artifactType=" + script, "/v2/" + script + ".test/a/tags/list", base + "/tags/list?ns=" + script,
	} {
		for _, method := range []string{"GET", "PUT", "POST", script} {
			target := strings.NewReplacer("<", "%3C", ">", "%3E").Replace(path)
			resp, err := a.send(method, target, nil, "User-Agent", script, "Accept", "text/html")
			if err != nil {
				continue // the client itself refuses such a method
			}
			body := new(bytes.Buffer)
			_, _ = body.ReadFrom(resp.Body)
			_ = resp.Body.Close()
			wantHarmless(t, method+" "+path, answer{resp, body.Bytes()})
			if strings.Contains(body.String(), "<script") {
				t.Errorf("%s %s is repeated as it was: %s", method, path, body)
			}
		}
	}
}

// An upstream that is a page, or sends pages, does not make this door send one.
func TestS8NothingThatAnUpstreamSaysRunsInABrowser(t *testing.T) {
	t.Parallel()
	page := "<!doctype html><html>" + script + "</html>"
	for _, status := range []int{200, 400, 403, 404} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			r := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.Header().Set("Docker-Content-Digest", digestOf([]byte(page)))
				w.Header().Set("X-Frame-Options", "ALLOWALL")
				w.Header().Set("Set-Cookie", "a=b")
				w.Header().Set("Refresh", "0; url=http://evil.test")
				w.WriteHeader(status)
				fmt.Fprint(w, page)
			}, nil)
			for _, path := range []string{"/manifests/v1", "/manifests/" + digestOf([]byte(page)), "/blobs/" + digestOf([]byte(page)), "/tags/list", "/referrers/" + digestOf([]byte(page))} {
				got := r.api().do(t, "GET", "/v2/"+killRepo+path, nil, "Accept", "text/html")
				wantHarmless(t, path, got)
				if got.Header.Get("Set-Cookie") != "" || got.Header.Get("Refresh") != "" {
					t.Errorf("%s: headers of the upstream's are passed on: %v", path, got.Header)
				}
				if got.Header.Get("Content-Type") == "application/json" && strings.Contains(string(got.body), "<script") {
					t.Errorf("%s: %s", path, got.body)
				}
			}
		})
	}
}

func TestS23DigestsThatAreNoneAreRefusedAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	a, base := p.api(), "/v2/"+killRepo
	content := []byte("digest confusion")
	good := digestOf(content)
	before := listing(t, p.config.DataDir)
	for _, d := range []string{
		"md5:d41d8cd98f00b204e9800998ecf8427e", "SHA256:" + good[7:], "sha256:" + strings.ToUpper(good[7:]), "sha256:../../../etc/passwd", "sha256:" + good[7:70], good + "0",
		"sha256:%00" + good[9:], "sha256:" + good[7:69] + "%0a", "sha512:" + good[7:], "sha256", "sha256:", ":", "sha1:" + good[7:47], "sha256+b64:" + good[7:], "sha256:" + strings.Repeat("g", 64),
	} {
		for method, path := range map[string]string{
			"GET": "/blobs/" + d, "HEAD": "/manifests/" + d, "DELETE": "/blobs/" + d, "PUT": "/manifests/" + d, "POST": "/blobs/uploads/?digest=" + d,
		} {
			got := a.do(t, method, base+path, content, "Content-Type", typeManifest)
			if got.StatusCode != http.StatusBadRequest && got.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s is answered %v", method, path, got)
			}
		}
		for _, query := range []string{"mount=" + d, "mount=" + d + "&from=" + killRepo} {
			if got := a.do(t, "POST", base+"/blobs/uploads/?"+query, nil); got.StatusCode != http.StatusBadRequest {
				t.Errorf("POST ?%s is answered %v", query, got)
			}
		}
	}
	for _, query := range []string{"digest=" + good + "&digest=" + good, "digest=" + good + "&digest=" + digestOf(nil), "digest=", "mount=" + good + "&mount=" + digestOf(nil)} {
		if got := a.do(t, "POST", base+"/blobs/uploads/?"+query, content); got.StatusCode != http.StatusBadRequest && query != "digest=" {
			t.Errorf("POST ?%s is answered %v", query, got)
		}
	}
	if after := listing(t, p.config.DataDir); !slices.Equal(before, after) {
		t.Errorf("files of the data directory before %q and after %q", before, after)
	}
	// Other bytes than the digest says are dropped.
	a.want(t, http.StatusBadRequest, "POST", base+"/blobs/uploads/?digest="+good, []byte("other bytes"))
	a.want(t, http.StatusNotFound, "GET", base+"/blobs/"+good, nil)
	a.want(t, http.StatusNotFound, "GET", base+"/blobs/"+digestOf([]byte("other bytes")), nil)
	if got := p.rec.requests().bodies(); len(got) > 0 {
		t.Errorf("bytes went upstream:\n%s", got)
	}
	// A blob that was pushed by its SHA-512 is known here by that alone. distribution, to which it is sent at once, knows it by both.
	p.rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+good) {
			return false
		}
		http.NotFound(w, r)
		return true
	})
	long := "sha512:" + sha512Of(content)
	a.want(t, http.StatusCreated, "PUT", withDigest(a.want(t, http.StatusAccepted, "POST", base+"/blobs/uploads/?digest-algorithm=sha512", nil).Header.Get("Location"), long), content)
	a.want(t, http.StatusOK, "GET", base+"/blobs/"+long, nil)
	a.want(t, http.StatusNotFound, "GET", base+"/blobs/"+good, nil)
}

// listing are the names below a folder.
func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestS24TenThousandPathsLeadNowhere(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	before := listing(t, p.config.DataDir)
	random := rand.New(rand.NewPCG(24, 24))
	pieces := []string{
		"..", ".", "%2e%2e", "%2f", "%5c", "\\", "//", "/", "a", "A", "acme", "app", "blobs", "uploads", "manifests", "tags", "list", "_catalog", "referrers", "%00", "%0a", "%20", "%u002e", "%c0%ae", "..%2f", "....//",
		"sha256:", digestOf(nil), "sha256:../../../etc/passwd", upstreamName, "registry.test:5000", "etc", "passwd", "proc", "self", "environ", "~root", "-", "_", "__", "a..b", "a--b", ".git", "CON", "%ff", "é", "%F0%9F%98%80",
		strings.Repeat("a", 300), strings.Repeat("a/", 200), "?n=../..", "?from=../../x&mount=" + digestOf(nil), "#x", ";", "@", "localhost:5001", "[::1]",
	}
	conn := newRawClient(t, p.Port)
	fine := map[int]int{}
	for i := range 10_000 {
		path := "/v2/" + upstreamName + "/"
		if i%3 == 0 {
			path = "/"
		}
		for range 1 + random.IntN(8) {
			path += pieces[random.IntN(len(pieces))]
			if random.IntN(3) > 0 {
				path += "/"
			}
		}
		method := []string{"GET", "PUT", "HEAD", "DELETE"}[random.IntN(4)]
		status := conn.ask(method, path)
		fine[status]++
		// 404 for what is not there, 400 for what is no name, 405 for no method; 403 where the upstream refuses a deletion.
		if status != http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("%s %q is answered %d", method, path, status)
		}
	}
	if fine[http.StatusNotFound] < 500 || fine[http.StatusBadRequest] < 500 {
		t.Errorf("answers: %v; most were not looked at", fine)
	}
	after := listing(t, p.config.DataDir)
	for _, name := range after {
		if !slices.Contains(before, name) && !strings.HasSuffix(name, ".sst") && !strings.HasSuffix(name, ".mem") && !strings.HasSuffix(name, ".vlog") && filepath.Base(name) != "ballast" {
			t.Errorf("the data directory has %s now", name)
		}
	}
	if _, err := os.Stat(filepath.Join(p.home, "etc")); err == nil {
		t.Error("a file was made beside the data directory")
	}
}

func TestS25ManifestsOfExtremeFormsAreRefusedAtLittleCost(t *testing.T) {
	t.Parallel()
	program := pushproxyProgram(t, buildPlain)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, func(r *rig) { r.program = program })
	a, base := r.api(), "/v2/"+killRepo
	config := a.pushBlob(t, killRepo, []byte("{}"))
	good := string(artifactOf(t, config, config))
	within := func(key string) string { return strings.Replace(good, "{", "{"+key+",", 1) }
	many := strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":2},`, config.Digest), 10_001), ",")
	before := anonymous(r.Pid())
	for _, c := range []struct {
		name, body string
		status     int
	}{
		{"one byte more than 4 MiB", good + strings.Repeat(" ", 4<<20-len(good)+1), 413},
		{"4 MiB of brackets", strings.Repeat("[", 4<<20), 400},
		{"4 MiB of nested objects", strings.Repeat(`{"a":`, 4<<20/5), 400},
		{"4 MiB of nested annotations", strings.Repeat(`{"annotations":`, 4<<20/15), 400},
		{"a manifest in another's place", within(`"manifests":[{"mediaType":"a/b","digest":"` + config.Digest + `","size":2}]`), 400},
		{"a key twice", within(`"schemaVersion":2`), 400},
		{"a key in another case", within(`"LAYERS":[]`), 400},
		{"a key with a letter that folds", within(`"layerſ":[]`), 400},
		{"another mediaType than the Content-Type", strings.Replace(good, typeManifest, "application/vnd.oci.image.index.v1+json", 1), 400},
		{"more than 10,000 references", `{"schemaVersion":2,"mediaType":"` + typeManifest + `","layers":[` + many + `]}`, 400},
		{"something behind the end", good + "{}", 400},
		{"a digest that is none", strings.Replace(good, "sha256:", "md5:", 1), 400},
		{"a negative size", strings.Replace(good, `"size":2`, `"size":-2`, 1), 400},
		{"a size that is none", strings.Replace(good, `"size":2`, `"size":1e99`, 1), 400},
		{"nothing", "", 400},
		{"nul bytes", "\x00\x00", 400},
	} {
		begin := time.Now()
		got := a.do(t, "PUT", base+"/manifests/x", []byte(c.body), "Content-Type", typeManifest)
		if got.StatusCode != c.status || got.errorCode() != "MANIFEST_INVALID" {
			t.Errorf("%s: answered %v, want %d", c.name, got, c.status)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("%s: the answer took %s", c.name, took)
		}
	}
	// Exactly 4 MiB is fine.
	a.want(t, http.StatusCreated, "PUT", base+"/manifests/full", []byte(good+strings.Repeat(" ", 4<<20-len(good))), "Content-Type", typeManifest)
	// Indexes of indexes cost no more than their bytes.
	child := a.do(t, "PUT", base+"/manifests/"+digestOf([]byte(good)), []byte(good), "Content-Type", typeManifest)
	if child.StatusCode != http.StatusCreated {
		t.Fatal(child)
	}
	digest, size := digestOf([]byte(good)), len(good)
	for depth := 1; depth <= 100; depth++ {
		index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, typeIndex, typeIndex, digest, size)
		if depth == 1 {
			index = strings.Replace(index, `[{"mediaType":"`+typeIndex, `[{"mediaType":"`+typeManifest, 1)
		}
		digest, size = digestOf([]byte(index)), len(index)
		got := a.do(t, "PUT", base+"/manifests/"+digest, []byte(index), "Content-Type", typeIndex)
		if got.StatusCode != http.StatusCreated && got.errorCode() != "MANIFEST_INVALID" {
			t.Fatalf("an index %d deep is answered %v", depth, got)
		}
	}
	if after := anonymous(r.Pid()); after > before+64<<20 {
		t.Errorf("anonymous memory grew by %d MiB", (after-before)>>20)
	}
	a.want(t, http.StatusOK, "GET", base+"/manifests/full", nil)
}

// An upstream that sends something else than what was asked for reaches neither the cache nor a client as a whole.
func TestS26WhatIsNotTheBlobIsNeitherServedNorKept(t *testing.T) {
	t.Parallel()
	content := randomBytes(26, 3<<20)
	blob, manifest := digestOf(content), artifactOf(t, desc{Digest: digestOf([]byte("{}")), Size: 2})
	for _, c := range []struct {
		name string
		send func(w http.ResponseWriter)
	}{
		{"other bytes of the same length", func(w http.ResponseWriter) { _, _ = w.Write(append([]byte("x"), content[1:]...)) }},
		{"another last byte", func(w http.ResponseWriter) {
			_, _ = w.Write(append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]^1))
		}},
		{"too few bytes", func(w http.ResponseWriter) { _, _ = w.Write(content[:len(content)-1]) }},
		{"too many bytes", func(w http.ResponseWriter) { _, _ = w.Write(append(bytes.Clone(content), 'x')) }},
		{"nothing", func(http.ResponseWriter) {}},
		{"a cut connection", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:1<<20])
			panic(http.ErrAbortHandler)
		}},
		{"a compressed body", func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(gzipped(content))
		}},
		{"a page", func(w http.ResponseWriter) { fmt.Fprint(w, "<html>log in</html>") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := startUpstream(t, func(w http.ResponseWriter, req *http.Request) {
				if accept := req.Header.Get("Accept-Encoding"); accept != "" && accept != "identity" {
					t.Errorf("a compressed answer was asked for: %q", accept)
				}
				switch {
				case req.Method == "GET" && strings.HasSuffix(req.URL.Path, "/blobs/"+blob):
					c.send(w)
				case req.Method == "GET" && strings.Contains(req.URL.Path, "/manifests/sha256:"):
					w.Header().Set("Content-Type", typeManifest)
					c.send(w)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}, nil)
			rounds := 2
			if strings.Contains(c.name, "cut") {
				rounds = 1 // each is tried again for a while
			}
			for range rounds {
				for _, header := range [][]string{nil, {"Range", "bytes=0-99"}} {
					resp, err := r.api().send("GET", "/v2/"+killRepo+"/blobs/"+blob, nil, header...)
					if err != nil {
						continue // cut before an answer
					}
					body := new(bytes.Buffer)
					_, err = body.ReadFrom(resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode/100 == 2 && err == nil && int64(body.Len()) == resp.ContentLength && resp.ContentLength >= 0 {
						t.Errorf("%d bytes that are not the blob were served as a whole (%v): %s", body.Len(), header, resp.Status)
					}
				}
				if got := r.api().do(t, "GET", "/v2/"+killRepo+"/manifests/"+digestOf(manifest), nil); got.StatusCode/100 == 2 {
					t.Errorf("a manifest that is not the one that was asked for is answered %v", got.Status)
				}
			}
			if got := r.api().do(t, "HEAD", "/v2/"+killRepo+"/blobs/"+blob, nil); got.StatusCode != http.StatusNotFound {
				t.Errorf("the cache took it: HEAD is answered %v", got.Status)
			}
			out, errs, err := r.run(t, "gc", "--dry-run", "--json")
			if err != nil || !strings.Contains(out, `"Blobs": 0`) && !strings.Contains(out, `"blobs": 0`) {
				t.Errorf("the cache holds something: %v %s%s", err, out, errs)
			}
		})
	}
}

// What was deleted in one repository comes back neither there nor elsewhere by what happens in another: random histories
// of pushes and deletions are compared with a model.
func TestS27DeletionsAgreeWithAModel(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	a := p.api()
	random := rand.New(rand.NewPCG(27, uint64(time.Now().UnixNano())))
	repos := []string{upstreamName + "/acme/a", upstreamName + "/acme/b", upstreamName + "/other/c"}
	var images [][]byte
	for i := range 3 {
		content := fmt.Appendf(nil, "layer %d of %s", i, t.Name())
		images = append(images, artifactOf(t, desc{Digest: digestOf([]byte("{}")), Size: 2}, desc{MediaType: "application/octet-stream", Digest: digestOf(content), Size: int64(len(content))}))
		for _, repo := range repos {
			a.pushBlob(t, repo, content)
			a.pushBlob(t, repo, []byte("{}"))
		}
	}
	there := map[string]bool{}
	steps := 1500
	if testing.Short() {
		steps = 200
	}
	for step := range steps {
		repo, m := repos[random.IntN(len(repos))], images[random.IntN(len(images))]
		key := repo + "@" + digestOf(m)
		path := "/v2/" + repo + "/manifests/" + digestOf(m)
		switch random.IntN(6) {
		case 0:
			a.want(t, http.StatusCreated, "PUT", path, m, "Content-Type", typeManifest)
			there[key] = true
		case 1:
			want := http.StatusNotFound
			if there[key] {
				want = http.StatusAccepted
			}
			if got := a.do(t, "DELETE", path, nil); got.StatusCode != want {
				t.Fatalf("step %d: deleting %s is answered %v, want %d", step, key, got, want)
			}
			there[key] = false
		default:
			want := http.StatusNotFound
			if there[key] {
				want = http.StatusOK
			}
			method := []string{"GET", "HEAD"}[random.IntN(2)]
			if got := a.do(t, method, path, nil, "Accept", typeManifest); got.StatusCode != want {
				t.Fatalf("step %d: %s %s is answered %v, want %d", step, method, key, got, want)
			}
		}
	}
}
