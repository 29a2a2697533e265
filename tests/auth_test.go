package tests

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// The other ways to say who calls.

func TestWithPassthroughTheClientsLoginGoesUpstream(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	r := startRig(t, rec.URL, func(r *rig) { r.config.Auth = "passthrough" })
	r.api().want(t, http.StatusUnauthorized, "GET", "/v2/", nil)
	bob := api{url: r.URL, user: parts.Bob()}
	digest := pushSmall(t, bob, upstreamName+"/bob/app")
	wantEqual(t, "the upstream's digest", upstreamAPI(reg).pull(t, "bob/app", "1"), digest)
	for _, q := range rec.reset() {
		if q.Authorized && q.User != "bob" {
			t.Errorf("Bob's push went upstream as %q: %s", q.User, q)
		}
	}
	// A wrong password is the upstream's to refuse, and has nothing of Bob's.
	wrong := api{url: r.URL, user: parts.User{Name: "bob", Password: "wrong"}}
	blob := digestOf([]byte("hello from " + t.Name()))
	if got := wrong.do(t, "GET", "/v2/"+upstreamName+"/bob/app/blobs/"+blob, nil); got.StatusCode/100 == 2 {
		t.Errorf("with a wrong password Bob's blob is answered %v", got.Status)
	}
	if got, pushed := tryPush(t, wrong, upstreamName+"/bob/app"); pushed || got.StatusCode != http.StatusForbidden {
		t.Errorf("with a wrong password: %v", got)
	}
	if got := bob.do(t, "GET", "/v2/elsewhere.test/app/tags/list", nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("a registry that is not configured is answered %v", got)
	}
}

func TestAccountsOfAFileArePrincipals(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	r := startRig(t, rec.URL, func(r *rig) {
		r.config.Auth = "htpasswd"
		// Ann's password is "alice's word", Eve's "bob's word".
		r.config.Htpasswd = writeFile(t, filepath.Join(r.home, "htpasswd"), "ann:"+parts.Alice().Hash()+"\neve:"+parts.Bob().Hash()+"\n", 0o600)
		r.config.Principals = []parts.Principal{{Name: "ann", Credentials: &parts.Credentials{
			DockerConfig: writeFile(t, filepath.Join(r.home, "ann", "config.json"), dockerConfig(upstreamName, parts.Alice()), 0o600),
		}}}
	})
	r.api().want(t, http.StatusUnauthorized, "GET", "/v2/", nil)
	ann := api{url: r.URL, user: parts.User{Name: "ann", Password: parts.Alice().Password}}
	pushSmall(t, ann, upstreamName+"/acme/app")
	rec.reset()
	// Eve has no credential of her own, so she gets none.
	eve := api{url: r.URL, user: parts.User{Name: "eve", Password: parts.Bob().Password}}
	if _, pushed := tryPush(t, eve, upstreamName+"/acme/eve"); pushed {
		t.Error("Eve pushes with somebody's credential")
	}
	for _, q := range rec.reset() {
		if q.Authorized {
			t.Errorf("Eve's request carries a credential: %s", q)
		}
	}
	for _, user := range []parts.User{{Name: "ann", Password: parts.Bob().Password}, {Name: "local", Password: parts.Alice().Password}} {
		api{url: r.URL, user: user}.want(t, http.StatusUnauthorized, "GET", "/v2/", nil)
	}
}

func TestATokenForOneRepository(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	pushSmall(t, p.api(), upstreamName+"/acme/secret")
	secret := digestOf([]byte("hello from " + t.Name()))
	token := p.newToken(t, "ci", "--upstream", upstreamName, "--repository", "acme/app", "--verb", "push", "--verb", "pull", "--expires", "1h")
	ci := api{url: p.URL, user: parts.User{Name: "ci", Password: token}}
	pushed := artifactOf(t, ci.pushBlob(t, upstreamName+"/acme/app", []byte("{}")))
	ci.pushManifest(t, upstreamName+"/acme/app", "1", pushed)
	for _, c := range []struct{ method, path string }{
		{"GET", "/acme/secret/tags/list"}, {"GET", "/acme/secret/blobs/" + secret}, {"POST", "/acme/secret/blobs/uploads/"}, {"PUT", "/acme/secret/manifests/1"},
		{"DELETE", "/acme/app/manifests/1"}, {"DELETE", "/acme/app/blobs/" + secret}, {"GET", "/acme/app2/tags/list"},
	} {
		if got := ci.do(t, c.method, "/v2/"+upstreamName+c.path, []byte("{}")); got.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s is answered %v", c.method, c.path, got)
		}
	}
	p.rec.reset()
	got := ci.want(t, http.StatusAccepted, "POST", "/v2/"+upstreamName+"/acme/app/blobs/uploads/?mount="+secret+"&from="+upstreamName+"/acme/secret", nil)
	if got.Header.Get("Docker-Content-Digest") != "" || strings.Contains(p.rec.reset().String(), "secret") {
		t.Error("the token mounts from another repository")
	}
	if got := ci.do(t, "GET", "/v2/"+upstreamName+"/acme/app/blobs/"+secret, nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("another repository's blob is answered %v", got.Status)
	}
}

