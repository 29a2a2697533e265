package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// HeadManifest asks for the manifest that reference, a tag or a digest, names
// (specification, end-3). accept lists media types; nil means every known one.
// Where the answer lacks the type, the digest or the length, or the upstream
// knows no HEAD, the manifest is fetched to learn them. An answer that names
// another digest than reference counts as not found.
func (c *Client) HeadManifest(ctx context.Context, repo oci.Repo, reference string, accept []string) (oci.Descriptor, bool, error) {
	var none oci.Descriptor
	k, err := manifestCall(OpManifestHead, http.MethodHead, "look for", repo, reference)
	if err != nil {
		return none, false, err
	}
	k.header = accepting(accept)
	a, err := c.do(ctx, k)
	if err != nil {
		return none, false, err
	}
	switch {
	case a.Status == http.StatusNotFound:
		return none, false, nil
	case a.Status == http.StatusMethodNotAllowed, a.Status == http.StatusForbidden && c.quirk().HeadForbidden:
		return c.headByGet(ctx, repo, reference, accept)
	case a.Status != http.StatusOK:
		return none, false, c.fail(ctx, k, a, oci.ErrManifestUnknown)
	}
	d, err := oci.ParseDigest(a.Header.Get("Docker-Content-Digest"))
	mediaType := contentType(a.Header)
	if err != nil || mediaType == "" || a.Length < 0 {
		return c.headByGet(ctx, repo, reference, accept)
	}
	if want, err := oci.ParseDigest(reference); err == nil && contradicts(a.Header, want) {
		return none, false, nil
	} else if err == nil {
		d = want
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: a.Length}, true, nil
}

func (c *Client) headByGet(ctx context.Context, repo oci.Repo, reference string, accept []string) (oci.Descriptor, bool, error) {
	d, _, err := c.GetManifest(ctx, repo, reference, accept)
	if e := (*oci.Error)(nil); err != nil && errors.As(err, &e) && e.Status == http.StatusNotFound {
		return oci.Descriptor{}, false, nil
	}
	return d, err == nil, err
}

// GetManifest fetches the manifest that reference names (end-3), at most
// oci.MaxManifest bytes. Its digest is checked against reference, where that is
// a digest, and against the answer's, where that names one. It returns
// ErrManifestUnknown when there is none.
func (c *Client) GetManifest(ctx context.Context, repo oci.Repo, reference string, accept []string) (oci.Descriptor, []byte, error) {
	var none oci.Descriptor
	k, err := manifestCall(OpManifestGet, http.MethodGet, "fetch", repo, reference)
	if err != nil {
		return none, nil, err
	}
	k.header = accepting(accept)
	a, raw, err := c.fetch(ctx, k, oci.MaxManifest, oci.ErrManifestUnknown)
	if err != nil {
		return none, nil, err
	}
	if int64(len(raw)) > oci.MaxManifest {
		return none, nil, oci.ErrManifestTooLarge.With("manifest %s of %s is larger than 4 MiB", reference, repo)
	}
	d := digest.SHA256.FromBytes(raw)
	for _, said := range []string{a.Header.Get("Docker-Content-Digest"), reference} {
		want, err := oci.ParseDigest(said)
		if err != nil {
			continue
		}
		if d = want.Algorithm().FromBytes(raw); d != want {
			return none, nil, oci.ErrUpstream.With("%s sent other bytes than manifest %s of %s; try again", c.Host, want, repo).Because(errVerdict)
		}
	}
	mediaType := contentType(a.Header)
	if mediaType == "" {
		// A server of plain files does not know what it serves.
		var own struct{ MediaType string }
		if json.Unmarshal(raw, &own) == nil {
			mediaType = own.MediaType
		}
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}, raw, nil
}

// fetch reads a whole answer of at most limit bytes, and one byte more of a
// longer one. A body that breaks off is asked for again.
func (c *Client) fetch(ctx context.Context, k call, limit int64, unknown *oci.Error) (*answer, []byte, error) {
	t := &tries{c: c, repo: k.repo, digest: k.digest, what: k.what}
	for {
		a, err := c.do(ctx, k)
		if err != nil {
			return nil, nil, err
		}
		if a.Status != http.StatusOK {
			a.close()
			return nil, nil, c.fail(ctx, k, a, unknown)
		}
		raw, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
		a.close()
		if err == nil {
			return a, raw, nil
		}
		f := failure{why: plain(err.Error())}
		if ctx.Err() != nil {
			return nil, nil, t.ended(ctx)
		}
		if !t.more(f) {
			return nil, nil, c.unreachable(k, err)
		}
		if err := t.wait(ctx, f); err != nil {
			return nil, nil, err
		}
	}
}

// DeleteManifest deletes the tag or manifest that reference names (end-9). It
// returns ErrManifestUnknown when there is none, and an Error of the upstream's
// own status, such as 405, when it does not delete.
func (c *Client) DeleteManifest(ctx context.Context, repo oci.Repo, reference string) error {
	k, err := manifestCall(OpManifestDelete, http.MethodDelete, "delete", repo, reference)
	if err != nil {
		return err
	}
	return c.delete(ctx, k, oci.ErrManifestUnknown)
}

func manifestCall(op Op, method, verb string, repo oci.Repo, reference string) (call, error) {
	if err := checked(repo); err != nil {
		return call{}, err
	}
	if err := checkedReference(reference); err != nil {
		return call{}, err
	}
	return call{
		what: verb + " manifest " + reference + " of " + repo.String(), op: op, repo: repo, reference: reference,
		method: method, path: "/v2/" + repo.Name + "/manifests/" + reference,
	}, nil
}

// accepting returns the Accept header. The last type is any: a narrow list is
// a 406 from Artifactory.
func accepting(types []string) http.Header {
	if len(types) == 0 {
		types = append(slices.Clone(oci.ManifestTypes), "*/*")
	}
	return http.Header{"Accept": {strings.Join(types, ", ")}}
}

// contentType returns the answer's media type, or "" when it says nothing about
// manifests.
func contentType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || t == "text/plain" || t == "text/html" || t == "application/octet-stream" || t == "application/json" {
		return ""
	}
	return t
}
