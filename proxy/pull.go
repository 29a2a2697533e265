package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// pullBuffer is how much of a pulled blob is read at a time, in bytes, and so
// how much is held back from the client until the digest is known to match.
const pullBuffer = 256 << 10

// fetch brings a blob of which the client wants a part into the cache: a part
// cannot be verified. Clients ask for many parts at once; the first request
// fetches for all of them, and to the end even if it leaves.
func (g *Registry) fetch(c *call) error {
	ctx := c.lasting()
	done := g.fetches.DoChan(c.owner()+"\x00"+c.Digest.String(), func() (_ any, err error) {
		// Out here a panic would end the process.
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic of type %T in a pull", p)
			}
		}()
		return nil, g.pull(ctx, c, nil)
	})
	select {
	case result := <-done:
		return result.Err
	case <-c.Context().Done():
		return c.Context().Err()
	}
}

// pull fetches a blob from the upstream with this principal's credential, keeps
// it in the cache and, unless w is nil, passes it on. The client gets the last
// bytes only after the digest of the whole matched.
func (g *Registry) pull(ctx context.Context, c *call, w http.ResponseWriter) error {
	body, err := c.target.Client.GetBlob(ctx, c.repo, c.Digest, "")
	if err != nil {
		return err
	}
	defer body.Close()
	keep := &keeper{g: g, c: c, needed: w == nil}
	if err := keep.begin(ctx); err != nil {
		return err
	}
	defer keep.drop()
	if w != nil {
		h := c.blobHeader(c.Digest)
		if body.Size >= 0 {
			h.Set("Content-Length", strconv.FormatInt(body.Size, 10))
		}
	}
	size, last, err := c.copyVerified(body, keep, w)
	if err != nil {
		return err
	}
	if err := keep.commit(); err != nil {
		return err
	}
	g.note(c, "a blob seen upstream is not remembered", g.Forward.Seen(ctx, c.target, c.repo, c.Digest, size))
	if w != nil {
		_, err = w.Write(last)
	}
	return err
}

// copyVerified copies all but the last bytes to w, which may be nil, and returns
// them once the digest of everything matched.
func (c *call) copyVerified(body io.Reader, keep *keeper, w io.Writer) (size int64, last []byte, err error) {
	verifier := c.Digest.Verifier()
	held, next := make([]byte, 0, pullBuffer), make([]byte, pullBuffer)
	for more := true; more; {
		n, err := fill(body, next)
		if more = err == nil; err != nil && err != io.EOF {
			return 0, nil, oci.ErrUpstream.With("%s broke off while it sent blob %s of %s; try again", c.repo.Host, c.Digest, c.repo).Because(err)
		}
		if n == 0 {
			break
		}
		if w != nil && len(held) > 0 {
			if _, err := w.Write(held); err != nil {
				return 0, nil, err
			}
		}
		// A hash cannot fail.
		_, _ = verifier.Write(next[:n])
		if err := keep.write(next[:n]); err != nil {
			return 0, nil, err
		}
		held, next = next[:n], held[:cap(held)]
		size += int64(n)
	}
	if !verifier.Verified() {
		return 0, nil, oci.ErrUpstream.With("%s sent bytes for blob %s of %s that are not that blob; nothing was kept", c.repo.Host, c.Digest, c.repo)
	}
	return size, held, nil
}

// fill reads until p is full. Unlike io.ReadFull it tells the end of r, which is
// io.EOF with what came before, from an end that came too early.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// keeper puts a pulled blob into the cache. Where the cache is not the way to
// the client, what the cache cannot take is no reason to refuse the blob.
type keeper struct {
	g      *Registry
	c      *call
	u      *blobcache.Upload // nil: not kept
	needed bool
}

func (k *keeper) begin(ctx context.Context) (err error) {
	if k.g.Limits.room(k.c.principal) <= 0 {
		return k.tolerate(k.g.Limits.overQuota())
	}
	k.u, err = k.g.Cache.Begin(ctx, k.c.Digest.Algorithm(), k.c.owner())
	return k.tolerate(err)
}

func (k *keeper) write(p []byte) error {
	if k.u == nil {
		return nil
	}
	_, err := k.u.Write(p)
	return k.tolerate(err)
}

// commit makes the blob the principal's: the upstream showed it to its
// credential.
func (k *keeper) commit() error {
	if k.u == nil {
		return nil
	}
	if err := k.u.Commit(k.c.lasting(), k.c.Digest); err != nil {
		return k.tolerate(err)
	}
	k.g.note(k.c, "a pulled blob is not counted", k.g.gained(k.c, k.c.Digest))
	k.g.note(k.c, "a pulled blob has to be pulled again", k.g.Meta.Grant(k.c.lasting(), k.c.principal, k.c.Digest))
	return nil
}

func (k *keeper) tolerate(err error) error {
	if err == nil || k.needed {
		return err
	}
	k.g.note(k.c, "a pulled blob is not kept", err)
	k.drop()
	return nil
}

// drop gives up what was kept and not committed.
func (k *keeper) drop() {
	if k.u == nil {
		return
	}
	// What cannot be cancelled now is swept at the next start.
	_ = k.u.Cancel(k.c.lasting())
	k.u.Release()
	k.u = nil
}
