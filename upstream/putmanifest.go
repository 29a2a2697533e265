package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// maxWarnings bounds the Warning headers passed on, in bytes of all together
// (specification, "Warnings").
const maxWarnings = 4096

// PutResult is what the upstream said to a manifest.
type PutResult struct {
	Digest   digest.Digest // of the bytes that were sent
	Subject  string        // OCI-Subject, when the upstream sent it
	Tags     []string      // OCI-Tag: the tags that name the manifest now, beside reference
	Warnings []string      // Warning headers, at most 4096 bytes in all
}

// PutManifest stores raw, byte for byte, under reference (end-7) and under tags.
// The tags go as ?tag= (1.2 draft, "Pushing Manifests"); those that the answer
// does not name are put one by one. Nil means 201 and no other digest, or a HEAD
// that confirmed it after any other 2xx. Whatever status the upstream uses to
// say that something the manifest references is missing, the error is
// ErrManifestBlobUnknown.
func (c *Client) PutManifest(ctx context.Context, repo oci.Repo, reference, mediaType string, raw []byte, tags []string) (PutResult, error) {
	if len(raw) > oci.MaxManifest {
		return PutResult{}, oci.ErrManifestTooLarge
	}
	for _, tag := range tags {
		if !oci.ValidTag(tag) {
			return PutResult{}, oci.ErrTagInvalid.With("%s is not a tag", plain(tag))
		}
	}
	asked := tags
	if c.lesson().noTags {
		asked = nil
	}
	result, err := c.putManifest(ctx, repo, reference, mediaType, raw, asked)
	if err != nil && len(asked) > 0 && refusesQuery(err) {
		result, err = c.putManifest(ctx, repo, reference, mediaType, raw, nil)
	}
	if err != nil || len(tags) == 0 {
		return result, err
	}
	if len(result.Tags) == 0 {
		c.learn(func(l *learned) { l.noTags = true })
	}
	for _, tag := range tags {
		if slices.Contains(result.Tags, tag) {
			continue
		}
		one, err := c.putManifest(ctx, repo, tag, mediaType, raw, nil)
		if err != nil {
			return result, err
		}
		result.Tags = append(result.Tags, tag)
		result.Warnings = append(result.Warnings, one.Warnings...)
	}
	return result, nil
}

// refusesQuery reports whether an upstream may have refused ?tag= as such.
func refusesQuery(err error) bool {
	var e *oci.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestURITooLong, http.StatusNotImplemented:
		return true
	}
	return false
}

func (c *Client) putManifest(ctx context.Context, repo oci.Repo, reference, mediaType string, raw []byte, tags []string) (PutResult, error) {
	k, err := manifestCall(OpManifestPut, http.MethodPut, "store", repo, reference)
	if err != nil {
		return PutResult{}, err
	}
	k.slow, k.size = true, int64(len(raw))
	k.header = http.Header{"Content-Type": {mediaType}}
	k.body = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	if len(tags) > 0 {
		k.query = url.Values{"tag": tags}.Encode()
	}
	d := digest.SHA256.FromBytes(raw)
	if want, err := oci.ParseDigest(reference); err == nil {
		if d = want.Algorithm().FromBytes(raw); d != want {
			return PutResult{}, oci.ErrDigestInvalid.With("the manifest is %s, not %s", d, want)
		}
	}
	a, err := c.do(ctx, k)
	switch {
	case err != nil:
		return PutResult{}, err
	case !a.ok():
		return PutResult{}, c.failManifest(ctx, k, a)
	case contradicts(a.Header, d):
		return PutResult{}, oci.ErrUpstream.With("%s took manifest %s of %s but calls it %s; it was damaged on the way or the upstream is at fault: try again",
			c.Host, d, repo, plain(a.Header.Get("Docker-Content-Digest"))).Because(errVerdict)
	case a.Status != http.StatusCreated || a.redirected:
		there, found, err := c.HeadManifest(ctx, repo, reference, []string{mediaType})
		if err != nil {
			return PutResult{}, err
		}
		if !found || there.Digest.Algorithm() == d.Algorithm() && there.Digest != d {
			return PutResult{}, c.fail(ctx, k, a, oci.ErrManifestUnknown)
		}
	}
	return PutResult{Digest: d, Subject: a.Header.Get("OCI-Subject"), Tags: tagged(a.Header, tags), Warnings: warnings(a.Header)}, nil
}

// failManifest is fail for a manifest that was refused.
func (c *Client) failManifest(ctx context.Context, k call, a *answer) error {
	if a.Status == http.StatusBadRequest || a.Status == http.StatusNotFound {
		for _, code := range codes(a.text) {
			switch code {
			case oci.ErrManifestBlobUnknown.Code, oci.ErrBlobUnknown.Code, oci.ErrManifestUnknown.Code:
				return oci.ErrManifestBlobUnknown.With("%s misses something that the manifest references, so it refused to %s%s; push again", c.Host, k.what, words(a.text))
			}
		}
	}
	return c.fail(ctx, k, a, oci.ErrNameUnknown)
}

// tagged returns those of tags that the answer's OCI-Tag headers name.
func tagged(h http.Header, tags []string) (named []string) {
	for _, line := range h.Values("OCI-Tag") {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimSpace(tag); slices.Contains(tags, tag) && !slices.Contains(named, tag) {
				named = append(named, tag)
			}
		}
	}
	return named
}

func warnings(h http.Header) (list []string) {
	left := maxWarnings
	for _, w := range h.Values("Warning") {
		if left -= len(w); left < 0 {
			break
		}
		list = append(list, w)
	}
	return list
}
