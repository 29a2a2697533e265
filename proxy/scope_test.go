package proxy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

func TestPatternsOfRepositories(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"acme/app", "acme/app", true}, {"acme/app", "acme/app2", false}, {"acme/app", "x/acme/app", false}, {"acme/app", "acme/app/x", false},
		{"acme/*", "acme/app", true}, {"acme/*", "acme/a/b", false}, {"acme/*", "acme", false}, {"*/app", "acme/app", true},
		{"acme/**", "acme/a/b", true}, {"acme/**", "acmes/a", false}, {"**", "a/b/c", true}, {"**/app", "a/b/app", true}, {"**/app", "a/b/apps", false},
		{"acme/a*p", "acme/app", true}, {"acme/a*p", "acme/apple", false}, {"acme/*p*e", "acme/apple", true}, {"a*a", "a", false}, {"a*b*c", "abc", true}, {"a*b*c", "acb", false},
	} {
		s := Scope{Repositories: []string{c.pattern}}
		if got := s.allows(VerbPull, oci.Repo{Host: "a.test", Name: c.name}); got != c.want {
			t.Errorf("%s allows %s: %v", c.pattern, c.name, got)
		}
	}
}

func TestAScopeThatCannotMatchIsRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []Scope{
		{Upstreams: []string{"https://a.test"}}, {Upstreams: []string{"A.test"}}, {Upstreams: []string{"registry-1.docker.io"}}, {Upstreams: []string{""}},
		{Repositories: []string{"Acme"}}, {Repositories: []string{""}}, {Repositories: []string{"/acme"}}, {Repositories: []string{"acme:v1"}},
		{Verbs: []Verb{"write"}}, {Verbs: []Verb{""}},
	} {
		if err := s.Validate(); err == nil {
			t.Errorf("%+v is taken", s)
		}
	}
	fine := Scope{Upstreams: []string{"a.test:5000", "docker.io"}, Repositories: []string{"acme/*", "**", "a/b-*"}, Verbs: []Verb{VerbPull, VerbPush, VerbDelete}}
	if err := fine.Validate(); err != nil {
		t.Error(err)
	}
}

// requestOf is one request of each kind, below a repository's path.
func requestOf(kind oci.Kind, d digest.Digest) (method, path string) {
	switch kind {
	case oci.KindBlobGet:
		return "GET", "/blobs/" + d.String()
	case oci.KindBlobHead:
		return "HEAD", "/blobs/" + d.String()
	case oci.KindBlobDelete:
		return "DELETE", "/blobs/" + d.String()
	case oci.KindManifestGet:
		return "GET", "/manifests/v1"
	case oci.KindManifestHead:
		return "HEAD", "/manifests/" + d.String()
	case oci.KindManifestPut:
		return "PUT", "/manifests/v1"
	case oci.KindManifestDelete:
		return "DELETE", "/manifests/" + d.String()
	case oci.KindTags:
		return "GET", "/tags/list"
	case oci.KindReferrers:
		return "GET", "/referrers/" + d.String()
	case oci.KindMount:
		return "POST", "/blobs/uploads/?mount=" + d.String() + "&from=registry.test/acme/app"
	case oci.KindUploadStart:
		return "POST", "/blobs/uploads/"
	case oci.KindUploadWhole:
		return "POST", "/blobs/uploads/?digest=" + d.String()
	case oci.KindUploadChunk:
		return "PATCH", "/blobs/uploads/" + strings.Repeat("0", 32)
	case oci.KindUploadFinish:
		return "PUT", "/blobs/uploads/" + strings.Repeat("0", 32) + "?digest=" + d.String()
	case oci.KindUploadStatus:
		return "GET", "/blobs/uploads/" + strings.Repeat("0", 32)
	case oci.KindUploadCancel:
		return "DELETE", "/blobs/uploads/" + strings.Repeat("0", 32)
	}
	return "", ""
}

func TestEveryKindOfRequestNeedsAVerb(t *testing.T) {
	t.Parallel()
	for kind := range handlers {
		if _, known := verbs[kind]; !known && kind != oci.KindPing {
			t.Errorf("kind %d has a handler and no verb", kind)
		}
	}
	// A kind that nobody thought of is refused, whoever asks.
	if err := authorize(Caller{Principal: Local}, oci.Kind(999), oci.Repo{Host: "a.test", Name: "b"}); err == nil {
		t.Error("an unknown kind is allowed")
	}
	if err := authorize(Caller{}, oci.KindPing, oci.Repo{}); err == nil {
		t.Error("nobody may ping")
	}
	if err := authorize(Caller{}, oci.KindTags, oci.Repo{Host: "a.test", Name: "b"}); err == nil {
		t.Error("nobody may pull")
	}
}

