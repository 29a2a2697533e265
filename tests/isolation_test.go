package tests

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"pushproxy/tests/parts"
)

// What one principal can learn of another's images: nothing.

// tenants is pushproxy with principals that have tokens and accounts of their own.
type tenants struct {
	traced
	clients map[string]api // by principal
}

// startTenants runs pushproxy with a principal of each name. Each logs in upstream with the account of that name, which
// the upstream takes for Alice's (the first) or Bob's.
func startTenants(t *testing.T, names []string, accounts ...parts.User) tenants {
	t.Helper()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	rec.setRule(func(_ http.ResponseWriter, r *http.Request) bool {
		name, password, _ := r.BasicAuth()
		for i, a := range accounts {
			if name == a.Name && password == a.Password {
				account := []parts.User{parts.Alice(), parts.Bob()}[i]
				r.SetBasicAuth(account.Name, account.Password)
			}
		}
		return false
	})
	s := tenants{traced{nil, rec, reg}, map[string]api{}}
	s.rig = startRig(t, rec.URL, func(r *rig) {
		r.config.Auth = "token"
		for i, name := range names {
			r.config.Principals = append(r.config.Principals, parts.Principal{Name: name, Credentials: &parts.Credentials{
				DockerConfig: writeFile(t, filepath.Join(r.home, name, "config.json"), dockerConfig(upstreamName, accounts[i]), 0o600),
			}})
		}
	})
	for _, name := range names {
		s.clients[name] = api{url: s.URL, user: parts.User{Name: "x", Password: s.newToken(t, name, "--principal", name)}}
	}
	return s
}

// newToken makes a token by command and returns it.
func (r *rig) newToken(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := r.run(t, append([]string{"token", "create"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	return strings.TrimSpace(out)
}

func TestS20TwoPrincipalsWithTheSameUserNameUpstream(t *testing.T) {
	t.Parallel()
	s := startTenants(t, []string{"ann", "bob"}, parts.User{Name: "AWS", Password: "ann's"}, parts.User{Name: "AWS", Password: "bob's"})
	content := randomBytes(60, 300_000)
	push := func(name, repo string) {
		a := s.clients[name]
		layer := a.pushBlob(t, repo, content)
		a.pushManifest(t, repo, "v1", artifactOf(t, a.pushBlob(t, repo, []byte("{}")), layer))
	}
	push("ann", upstreamName+"/ann/secret")
	s.rec.reset()
	push("bob", upstreamName+"/bob/app")
	push("bob", upstreamName+"/bob/second")
	got := s.rec.reset()
	if strings.Contains(got.String(), "ann") {
		t.Errorf("Bob's pushes name Ann's repository:\n%s", got)
	}
	if len(got.mounts()) == 0 {
		t.Error("Bob's second push was not mounted from his first, so nothing was shown")
	}
	// Neither sees the other's account; both keep their own.
	s.rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
		_, password, ok := r.BasicAuth()
		if ok && password != "bob's" {
			t.Errorf("Bob's request carries the password %q", password)
		}
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	s.clients["bob"].do(t, "GET", "/v2/"+upstreamName+"/ann/secret/tags/list", nil)
}

// upload ids and dates differ from answer to answer.
var (
	otherNumber = regexp.MustCompile(`other[0-9]+`)
	uploadIDs   = regexp.MustCompile(`[0-9a-f]{32}\b`)
	anyDigest   = regexp.MustCompile(`sha256(:|%3A)[0-9a-f]{64}`)
)

func TestS19ADigestOfAnothersIsLikeOneThatNobodyHas(t *testing.T) {
	t.Parallel()
	s := startTenants(t, []string{"ann", "bob"}, parts.Alice(), parts.Bob())
	repo := upstreamName + "/ann/secret"
	manifest := pushSmall(t, s.clients["ann"], repo)
	blob := digestOf([]byte("hello from " + t.Name()))
	mine, asked := "/v2/"+upstreamName+"/bob/app", 0
	// How the upstream wants to be logged in to, and whether the repository is there, is learned once.
	s.clients["bob"].do(t, "HEAD", mine+"/blobs/"+digestOf([]byte("the first")), nil)
	for _, c := range []struct{ method, path string }{
		{"HEAD", "/blobs/DIGEST"}, {"GET", "/blobs/DIGEST"}, {"RANGE", "/blobs/DIGEST"}, {"HEAD", "/manifests/DIGEST"}, {"GET", "/manifests/DIGEST"},
		{"POST", "/blobs/uploads/?mount=DIGEST"}, {"POST", "/blobs/uploads/?mount=DIGEST&from=" + upstreamName + "/bob/OTHER"},
		{"GET", "/referrers/DIGEST"}, {"PUT", "/manifests/v1"}, {"DELETE", "/blobs/DIGEST"}, {"DELETE", "/manifests/DIGEST"},
	} {
		answered := func(digest string) string {
			s.rec.reset()
			// A source that refused a mount is not asked again for a while.
			asked++
			path := strings.NewReplacer("DIGEST", digest, "OTHER", fmt.Sprint("other", asked)).Replace(c.path)
			var body []byte
			var header []string
			method := c.method
			if method == "RANGE" {
				method, header = "GET", []string{"Range", "bytes=0-3"}
			}
			if method == "PUT" {
				d := desc{MediaType: "application/octet-stream", Digest: digest, Size: int64(len("hello from " + t.Name()))}
				body, header = artifactOf(t, d), []string{"Content-Type", typeManifest}
			}
			got := s.clients["bob"].do(t, method, mine+path, body, header...)
			h := got.Header.Clone()
			h.Del("Date")
			upstream := s.rec.reset().where(func(q seen) bool { return q.Method != "DELETE" || !uploadPath.MatchString(q.Path) })
			text := fmt.Sprintf("%d %v\n%s\n%s", got.StatusCode, h, got.body, upstream)
			return uploadIDs.ReplaceAllString(anyDigest.ReplaceAllString(otherNumber.ReplaceAllString(text, "other"), "DIGEST"), "ID")
		}
		for _, theirs := range []string{blob, manifest} {
			random := digestOf([]byte(fmt.Sprint("nobody has this ", asked)))
			if a, b := answered(theirs), answered(random); a != b {
				t.Errorf("%s %s of Ann's digest:\n%s\nof one that nobody has:\n%s", c.method, c.path, a, b)
			}
		}
	}
}

func TestS21TheSecretCanBeReplacedDuringPushes(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	pushSmall(t, p.api(), upstreamName+"/acme/before")
	stop := make(chan struct{})
	var pushing sync.WaitGroup
	for i := range 2 {
		pushing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if got, pushed := tryPush(t, p.api(), fmt.Sprintf("%s/acme/load%d-%d", upstreamName, i, n%5)); !pushed {
					t.Errorf("a push failed: %v", got)
					return
				}
			}
		})
	}
	for n := range 2 {
		if _, errs, err := p.run(t, "secret", "rotate"); err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		poll(t, "the new secret to be taken over", func() bool { return strings.Count(p.Output(), "has a new secret") == n+1 })
	}
	close(stop)
	pushing.Wait()
	// What was learned before is forgotten, and learned anew.
	content := randomBytes(61, 300_000)
	push := func(repo string) requests {
		p.rec.reset()
		p.api().pushManifest(t, repo, "v1", artifactOf(t, p.api().pushBlob(t, repo, []byte("{}")), p.api().pushBlob(t, repo, content)))
		return p.rec.reset()
	}
	push(upstreamName + "/acme/one")
	if got := push(upstreamName + "/acme/two"); len(got.mounts()) == 0 {
		t.Errorf("after a push with the new secret nothing is mounted:\n%s", got)
	}
}

