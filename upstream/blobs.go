package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// HeadBlob asks whether repo holds the blob d (specification, end-2) and how
// many bytes it has; -1 when the upstream does not say. A blob that the answer
// names by another digest counts as not found.
func (c *Client) HeadBlob(ctx context.Context, repo oci.Repo, d digest.Digest) (size int64, found bool, err error) {
	if err := checked(repo); err != nil {
		return 0, false, err
	}
	return c.headBlob(ctx, call{repo: repo}, d)
}

// headBlob is HeadBlob with k's way of retrying.
func (c *Client) headBlob(ctx context.Context, k call, d digest.Digest) (size int64, found bool, err error) {
	k.what = "look for blob " + d.String() + " in " + k.repo.String()
	k.method, k.path, k.op, k.digest = http.MethodHead, blobPath(k.repo, d), OpHead, d
	a, err := c.do(ctx, k)
	switch {
	case err != nil:
		return 0, false, err
	case a.Status == http.StatusOK:
		if contradicts(a.Header, d) {
			return 0, false, nil
		}
		return a.Length, true, nil
	case a.Status == http.StatusNotFound:
		return 0, false, nil
	}
	return 0, false, c.fail(ctx, k, a, oci.ErrBlobUnknown)
}

// DeleteBlob deletes the blob d of repo (specification, end-10). It returns
// ErrBlobUnknown when there is none, and an Error of the upstream's own status,
// such as 405, when it does not delete.
func (c *Client) DeleteBlob(ctx context.Context, repo oci.Repo, d digest.Digest) error {
	if err := checked(repo); err != nil {
		return err
	}
	k := call{what: "delete blob " + d.String() + " of " + repo.String(), op: OpBlobDelete, repo: repo, digest: d, path: blobPath(repo, d)}
	return c.delete(ctx, k, oci.ErrBlobUnknown)
}

func (c *Client) delete(ctx context.Context, k call, unknown *oci.Error) error {
	k.method = http.MethodDelete
	a, err := c.do(ctx, k)
	if err != nil || a.ok() {
		return err
	}
	return c.fail(ctx, k, a, unknown)
}

// StartUpload starts the upload of blob d to repo, or gets it there without
// one. When from names a repository of the same registry, one POST asks to
// mount the blob from it (specification, end-11): mounted is true when the
// upstream says 201 and no other digest. A 202 to it is an open session, which
// is used; any other answer only means that a plain POST follows (end-4a). A
// mount is thus never the reason of an error. d may be "" for an upload whose
// digest is not known yet.
func (c *Client) StartUpload(ctx context.Context, repo oci.Repo, d digest.Digest, from string) (u *Upload, mounted bool, err error) {
	if err := checked(repo); err != nil {
		return nil, false, err
	}
	u = &Upload{c: c, Repo: repo, Digest: d}
	if from != repo.Name && d != "" && oci.ValidName(from) && u.mount(ctx, from) {
		return nil, true, nil
	}
	if u.session == nil {
		if err := u.start(ctx); err != nil {
			return nil, false, err
		}
	}
	return u, false, nil
}

// Upload is one blob's way to the upstream. It is used by one goroutine at a
// time. Its session may be replaced by a new one while it is sent.
type Upload struct {
	Repo   oci.Repo
	Digest digest.Digest // "" until Finish, where it was not known at the start

	c        *Client
	session  *url.URL // nil: none is open
	chunkMin int64    // OCI-Chunk-Min-Length, in bytes
	used     bool     // the session may hold bytes already
}

// mount asks for the blob from another repository; without success it leaves a
// session where the upstream opened one.
func (u *Upload) mount(ctx context.Context, from string) bool {
	k := u.post()
	k.asIs, k.op, k.from = true, OpMount, from
	k.what = "mount blob " + u.Digest.String() + " from " + from + " in " + u.Repo.String()
	k.query = url.Values{"mount": {u.Digest.String()}, "from": {from}}.Encode()
	a, err := u.c.do(ctx, k)
	if err != nil {
		return false
	}
	switch a.Status {
	case http.StatusCreated:
		return !contradicts(a.Header, u.Digest) && !a.redirected
	case http.StatusAccepted:
		// An unusable Location leaves no session: a plain POST follows.
		_ = u.opened(a)
	}
	return false
}

