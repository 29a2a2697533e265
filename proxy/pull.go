package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// pullBuffer is how much of a pulled blob is read at a time, and so how much is
// held back from the client until the digest is known to match.
const pullBuffer = 256 << 10

// pull fetches a blob from the upstream with this principal's credential, keeps
// it in the cache and, unless w is nil, passes it on. The client gets the last
// bytes only after the digest of the whole matched.
func (g *Registry) pull(c *call, w http.ResponseWriter) error {
	body, err := c.target.Client.GetBlob(c.Context(), c.repo, c.Digest, "")
	if err != nil {
		return err
	}
	defer body.Close()
	u, err := g.Cache.Begin(c.Context(), c.Digest.Algorithm(), c.owner())
	if err != nil && (w == nil || !errors.Is(err, blobcache.ErrFull)) {
		return err
	}
	keep := keeper{u}
	defer keep.drop(c)
	if w != nil && body.Size >= 0 {
		c.blobHeader(c.Digest).Set("Content-Length", strconv.FormatInt(body.Size, 10))
	}
	size, last, err := g.copyVerified(c, body, &keep, w)
	if err != nil {
		return err
	}
	if keep.u != nil {
		if err := keep.u.Commit(c.Context(), c.Digest); err != nil {
			return err
		}
		if err := g.Meta.Grant(c.Context(), c.principal, c.Digest); err != nil {
			return err
		}
	}
	if err := g.Forward.Seen(c.Context(), c.target, c.repo, c.Digest, size); err != nil {
		return err
	}
	if w == nil {
		return nil
	}
	c.blobHeader(c.Digest)
	_, err = w.Write(last)
	return err
}

// copyVerified copies all but the last bytes, which it returns once the digest
// of everything matched.
func (g *Registry) copyVerified(c *call, body io.Reader, keep *keeper, w io.Writer) (size int64, last []byte, err error) {
	verifier := c.Digest.Verifier()
	held, next := make([]byte, 0, pullBuffer), make([]byte, pullBuffer)
	for {
		n, err := io.ReadFull(body, next)
		if n > 0 {
			if w != nil && len(held) > 0 {
				if _, err := w.Write(held); err != nil {
					return 0, nil, err
				}
			}
			// A hash cannot fail.
			_, _ = verifier.Write(next[:n])
			if err := keep.write(c, next[:n], w == nil); err != nil {
				return 0, nil, err
			}
			held, next = next[:n], held[:cap(held)]
			size += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return 0, nil, oci.ErrUpstream.With("%s broke off while it sent blob %s", c.repo.Host, c.Digest).Because(err)
		}
	}
	if !verifier.Verified() {
		return 0, nil, oci.ErrUpstream.With("%s sent bytes for blob %s of %s that are not that blob; nothing was kept", c.repo.Host, c.Digest, c.repo)
	}
	return size, held, nil
}

// keeper puts a pulled blob into the cache as long as the cache takes it.
type keeper struct{ u *blobcache.Upload }

// write keeps p. A full cache is an error only where the cache is the way to
// the client.
func (k *keeper) write(c *call, p []byte, needed bool) error {
	if k.u == nil {
		return nil
	}
	_, err := k.u.Write(p)
	if err != nil && !needed && errors.Is(err, blobcache.ErrFull) {
		k.drop(c)
		return nil
	}
	return err
}

// drop gives up what was kept and not committed.
func (k *keeper) drop(c *call) {
	if k.u == nil {
		return
	}
	// What cannot be cancelled now is swept at the next start.
	_ = k.u.Cancel(c.lasting())
	k.u.Release()
	k.u = nil
}
