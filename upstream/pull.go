package upstream

import (
	"context"
	"io"
	"net/http"
	"regexp"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

var bytesRange = regexp.MustCompile(`^bytes=[0-9]*-[0-9]*$`)

// Body is a blob, or a part of one, as it arrives. Its bytes are not checked:
// whoever reads them compares length and digest. A read that gets nothing for a
// minute is an error.
type Body struct {
	io.ReadCloser
	Size         int64  // bytes of this body; -1: not known
	Status       int    // 200, or 206 when ContentRange says which part it is
	ContentRange string // "bytes a-b/size", of a 206
	MediaType    string // as the upstream sent it
}

// GetBlob fetches the blob d of repo (specification, end-2). rangeHeader is a
// Range header of one range, such as "bytes=100-", or "": the upstream may
// answer it with the whole blob. Redirects to a storage service are followed,
// without credentials. It returns ErrBlobUnknown when there is none.
func (c *Client) GetBlob(ctx context.Context, repo oci.Repo, d digest.Digest, rangeHeader string) (*Body, error) {
	if err := checked(repo); err != nil {
		return nil, err
	}
	k := call{what: "fetch blob " + d.String() + " of " + repo.String(), op: OpBlobGet, repo: repo, digest: d, method: http.MethodGet, path: blobPath(repo, d)}
	if rangeHeader != "" {
		if !bytesRange.MatchString(rangeHeader) {
			return nil, oci.ErrRangeInvalid.With("%s is not a range of bytes", plain(rangeHeader))
		}
		k.header = http.Header{"Range": {rangeHeader}}
	}
	a, err := c.do(ctx, k)
	if err != nil {
		return nil, err
	}
	if a.Status != http.StatusOK && (a.Status != http.StatusPartialContent || rangeHeader == "") {
		a.close()
		return nil, c.fail(ctx, k, a, oci.ErrBlobUnknown)
	}
	if contradicts(a.Header, d) {
		a.close()
		return nil, oci.ErrUpstream.With("%s sent another blob than %s of %s; try again", c.Host, d, repo).Because(errVerdict)
	}
	return &Body{
		ReadCloser:   a.Body,
		Size:         a.Length,
		Status:       a.Status,
		ContentRange: a.Header.Get("Content-Range"),
		MediaType:    a.Header.Get("Content-Type"),
	}, nil
}