// start opens a session with a plain POST.
func (u *Upload) start(ctx context.Context) error {
	k := u.post()
	a, err := u.c.do(ctx, k)
	if err != nil {
		return err
	}
	if a.Status != http.StatusAccepted {
		return u.c.fail(ctx, k, a, oci.ErrNameUnknown)
	}
	return u.opened(a)
}

func (u *Upload) post() call {
	k := call{what: "start the upload of " + u.name(), op: OpStart, repo: u.Repo, digest: u.Digest, method: http.MethodPost, path: "/v2/" + u.Repo.Name + "/blobs/uploads/"}
	if u.Digest != "" && u.Digest.Algorithm() != digest.SHA256 {
		k.query = "digest-algorithm=" + string(u.Digest.Algorithm())
	}
	return k
}

// opened takes the session that an answer names.
func (u *Upload) opened(a *answer) error {
	session, err := u.c.locate(a.from, a.Header.Get("Location"))
	if err != nil {
		return err
	}
	u.session = session
	u.chunkMin, _ = strconv.ParseInt(a.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
	return nil
}

// moved takes the session's new Location, where the answer names one: its
// query may be state that only the newest answer has.
func (u *Upload) moved(a *answer) error {
	location := a.Header.Get("Location")
	if location == "" {
		return nil
	}
	session, err := u.c.locate(a.from, location)
	if err != nil {
		return err
	}
	u.session = session
	return nil
}

// Cancel ends the session (specification, end-14). An upstream that has no such
// session, or cannot cancel, is no error. It is tried once.
func (u *Upload) Cancel(ctx context.Context) error {
	if u.session == nil || u.c.quirk().NoCancel {
		u.session = nil
		return nil
	}
	k := call{what: "cancel the upload of " + u.name(), op: OpCancel, repo: u.Repo, digest: u.Digest, method: http.MethodDelete, target: u.session, single: true}
	u.session = nil
	a, err := u.c.do(ctx, k)
	if err != nil || a.ok() {
		return err
	}
	switch a.Status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return nil
	}
	return u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
}

// Offset asks how many bytes the session holds (specification, end-13). It is
// tried once.
func (u *Upload) Offset(ctx context.Context) (int64, error) {
	if u.session == nil {
		return 0, oci.ErrBlobUploadUnknown.With("the upload of %s has no open session", u.name())
	}
	k := call{what: "say how far the upload is of " + u.name(), op: OpStatus, repo: u.Repo, digest: u.Digest, method: http.MethodGet, target: u.session, single: true}
	a, err := u.c.do(ctx, k)
	if err != nil {
		return 0, err
	}
	defer a.close()
	if !a.ok() {
		return 0, u.c.fail(ctx, k, a, oci.ErrBlobUploadUnknown)
	}
	next, ok := parseRange(a.Header.Get("Range"))
	if !ok {
		return 0, oci.ErrUpstream.With("%s did not say how far the upload of %s is", u.c.Host, u.name()).Because(errNoRange)
	}
	return next, u.moved(a)
}

var errNoRange = errors.New("no usable Range in the answer")

// parseRange reads the Range of an upload, "0-<last>", and returns how many
// bytes that is. Distribution writes 0-0 for no byte and for one: it counts as
// none. Quay writes "bytes=0--1" for none (protocol.md C6).
func parseRange(s string) (next int64, ok bool) {
	s = strings.TrimSpace(s)
	for _, unit := range []string{"bytes=", "bytes "} {
		s = strings.TrimPrefix(s, unit)
	}
	last, ok := strings.CutPrefix(strings.TrimSpace(s), "0-")
	if !ok {
		return 0, false
	}
	if last == "-1" || last == "0" {
		return 0, true
	}
	n, err := strconv.ParseUint(last, 10, 62)
	if err != nil {
		return 0, false
	}
	return int64(n) + 1, true
}

func (u *Upload) name() string {
	if u.Digest == "" {
		return "a blob to " + u.Repo.String()
	}
	return "blob " + u.Digest.String() + " to " + u.Repo.String()
}

func blobPath(repo oci.Repo, d digest.Digest) string {
	return "/v2/" + repo.Name + "/blobs/" + d.String()
}
