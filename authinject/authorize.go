package authinject

import (
	"context"
	"errors"
	"net/http"

	"pushproxy/oci"
)

// authorization is what one try of a request carries, and what is needed to
// heal a refusal of it.
type authorization struct {
	header Secret // of Authorization; "" sends none
	scheme string // bearer, basic or "" for none
	cred   Credential
	key    tokenKey
	token  *token // nil when none was exchanged
	fresh  bool   // the token was fetched for this try
}

// authorize returns what the origin demands for w, as far as that is known. It
// narrows w when the token server refuses it as it is. When it fails, what the
// origin demands is asked anew next time: it may have changed.
func (t *Transport) authorize(ctx context.Context, origin string, w *want) (authorization, error) {
	d, _ := t.demand(origin)
	if d.scheme == "" {
		return authorization{}, nil
	}
	if w.rejected != nil {
		ctx = withRejected(ctx, *w.rejected)
	}
	cred, err := t.Credential(ctx, w.repo)
	if err != nil {
		return authorization{}, err
	}
	auth := authorization{scheme: d.scheme, cred: cred}
	switch {
	case cred.Bearer != "":
		auth.scheme, auth.header = "bearer", "Bearer "+cred.Bearer
	case d.scheme == "basic" && cred.Password != "":
		auth.header = basicHeader(cred)
	case d.scheme == "basic" && cred.Identity != "":
		err = oci.ErrDenied.With("%s asks for a password, and %s holds only an identity token for it: run docker login %s with a password or access token",
			t.Host, cred.Source, t.Host)
	case d.scheme == "bearer" && d.realm != nil:
		auth, err = t.bearer(ctx, d, w, cred)
	}
	if err != nil {
		t.forget(origin)
		return authorization{}, err
	}
	return auth, nil
}

// bearer gets a token for w, or for the narrower wants that follow from it.
func (t *Transport) bearer(ctx context.Context, d demand, w *want, cred Credential) (authorization, error) {
	auth := authorization{scheme: "bearer", cred: cred}
	if scopes, ok := w.wider(); ok && !w.renewed {
		key := newTokenKey(cred, d.realm.String(), d.service, scopes)
		if tok, ok := t.state().tokens.cached(key); ok && tok.refusal == nil {
			auth.key, auth.token, auth.header = key, tok, "Bearer "+tok.value
			return auth, nil
		}
	}
	for {
		scopes := w.scopes()
		auth.key = newTokenKey(auth.cred, d.realm.String(), d.service, scopes)
		x := exchange{t: t, realm: d.realm, service: d.service, scopes: scopes, cred: auth.cred}
		tok, fresh, err := t.state().tokens.get(ctx, auth.key, x.run)
		if err == nil {
			auth.token, auth.fresh, auth.header = tok, fresh, "Bearer "+tok.value
			return auth, nil
		}
		var no *refusal
		if !errors.As(err, &no) {
			return authorization{}, err
		}
		// First another credential: what refuses an expired one says nothing
		// about the scopes.
		if no.status == http.StatusUnauthorized {
			if next, ok := t.another(ctx, w, auth.cred); ok {
				auth.cred = next
				continue
			}
		}
		narrow, ok := w.narrower(no.status)
		if !ok {
			return authorization{}, no.err
		}
		*w = narrow
	}
}

// another asks a helper again for a credential that was refused. ok is false
// when it has no other.
func (t *Transport) another(ctx context.Context, w *want, refused Credential) (Credential, bool) {
	if !refused.Minted || w.rejected != nil {
		return Credential{}, false
	}
	w.rejected = &refused
	next, err := t.Credential(withRejected(ctx, refused), w.repo)
	return next, err == nil && next.fingerprint() != refused.fingerprint()
}

// heal learns from a 401 to req and prepares w for another try. It reports
// whether one could end better.
func (t *Transport) heal(req *http.Request, header http.Header, auth authorization, w *want) (bool, error) {
	origin := originOf(req.URL)
	sent := auth.scheme
	if auth.header == "" {
		sent = ""
	}
	if err := t.learn(req.URL, header, sent); err != nil {
		return false, err
	}
	d, known := t.demand(origin)
	if !known {
		// GAR's 401 may come without a challenge; its root has one.
		if err := t.probe(req.Context(), apiRoot(req.URL)); err != nil {
			return false, err
		}
		d, _ = t.demand(origin)
	}
	switch {
	case d.scheme == "":
		return false, nil
	case auth.header == "":
		return true, nil
	case auth.token != nil:
		t.state().tokens.drop(auth.key, auth.token)
		if w.from != "" && (auth.fresh || w.renewed) {
			// The token is new and still refused: it may be the source that
			// the registry objects to.
			w.from, w.renewed = "", true
			return true, nil
		}
		again := !w.renewed
		w.renewed = true
		if again && auth.cred.Minted {
			w.rejected = &auth.cred
		}
		return again, nil
	case auth.scheme == "bearer":
		// A registry token is used as it is; there is no other.
		return false, nil
	case d.scheme != auth.scheme:
		return true, nil
	}
	_, ok := t.another(req.Context(), w, auth.cred)
	return ok, nil
}
