package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// people puts tokens of several principals before the door, and returns each
// one's header.
func people(t *testing.T, r *rig, names ...string) (headers []string) {
	t.Helper()
	store := tokensIn(t)
	r.door.Principals = &Principals{Auth: AuthToken, Tokens: store, lookup: processOf(0, errPeer)}
	for _, name := range names {
		principal, scope := name, Scope{}
		if repo, ok := strings.CutPrefix(name, "only "); ok {
			principal, scope = Local, Scope{Repositories: []string{repo}}
		}
		_, secret, err := store.Create(fmt.Sprintf("t%d", len(headers)), principal, 0, scope)
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, basic("x", secret.Reveal()))
	}
	return headers
}

// pushAs pushes a blob as one principal.
func (r *rig) pushAs(header, name string, blob []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(blob)
	at := r.want(202, "POST", name+"/blobs/uploads/", nil, header).header.Get("Location")
	r.want(201, "PUT", at+"?digest="+d.String(), blob, header)
	return d
}

// uploadNumber is how the fake upstream numbers its uploads.
var uploadNumber = regexp.MustCompile(`uploads/u[0-9]+`)

// seenAs is an answer and what it made the upstream see, in words that do not
// depend on which digest was asked for.
func (r *rig) seenAs(header, method, path string, body []byte, d digest.Digest, more ...string) string {
	r.t.Helper()
	before := len(r.up.Requests())
	got, err := r.try(method, path, bytes.NewReader(body), append(more, header)...)
	if err != nil {
		r.t.Fatal(err)
	}
	h := got.header.Clone()
	h.Del("Date")
	for _, name := range []string{"Location", "Docker-Upload-Uuid"} {
		if h.Get(name) != "" {
			h.Set(name, "an upload")
		}
	}
	// A session that a refused mount opened is cancelled behind the answer.
	upstream := slices.DeleteFunc(r.up.Requests()[before:], func(line string) bool {
		return strings.HasPrefix(line, "DELETE ") && strings.Contains(line, "/uploads/")
	})
	text := fmt.Sprintf("%d %v %q upstream %q", got.status, h, got.body, upstream)
	return uploadNumber.ReplaceAllString(strings.NewReplacer(d.String(), "DIGEST", d.Encoded(), "DIGEST").Replace(text), "uploads/N")
}

func TestS19AnothersDigestIsAsIfNobodyHadIt(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"bob", "only team/**"} {
		t.Run(second, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			who := people(t, r, "alice", second)
			secret := blobOf(70_000)
			d := r.pushAs(who[0], app, secret)
			r.want(201, "PUT", app+"/manifests/v1", image(secret), ociType, who[0])
			r.want(200, "HEAD", app+"/blobs/"+d.String(), nil, who[0])
			random := digest.FromString("nobody has this")
			const team = "/v2/registry.test/team/b"
			// Whether the repository is there is asked once.
			r.want(404, "HEAD", team+"/blobs/"+digest.FromString("the first").String(), nil, who[1])
			for _, c := range []struct{ name, method, path string }{
				{"HEAD", "HEAD", "/blobs/DIGEST"},
				{"GET", "GET", "/blobs/DIGEST"},
				{"range", "GET", "/blobs/DIGEST"},
				{"mount", "POST", "/blobs/uploads/?mount=DIGEST"},
				{"mount from there", "POST", "/blobs/uploads/?mount=DIGEST&from=registry.test/team/other"},
				{"manifest by digest", "GET", "/manifests/DIGEST"},
				{"referrers", "GET", "/referrers/DIGEST"},
				{"finish again", "PUT", "/blobs/uploads/" + strings.Repeat("0", 32) + "?digest=DIGEST"},
				{"manifest that names it", "PUT", "/manifests/v1"},
				{"delete", "DELETE", "/blobs/DIGEST"},
			} {
				ask := func(d digest.Digest) string {
					var body []byte
					more := []string{}
					if c.method == "PUT" && strings.Contains(c.path, "manifests") {
						body = []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":%q,"size":70000},"layers":[]}`, d))
						more = []string{ociType}
					}
					if c.name == "range" {
						more = []string{"Range: bytes=0-9"}
					}
					return r.seenAs(who[1], c.method, team+strings.ReplaceAll(c.path, "DIGEST", d.String()), body, d, more...)
				}
				if theirs, none := ask(d), ask(random); theirs != none {
					t.Errorf("%s of another's digest:\n%s\nof one that nobody has:\n%s", c.name, theirs, none)
				}
			}
			if _, ok := r.up.Blob("team/b", d); ok {
				t.Error("another's bytes went to the second repository")
			}
		})
	}
}

