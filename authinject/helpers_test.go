//go:build unix

package authinject

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pushproxy/oci"
)

func TestAnswersOfHelpersAreCachedForFourFifthsOfTheirLife(t *testing.T) {
	t.Parallel()
	dir, h, moved := newHelpers(t)
	dir.write(t, "x", answerBob)
	dir.write(t, "none", "echo credentials not found in native keychain; exit 1")
	dir.write(t, "bad", "exit 1")
	for name, life := range map[string]time.Duration{"x": 4 * time.Minute, "none": 30 * time.Second, "bad": failureLife} {
		ask := func() int {
			before := dir.runs(t)
			_, err := h.get(t.Context(), name, []string{"ghcr.io"})
			if (name == "none") != errors.Is(err, ErrNone) {
				t.Errorf("%s: got %v", name, err)
			}
			return dir.runs(t) - before
		}
		*moved = 0
		first := ask()
		*moved = life - 1
		second := ask()
		*moved = life
		if third := ask(); first != 1 || second != 0 || third != 1 {
			t.Errorf("%s: ran %d, %d and %d times at first, before and after %v; want 1, 0, 1", name, first, second, third, life)
		}
	}
}

func TestS15ManyCallersShareOneRunAndFewRunAtATime(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	lock := string(dir) + "/slot"
	// A fifth helper at a time finds no free slot and fails.
	dir.write(t, "x", `for i in 1 2 3 4; do if mkdir '`+lock+`'$i 2>/dev/null; then sleep 0.05; rmdir '`+lock+`'$i; `+answerBob+`; exit 0; fi; done; exit 9`)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if _, err := h.get(t.Context(), "x", []string{fmt.Sprintf("r%d.test", i%12)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := dir.runs(t); got != 12 {
		t.Errorf("%d runs for twelve registries, want 12", got)
	}
}

func TestACallerThatGivesUpDoesNotStopTheRun(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "x", "sleep 0.2; "+answerBob)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.get(ctx, "x", []string{"ghcr.io"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cancellation", err)
	}
	if _, err := h.get(t.Context(), "x", []string{"ghcr.io"}); err != nil || dir.runs(t) != 1 {
		t.Errorf("got %v after %d runs, want the first one's answer", err, dir.runs(t))
	}
}

// withHelpers returns a config that uses the helpers of a directory.
func withHelpers(t *testing.T, h *Helpers, config string) *DockerConfig {
	d := writeConfig(t, config)
	d.Helpers = h
	return d
}

func TestHelpersInTheOrderOfDocker(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	say := func(user string) string { return `echo '{"Username":"` + user + `","Secret":"pw"}'` }
	const none = "echo credentials not found in native keychain; exit 1"
	dir.write(t, "one", say("one"))
	dir.write(t, "store", `read in || :; case "$in" in store.test|plain.test|https://index.docker.io/v1/|path.test/acme) `+say("store")+`;; *) `+none+`;; esac`)
	dir.write(t, "none", none)
	dir.write(t, "empty", `echo '{}'`)
	dir.write(t, "token", say("<token>"))
	dir.write(t, "broken", "exit 1")
	auth := `{"auth":"` + b64("file:pw") + `"}`
	config := `{"credsStore":"store","credHelpers":{"one.test":"one","none.test":"none","empty.test":"empty","token.test":"token","broken.test":"broken","plain.test":"","deep.test":"one"},
		"auths":{"one.test":` + auth + `,"none.test":` + auth + `,"broken.test":` + auth + `,"plain.test":` + auth + `,"file.test":` + auth + `,"store.test":{},"path.test/acme":{},"deep.test/acme":` + auth + `}}`
	d := withHelpers(t, h, config)
	for repo, want := range map[string]string{
		"one.test/a": "one", "none.test/a": "none", "empty.test/a": "none", "token.test/a": "identity", "broken.test/a": "error",
		"plain.test/a": "file", "file.test/a": "file", "store.test/a": "store", "docker.io/library/a": "store", "unknown.test/a": "none",
		"path.test/acme/app": "store", "path.test/other": "none", "deep.test/acme/app": "file", "deep.test/other": "one",
	} {
		c, err := d.Credential(t.Context(), repoOf(t, repo))
		got := c.Username
		switch {
		case errors.Is(err, ErrNone):
			got = "none"
		case err != nil:
			got = "error"
		case c.Identity == "pw" && c.Password == "" && c.Username == "":
			got = "identity"
		}
		if got != want {
			t.Errorf("%s: got %s (%v), want %s", repo, got, err, want)
		}
		if helped := strings.HasPrefix(c.Source, "helper docker-credential-"); helped != c.Minted {
			t.Errorf("%s: source %q and Minted %v", repo, c.Source, c.Minted)
		}
	}
}

func TestS14AFailingStoreIsAnErrorAndNotAFallback(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "store", "exit 1")
	d := withHelpers(t, h, `{"credsStore":"store","auths":{"registry.test":{"auth":"`+b64("bob:"+canary)+`"}}}`)
	second := writeConfig(t, `{"auths":{"registry.test":{"auth":"`+b64("bob:"+canary)+`"}}}`)
	tr, w := newTransport(&registry{basic: true}, Chain{d, second})
	_, err := send(t, tr, "GET", manifest, "")
	if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "docker-credential-store") {
		t.Errorf("got %v, want the helper's failure", err)
	}
	for _, s := range w.requests() {
		if s.auth != "" {
			t.Errorf("Authorization was sent with %s", s.line)
		}
	}
}

