package authinject

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pushproxy/oci"
)

// told is what an observer was told.
type told struct {
	mu   sync.Mutex
	list []Event
}

func (s *told) observe(_ context.Context, e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, e)
}

// are fails unless exactly want was told, and no secret with it.
func (s *told) are(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, e := range s.list {
		line := fmt.Sprintf("%s of %s at %s %s", e.Kind, e.Host, e.Server, e.Outcome)
		if e.Grant != "" {
			line += " by " + e.Grant
		}
		if e.Status != 0 {
			line += fmt.Sprintf(" %d", e.Status)
		}
		got = append(got, line)
		if text := fmt.Sprintf("%+v", e); leaks(text) || strings.Contains(text, "token-1") {
			t.Errorf("the event shows a secret: %s", text)
		}
		if e.Began.IsZero() || e.Kind == EventToken && (e.Outcome == Succeeded) == e.Until.IsZero() {
			t.Errorf("times: %+v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestObserversAreToldOfTokensAndOfNothingFromMemory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fake   *registry
		source Source
		want   []string
	}{
		{"a password buys a token, once", &registry{}, fixed{"": bob}, []string{"token of registry.test at registry.test ok by password 200"}},
		{"nobody gets one too", &registry{anonymous: true}, nil, []string{"token of registry.test at registry.test ok by anonymous 200"}},
		{"an identity token is posted", &registry{identity: canary}, fixed{"": Credential{Identity: canary}},
			[]string{"token of registry.test at registry.test ok by refresh_token 200"}},
		{"a refusal is told, and what is tried then", &registry{identity: "another"}, fixed{"": Credential{Username: "bob", Password: canary, Identity: canary}},
			[]string{"token of registry.test at registry.test refused by refresh_token 401", "token of registry.test at registry.test ok by password 200"}},
		{"a password itself is no event", &registry{basic: true}, fixed{"": bob}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &told{}
			tr, w := newTransport(c.fake, c.source)
			tr.Observe = s.observe
			mustSend(t, tr, 201, "GET", manifest, "")
			mustSend(t, tr, 201, "GET", manifest, "")
			s.are(t, c.want...)
			if got := len(w.lines("https://registry.test:443")); got != len(c.want)+3 {
				t.Errorf("%d requests, want the first refusal, two that were asked for and %d that were told", got, len(c.want))
			}
		})
	}
}

func TestObserversAreToldOfProbes(t *testing.T) {
	t.Parallel()
	s := &told{}
	tr, _ := newTransport(&registry{}, fixed{"": bob})
	tr.Observe = s.observe
	if err := tr.Warm(t.Context(), oci.Repo{Name: "acme/app"}, true); err != nil {
		t.Fatal(err)
	}
	s.are(t, "probe of registry.test at registry.test ok 401", "token of registry.test at registry.test ok by password 200")
	if got := s.list[1].Scopes; !slices.Equal(got, []string{"repository:acme/app:pull,push"}) {
		t.Errorf("scopes %q", got)
	}
}

func TestObserversAreToldOfTokenServersThatCannotBeReached(t *testing.T) {
	t.Parallel()
	s := &told{}
	tr, _ := newTransport(&registry{realm: "https://auth.registry.test/token"}, fixed{"": bob})
	tr.Observe = s.observe
	if _, err := send(t, tr, "GET", manifest, ""); err == nil {
		t.Error("no error")
	}
	gone := "token of registry.test at auth.registry.test failed by password"
	s.are(t, gone, gone, gone)
}

func TestObserversAreToldOfHelperRuns(t *testing.T) {
	t.Parallel()
	dir, h, _ := newHelpers(t)
	dir.write(t, "good", answerBob)
	dir.write(t, "none", `echo "credentials not found in native keychain"; exit 1`)
	dir.write(t, "bad", "echo "+canary+"; exit 3")
	s := &told{}
	h.Observe = s.observe
	ctx := oci.ContextWithRepo(t.Context(), oci.Repo{Host: "registry.test", Name: "acme/app"})
	for _, name := range []string{"good", "good", "none", "bad"} {
		_, _ = h.get(ctx, name, []string{"registry.test"})
	}
	s.are(t, "helper of registry.test at registry.test ok", "helper of registry.test at registry.test none", "helper of registry.test at registry.test failed")
	if got := s.list[0].Helper; got != "docker-credential-good" {
		t.Errorf("helper %q", got)
	}
}
