package upstream

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Token returns what Reopen needs to go on with the upload later; "" when no
// session is open. It may hold an upstream's signature: it is a secret.
func (u *Upload) Token() string {
	if u.session == nil {
		return ""
	}
	return u.session.String()
}

// Reopen returns the upload of d to repo whose Token was token. Send goes on
// where the upstream says that it is, or begins anew.
func (c *Client) Reopen(repo oci.Repo, d digest.Digest, token string) (*Upload, error) {
	if err := checked(repo); err != nil {
		return nil, err
	}
	session, err := c.locate(c.URLs[0], token)
	if err != nil {
		return nil, err
	}
	return &Upload{c: c, Repo: repo, Digest: d, session: session, used: true}, nil
}

// reopen finds out where an upload that broke off goes on. An upstream that
// cannot be asked has not lost the session.
func (s *sending) reopen(ctx context.Context) (done bool, err error) {
	s.t.begin()
	off, err := s.u.Offset(ctx)
	switch {
	case ctx.Err() != nil:
		return false, s.t.ended(ctx)
	case err == nil && s.resume(off):
		return false, nil
	case err == nil || conclusive(err):
		s.afresh(ctx, err == nil)
		return false, nil
	}
	return s.recover(ctx, call{}, nil, err, failure{why: plain(err.Error()), cause: err})
}

// conclusive reports whether an error of Offset says that there is nothing to go
// on with.
func conclusive(err error) bool {
	return decided(err) || errors.Is(err, errNoRange) || errors.Is(err, errLocation)
}