func TestHostsOfAStore(t *testing.T) {
	t.Parallel()
	dir, h, moved := newHelpers(t)
	dir.write(t, "store", `case $1 in list) echo '{"https://index.docker.io/v1/":"bob","https://index.docker.io/v1/access-token":"bob","listed.test":"x"}';; *) read in || :; [ "$in" = silent.test ] && `+answerBob+` || { echo credentials not found in native keychain; exit 1; };; esac`)
	d := withHelpers(t, h, `{"credsStore":"store","auths":{"noted.test":{}},"credHelpers":{"helped.test":"y"}}`)
	hosts, err := d.Hosts(t.Context())
	if want := []string{"docker.io", "helped.test", "listed.test", "noted.test"}; err != nil || !slices.Equal(hosts, want) {
		t.Errorf("got %q and %v, want %q", hosts, err, want)
	}
	chain := Chain{envOf(""), d}
	for host, want := range map[string]bool{"docker.io": true, "listed.test": true, "silent.test": true, "unknown.test": false, "LISTED.test.": true, "a@listed.test": false} {
		if got, err := chain.Knows(t.Context(), host); got != want || err != nil {
			t.Errorf("%s: got %v and %v, want %v", host, got, err, want)
		}
	}
	before := dir.runs(t)
	for range 10 {
		if got, err := chain.Knows(t.Context(), "unknown.test"); got || err != nil {
			t.Errorf("got %v and %v", got, err)
		}
	}
	if n := dir.runs(t) - before; n != 0 {
		t.Errorf("asking again ran the helper %d times, want 0", n)
	}
	*moved = 31 * time.Second
	if _, err := chain.Knows(t.Context(), "unknown.test"); err != nil || dir.runs(t) == before {
		t.Errorf("half a minute later the helper was not asked again (%v)", err)
	}
}

func TestARefusedMintedCredentialIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, basic := range map[string]bool{"Basic": true, "Bearer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, h, moved := newHelpers(t)
			secret := filepath.Join(string(dir), "secret")
			mint := func(s string) {
				if err := os.WriteFile(secret, []byte(s), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			mint("first")
			dir.write(t, "ecr", `echo '{"Username":"bob","Secret":"'$(cat '`+secret+`')'"}'`)
			r := &registry{basic: basic, password: "first"}
			tr, _ := newTransport(r, withHelpers(t, h, `{"credHelpers":{"registry.test":"ecr"}}`))
			mustSend(t, tr, 201, "GET", manifest, "")
			// The old secret expires, a new one is minted.
			r.password = "second"
			r.revoke()
			mint("second")
			*moved = time.Minute
			mustSend(t, tr, 201, "PUT", manifest, "{}")
			if got := dir.runs(t); got != 2 {
				t.Errorf("the helper ran %d times, want 2", got)
			}
			// A secret that is just plain wrong does not make it run for each request.
			r.password = "third"
			r.revoke()
			before := dir.runs(t)
			for range 5 {
				if code, err := send(t, tr, "PUT", manifest, "{}"); code != 401 && !errors.Is(err, oci.ErrDenied) {
					t.Errorf("got %d and %v, want a refusal", code, err)
				}
			}
			if got := dir.runs(t) - before; got > 1 {
				t.Errorf("the helper ran %d times for five refusals, want at most once", got)
			}
		})
	}
}

func TestAHelperIsAskedAgainWhenATokenIsRefused(t *testing.T) {
	t.Parallel()
	dir, h, moved := newHelpers(t)
	secret := filepath.Join(string(dir), "secret")
	accepted := "first"
	// The token server takes either account; the registry only one of them.
	tr, _ := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		_, password, _ := req.BasicAuth()
		switch {
		case req.URL.Path == "/token":
			_, _ = fmt.Fprintf(rw, `{"token":"of-%s"}`, password)
		case req.Header.Get("Authorization") != "Bearer of-"+accepted:
			(&registry{}).ServeHTTP(rw, req)
		}
	}), withHelpers(t, h, `{"credHelpers":{"registry.test":"x"}}`))
	dir.write(t, "x", `echo '{"Username":"bob","Secret":"'$(cat '`+secret+`')'"}'`)
	for _, accepted = range []string{"first", "second"} {
		if err := os.WriteFile(secret, []byte(accepted), 0o600); err != nil {
			t.Fatal(err)
		}
		mustSend(t, tr, 200, "GET", manifest, "")
		*moved = time.Minute
	}
}