// TestS5TheMatrix sends a request of every kind, as every sort of caller, to
// repositories inside and outside of what each may reach.
func TestS5TheMatrix(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := tokensIn(t)
	r.door.Principals = &Principals{Auth: AuthAuto, Tokens: store, UID: 1000, lookup: processOf(1001, nil), Allow: map[string]Scope{"reader": {Verbs: []Verb{VerbPull}}}}
	type who struct {
		name  string
		auth  string
		verbs []Verb
		repos []string // that it may reach
	}
	all, every := []Verb{VerbPull, VerbPush, VerbDelete}, []string{app, "/v2/registry.test/other/app", "/v2/corp/acme/app"}
	callers := []who{{"nobody", "", nil, nil}, {"a wrong token", basic("x", tokenPrefix+"no"), nil, nil}, {"a password", basic("local", "local"), nil, nil}}
	add := func(name, principal string, scope Scope, verbs []Verb, repos []string) {
		_, secret, err := store.Create(name, principal, 0, scope)
		if err != nil {
			t.Fatal(err)
		}
		callers = append(callers, who{name, basic("x", secret.Reveal()), verbs, repos})
	}
	add("whole", Local, Scope{}, all, every)
	for _, v := range all {
		add("only-"+string(v), Local, Scope{Verbs: []Verb{v}}, []Verb{v}, every)
	}
	add("one-repository", Local, Scope{Upstreams: []string{"registry.test"}, Repositories: []string{"acme/*"}}, all, every[:1])
	add("one-upstream", Local, Scope{Upstreams: []string{"corp.test"}}, all, every[2:])
	add("prefixed", Local, Scope{Repositories: []string{"team/acme/app"}}, all, every[2:])
	add("reader", "reader", Scope{}, all[:1], every)
	add("reader-push", "reader", Scope{Verbs: []Verb{VerbPush}}, nil, nil)
	_, gone, err := store.Create("gone", Local, 0, Scope{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Revoke("gone"); err != nil {
		t.Fatal(err)
	}
	callers = append(callers, who{"revoked", basic("x", gone.Reveal()), nil, nil})
	d := digest.FromString("matrix")
	// What is allowed goes on behind its answer, so what is not comes first.
	for _, phase := range []bool{false, true} {
		for _, caller := range callers {
			for _, repo := range every {
				for _, kind := range slices.Sorted(maps.Keys(handlers)) {
					known := caller.verbs != nil || caller.name == "reader-push"
					allowed := slices.Contains(caller.verbs, verbs[kind]) && slices.Contains(caller.repos, repo) || kind == oci.KindPing && known
					if allowed == phase {
						r.checkAllowed(caller.name, caller.auth, repo, kind, d, allowed, known)
					}
				}
			}
		}
		if seen := append(r.up.Requests(), r.other.Requests()...); len(seen) > 0 != phase {
			t.Errorf("after what is allowed: %v, the upstreams saw %d requests: %q", phase, len(seen), seen[:min(len(seen), 5)])
		}
	}
}

// checkAllowed sends one request and compares whether it is refused as not
// allowed; known callers are told so by 403, others by 401.
func (r *rig) checkAllowed(name, auth, repo string, kind oci.Kind, d digest.Digest, allowed, known bool) {
	r.t.Helper()
	method, path := requestOf(kind, d)
	if kind == oci.KindPing {
		method, repo, path = "GET", "/v2/", ""
	}
	var headers []string
	if auth != "" {
		headers = []string{auth}
	}
	got, err := r.try(method, repo+path, bytes.NewReader([]byte("matrix")), headers...)
	if err != nil {
		r.t.Fatalf("%s: %s %s: %v", name, method, repo+path, err)
	}
	what := fmt.Sprintf("%s: %s %s is answered %d", name, method, repo+path, got.status)
	want := map[bool]int{true: 403, false: 401}[known]
	if known && allowed && (got.status == 401 || got.status == 403) {
		r.t.Error(what)
	}
	if !allowed && got.status != want && !(want == 401 && got.status == 429) {
		r.t.Error(what)
	}
	if got.status == 401 && got.header.Get("WWW-Authenticate") != `Basic realm="pushproxy"` {
		r.t.Error(what, "without a challenge")
	}
}

// What each kind of request needs is written down a second time: a verb that is mistaken for another lets somebody do more
// than they may.
func TestS5EachKindNeedsExactlyThisVerb(t *testing.T) {
	t.Parallel()
	want := map[Verb][]oci.Kind{
		VerbPull:   {oci.KindBlobGet, oci.KindBlobHead, oci.KindManifestGet, oci.KindManifestHead, oci.KindTags, oci.KindReferrers},
		VerbPush:   {oci.KindUploadStart, oci.KindUploadWhole, oci.KindUploadChunk, oci.KindUploadFinish, oci.KindUploadStatus, oci.KindUploadCancel, oci.KindMount, oci.KindManifestPut},
		VerbDelete: {oci.KindManifestDelete, oci.KindBlobDelete},
	}
	repo, total := oci.Repo{Host: "registry.test", Name: "acme/app"}, 0
	for verb, kinds := range want {
		for _, kind := range kinds {
			total++
			for _, other := range []Verb{VerbPull, VerbPush, VerbDelete} {
				caller := Caller{Principal: "eve", Scopes: []Scope{{Verbs: []Verb{other}}}}
				if denied := authorize(caller, kind, repo); (denied == nil) != (other == verb) {
					t.Errorf("kind %v with the verb %s: %v", kind, other, denied)
				}
			}
		}
	}
	if total != len(verbs) {
		t.Errorf("%d kinds are looked at, and there are %d", total, len(verbs))
	}
}