// A restricted token acts with its maker's credential, so its maker's other
// repositories must not be reached by way of a mount.
func TestARestrictedTokenMountsFromNowhereElse(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	who := people(t, r, "local", "only team/**")
	d := r.pushAs(who[0], app, []byte("a secret of acme"))
	r.want(201, "PUT", app+"/manifests/v1", image([]byte("a secret of acme")), ociType, who[0])
	got := r.want(202, "POST", "/v2/registry.test/team/b/blobs/uploads/?mount="+d.String()+"&from=registry.test/acme/app", nil, who[1])
	if got.header.Get("Docker-Content-Digest") != "" {
		t.Error("the mount succeeded")
	}
	for _, q := range r.up.Log() {
		if strings.Contains(q.Path, "team/b") && q.Query.Get("from") != "" {
			t.Errorf("the upstream was asked for a mount: %s", q)
		}
	}
}

func TestAnUploadIsItsBeginnersAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	who := people(t, r, "alice", "bob", "only acme/**")
	at := r.want(202, "POST", app+"/blobs/uploads/", nil, who[0]).header.Get("Location")
	for _, other := range who[1:] {
		for _, method := range []string{"GET", "PATCH", "DELETE", "PUT"} {
			path := at
			if method == "PUT" {
				path += "?digest=" + digest.FromString("x").String()
			}
			r.want(404, method, path, []byte("x"), other)
		}
	}
	r.want(204, "GET", at, nil, who[0])
}

// oneOfTwo tells how well the times of two series can be told apart: 0.5 is not
// at all, 0 or 1 always.
func oneOfTwo(a, b []time.Duration) float64 {
	sort.Slice(b, func(i, j int) bool { return b[i] < b[j] })
	var sum float64
	for _, x := range a {
		less := sort.Search(len(b), func(i int) bool { return b[i] >= x })
		more := sort.Search(len(b), func(i int) bool { return b[i] > x })
		sum += float64(less) + float64(more-less)/2
	}
	return sum / float64(len(a)*len(b))
}

// TestS19TheTimeTellsNothing compares 5,000 looks at another's digest with as many
// at digests that nobody has. It is tried three times, since a busy machine makes
// noise.
func TestS19TheTimeTellsNothing(t *testing.T) {
	r := newRig(t)
	who := people(t, r, "alice", "bob")
	// As many of each, and each asked as often: what was absent is remembered.
	var hers, nobodys []digest.Digest
	for i := range 50 {
		hers = append(hers, r.pushAs(who[0], app, blobOf(1000+i)))
		nobodys = append(nobodys, digest.FromString(fmt.Sprint("nobody's ", i)))
	}
	took := func(d digest.Digest) time.Duration {
		req, err := http.NewRequestWithContext(t.Context(), "HEAD", "http://"+doorHost+"/v2/registry.test/team/b/blobs/"+d.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(who[1], ": ")
		req.Header.Set(name, value)
		began := time.Now()
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		elapsed := time.Since(began)
		if _ = resp.Body.Close(); resp.StatusCode != 404 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		return elapsed
	}
	var areas []float64
	for range 3 {
		var theirs, none []time.Duration
		for i := range 2500 {
			d, random := hers[i%len(hers)], nobodys[i%len(nobodys)]
			if rand.IntN(2) == 0 {
				theirs, none = append(theirs, took(d)), append(none, took(random))
			} else {
				none, theirs = append(none, took(random)), append(theirs, took(d))
			}
		}
		area := oneOfTwo(theirs, none)
		if area >= 0.45 && area <= 0.55 {
			return
		}
		areas = append(areas, area)
	}
	t.Errorf("another's digest can be told by the time: AUC %v", areas)
}

func TestTimesThatDifferAreToldApart(t *testing.T) {
	t.Parallel()
	slow, fast := []time.Duration{3, 4, 5}, []time.Duration{1, 2, 3}
	if a := oneOfTwo(slow, slices.Clone(fast)); a < 0.9 {
		t.Errorf("AUC %v", a)
	}
	if a := oneOfTwo(slow, slices.Clone(slow)); a != 0.5 {
		t.Errorf("AUC %v of the same", a)
	}
}