// A queued push is known by who pushed it, under the installation's secret. When that is replaced, the push goes on as soon
// as its credential was seen to be the same, and waits for a person where it is not.
func TestS21QueuedPushesSurviveANewSecret(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		stopped, same bool
	}{
		{"while it runs", false, true}, {"while it is stopped", true, true}, {"with another password", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := startTraced(t)
			p.rec.setRule(func(w http.ResponseWriter, r *http.Request) bool {
				down := r.Method == "PUT" && strings.Contains(r.URL.Path, "/manifests/")
				if down {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return down
			})
			a := p.api()
			m := artifactOf(t, a.pushBlob(t, killRepo, []byte("{}")), a.pushBlob(t, killRepo, []byte(t.Name())))
			a.want(t, http.StatusCreated, "PUT", "/v2/"+killRepo+"/manifests/v1", m, "Content-Type", typeManifest, "Pushproxy-Mode", "async")
			poll(t, "an attempt", func() bool { return len(p.rec.requests().manifestPuts()) > 0 })
			if c.stopped {
				p.Stop()
			}
			if !c.same {
				writeFile(t, p.config.Credentials.DockerConfig, dockerConfig(upstreamName, parts.User{Name: "alice", Password: "another"}), 0o600)
			}
			before := readFile(t, filepath.Join(p.config.DataDir, "secret"))
			for range 2 { // the second time nothing but the newest counts, and the first is the one that is needed
				if _, errs, err := p.run(t, "secret", "rotate"); err != nil {
					t.Fatalf("%v: %s", err, errs)
				}
			}
			if c.stopped {
				p.start(t)
			} else {
				poll(t, "the new secret to be taken over", func() bool { return strings.Contains(p.Output(), "has a new secret") })
			}
			p.rec.setRule(nil)
			queued := func() string {
				out, errs, err := p.run(t, "queue", "ls")
				if err != nil {
					t.Fatal(errs)
				}
				return out
			}
			if !c.same {
				poll(t, "the job to wait for a person", func() bool { return strings.Contains(queued(), "needs-auth") })
				if got, err := upstreamAPI(p.reg).tryPull("acme/app", "v1"); err == nil {
					t.Errorf("it was sent with another identity: %s", got)
				}
				return
			}
			poll(t, "the job to be sent", func() bool {
				_, err := upstreamAPI(p.reg).tryPull("acme/app", "v1")
				return err == nil
			})
			for _, l := range p.auditLines(t, "not sent") {
				t.Errorf("it waited for a person: %v", l)
			}
			poll(t, "the old secret to be forgotten", func() bool {
				_, err := os.Stat(filepath.Join(p.config.DataDir, "secret.old"))
				return os.IsNotExist(err)
			})
			if after := readFile(t, filepath.Join(p.config.DataDir, "secret")); after == before {
				t.Error("the secret is the same")
			}
		})
	}
}
