package authinject

import (
	"context"
	"errors"
	"net/http"
	"time"

	"pushproxy/oci"
)

// EventKind is what this room did on its own account.
type EventKind string

// The kinds.
const (
	EventToken  EventKind = "token"  // one request for a token
	EventProbe  EventKind = "probe"  // one GET /v2/, to learn what a registry asks for
	EventHelper EventKind = "helper" // one run of a credential helper
)

// The grants of EventToken.
const (
	GrantAnonymous = "anonymous"     // GET without a credential
	GrantPassword  = "password"      // GET with Basic
	GrantRefresh   = "refresh_token" // OAuth2 POST with an identity token
)

// The outcomes of an Event.
const (
	Succeeded = "ok"
	Refused   = "refused" // the server said no to what it was shown
	NoneFound = "none"    // the helper has no credential for it
	Broken    = "failed"  // everything else: no answer, not in time, not a usable one
)

// Event is one request or one run of a helper, done. What was served from memory
// is none. It holds no secret.
type Event struct {
	Kind    EventKind
	Host    string   // the registry that it was done for, as far as that is known
	Server  string   // host and port that was asked; with EventHelper the key
	Helper  string   // name of the program, with EventHelper
	Grant   string   // with EventToken
	Scopes  []string // with EventToken
	Status  int      // of the answer; 0: none
	Outcome string
	Until   time.Time // when the token will not be used any more, with EventToken
	Began   time.Time
	Took    time.Duration
}

// observe tells whoever wants to know of an event that has just ended.
func (t *Transport) observe(ctx context.Context, e Event) {
	if t.Observe == nil {
		return
	}
	e.Host, e.Took = t.Host, time.Since(e.Began)
	t.Observe(ctx, e)
}

// grantOf is what a request for a token shows to the server.
func grantOf(req *http.Request) string {
	switch {
	case req.Method == http.MethodPost:
		return GrantRefresh
	case req.Header.Get("Authorization") != "":
		return GrantPassword
	}
	return GrantAnonymous
}

// outcome is how a request for a token, or a run of a helper, ended.
func outcome(err error) string {
	switch {
	case err == nil:
		return Succeeded
	case errors.Is(err, ErrNone):
		return NoneFound
	case isRefusal(err):
		return Refused
	}
	return Broken
}

// ran tells of a run of a helper that has just ended.
func (h *Helpers) ran(ctx context.Context, name, key string, began time.Time, err error) {
	if h.Observe == nil {
		return
	}
	repo, _ := oci.RepoFrom(ctx)
	h.Observe(ctx, Event{
		Kind: EventHelper, Host: repo.Host, Server: key, Helper: "docker-credential-" + name, Outcome: outcome(err), Began: began, Took: time.Since(began),
	})
}
