package forward

import (
	"context"

	"github.com/opencontainers/go-digest"

	"pushproxy/authinject"
	"pushproxy/oci"
	"pushproxy/upstream"
)

// errandOf says what a context's requests are made for.
type errandOf struct {
	push   string // where they are one push's alone
	digest digest.Digest
	upload string
}

type errandKey struct{}

// doing returns a context whose requests watchers can tell what they are for.
func doing(ctx context.Context, what errandOf) context.Context {
	return context.WithValue(ctx, errandKey{}, what)
}

// PushFrom returns the id of the push that a context's requests are made for;
// empty where they may serve several.
func PushFrom(ctx context.Context) string {
	what, _ := ctx.Value(errandKey{}).(errandOf)
	return what.push
}

// about returns an event of what is done under ctx for a principal.
func about(ctx context.Context, principal string, repo oci.Repo) Event {
	what, _ := ctx.Value(errandKey{}).(errandOf)
	return Event{Push: what.push, Principal: principal, Repo: repo, Digest: what.digest, Upload: what.upload}
}

// Asked tells watchers of a request that a target's client has made. With the
// target's principal it is the Observe of its client.
func (f *Forwarder) Asked(ctx context.Context, principal string, x upstream.Exchange) {
	if !f.watched() {
		return
	}
	e := about(ctx, principal, x.Repo)
	e.Status, e.Exchange, e.Reference = Asked, &x, x.Reference
	if x.Digest != "" {
		e.Digest = x.Digest
	}
	f.tell(e)
}

// LoggedIn tells watchers of a request that was made for a target's credentials.
// With the target's principal it is the Observe of its transport.
func (f *Forwarder) LoggedIn(ctx context.Context, principal string, login authinject.Event) {
	if !f.watched() {
		return
	}
	repo, _ := oci.RepoFrom(ctx)
	if repo.Host == "" {
		repo.Host = login.Host
	}
	e := about(ctx, principal, repo)
	e.Status, e.Login = Asked, &login
	f.tell(e)
}

// Retrying tells watchers that a request to the upstream will be tried again,
// and halves the uploads that the upstream gets at once where it said that there
// are too many. They grow again, one by one, as uploads end well. With the
// target's principal it is the Notify of its client.
func (f *Forwarder) Retrying(ctx context.Context, principal string, r upstream.Retry) {
	if r.Busy {
		f.lane(r.Repo.Host).throttled(r.Delay)
	}
	e := about(ctx, principal, r.Repo)
	e.Status, e.Why, e.Delay, e.Busy = Retrying, r.Why, r.Delay, r.Busy
	if r.Digest != "" {
		e.Digest = r.Digest
	}
	f.tell(e)
}