// Principals, routes, methods and references are combined; what no scope allows is refused before anything happens.
func TestS5TheMatrixOfWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	full := p.api()
	const mine, others = upstreamName + "/acme/app", upstreamName + "/acme/secret"
	manifest := pushSmall(t, full, mine)
	pushSmall(t, full, others)
	blob := digestOf([]byte("hello from " + t.Name()))
	m := full.want(t, http.StatusOK, "GET", "/v2/"+mine+"/manifests/1", nil, "Accept", typeManifest).body
	who := map[string][]string{
		"nobody":              nil,
		"one who may pull":    {"--repository", "acme/app", "--verb", "pull"},
		"one who may push":    {"--repository", "acme/app", "--verb", "push"},
		"one who may delete":  {"--repository", "acme/app", "--verb", "delete"},
		"one of elsewhere":    {"--upstream", "elsewhere.test"},
		"one of another name": {"--repository", "acme/ap*x", "--verb", "pull", "--verb", "push", "--verb", "delete"},
	}
	verbs := map[string]string{"GET": "pull", "HEAD": "pull", "POST": "push", "PATCH": "push", "PUT": "push", "DELETE": "delete"}
	asked, fine := 0, 0
	for name, scope := range who {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		client := api{url: p.URL, user: parts.User{Name: "x", Password: "pp_none"}, client: &http.Client{Timeout: time.Minute, Transport: transport}}
		if scope != nil {
			client.user.Password = p.newToken(t, append([]string{strings.ReplaceAll(name, " ", "-")}, scope...)...)
		}
		for _, repo := range []string{mine, others, upstreamName + "/acme/apps"} {
			p.rec.reset()
			for _, path := range []string{
				"/blobs/" + blob, "/manifests/1", "/manifests/" + manifest, "/manifests/new", "/tags/list", "/referrers/" + manifest, "/blobs/uploads/", "/blobs/uploads/?digest=" + blob,
				"/blobs/uploads/?mount=" + blob, "/blobs/uploads/?mount=" + blob + "&from=" + others, "/blobs/uploads/0123456789abcdef0123456789abcdef", "/_catalog", "/",
			} {
				for _, method := range []string{"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "PROPFIND"} {
					verb := verbs[method]
					if strings.Contains(path, "/uploads/") {
						verb = "push" // whatever is done to an upload
					}
					allowed := repo == mine && slices.Contains(scope, verb) && slices.Contains(scope, "acme/app")
					got := client.do(t, method, "/v2/"+repo+path, m, "Content-Type", typeManifest)
					asked++
					switch {
					case allowed && got.StatusCode/100 == 2:
						fine++
					case got.StatusCode/100 == 2:
						t.Errorf("%s: %s %s%s is answered %s", name, method, repo, path, got.Status)
					case scope == nil && got.StatusCode != http.StatusUnauthorized && got.StatusCode != http.StatusTooManyRequests:
						t.Errorf("%s: %s %s%s is answered %s", name, method, repo, path, got.Status)
					}
				}
			}
			if got := p.rec.reset(); repo != mine && len(got) > 0 {
				t.Errorf("%s: about %s the upstream was asked\n%s", name, repo, got)
			}
		}
		// What was deleted is put back for the next.
		pushSmall(t, full, mine)
	}
	if asked < 1500 || fine < 10 {
		t.Errorf("%d requests, of which %d were allowed: little was shown", asked, fine)
	}
}
