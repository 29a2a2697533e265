package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"
)

// blob is content that nobody has seen before, made while it is read.
type blob struct {
	digest string
	size   int64
	number uint64
	random []byte // repeated behind the number
}

// open returns the content from its start.
func (b blob) open() io.Reader {
	number := binary.BigEndian.AppendUint64(nil, b.number)
	return io.LimitReader(io.MultiReader(bytes.NewReader(number), &endless{b.random, 0}), b.size)
}

type endless struct {
	content []byte
	at      int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.content[e.at:])
	e.at = (e.at + n) % len(e.content)
	return n, nil
}

// newBlobs makes n blobs of size bytes.
func newBlobs(n, size int) ([]blob, error) {
	random := make([]byte, min(size, 16<<20))
	_, _ = rand.Read(random) // never fails
	blobs := make([]blob, n)
	var hashing errgroup.Group
	hashing.SetLimit(2)
	for i := range blobs {
		blobs[i] = blob{size: int64(size), number: uint64(i), random: random}
		hashing.Go(func() error {
			h := sha256.New()
			if _, err := io.CopyBuffer(struct{ io.Writer }{h}, blobs[i].open(), make([]byte, 1<<20)); err != nil {
				return err
			}
			blobs[i].digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
			return nil
		})
	}
	return blobs, hashing.Wait()
}

// wire speaks the distribution API, as many requests at a time as it has workers.
type wire struct {
	client  *http.Client
	url     string
	prefix  string
	workers int
}

func (s *scene) wire(workers int) *wire {
	t := &http.Transport{MaxIdleConnsPerHost: workers, MaxConnsPerHost: workers, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10}
	s.cleanup = append(s.cleanup, t.CloseIdleConnections)
	return &wire{&http.Client{Transport: t}, s.url, s.prefix, workers}
}

// each calls do for 0 … n−1, as many at a time as there are workers.
func (w *wire) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(w.workers)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// upload sends blobs as docker, skopeo and crane do: POST, one PATCH without a length, PUT.
func (w *wire) upload(ctx context.Context, repo string, blobs []blob) error {
	return w.each(ctx, len(blobs), func(ctx context.Context, i int) error {
		location, err := w.do(ctx, "POST", "/v2/"+w.prefix+repo+"/blobs/uploads/", nil, "", http.StatusAccepted)
		if err != nil {
			return err
		}
		// Wrapped so that the length is not seen: it goes out chunked.
		location, err = w.do(ctx, "PATCH", location, struct{ io.Reader }{blobs[i].open()}, "application/octet-stream", http.StatusAccepted)
		if err != nil {
			return err
		}
		u, err := url.Parse(location)
		if err != nil {
			return err
		}
		q := u.Query()
		q.Set("digest", blobs[i].digest)
		u.RawQuery = q.Encode()
		_, err = w.do(ctx, "PUT", u.String(), nil, "", http.StatusCreated)
		return err
	})
}

// put sends blobs in the fewest requests: POST, PUT with a length.
func (w *wire) put(ctx context.Context, repo string, blobs []blob) error {
	return w.each(ctx, len(blobs), func(ctx context.Context, i int) error {
		location, err := w.do(ctx, "POST", "/v2/"+w.prefix+repo+"/blobs/uploads/", nil, "", http.StatusAccepted)
		if err != nil {
			return err
		}
		_, err = w.do(ctx, "PUT", location+"?digest="+blobs[i].digest, sized{blobs[i].open(), blobs[i].size}, "application/octet-stream", http.StatusCreated)
		return err
	})
}

// sized is a body whose length is said before it is sent.
type sized struct {
	io.Reader
	length int64
}

// manifest stores a manifest that names the blobs; it succeeds when the upstream has all of them.
func (w *wire) manifest(ctx context.Context, repo, tag string, blobs []blob) error {
	layers := []descriptor{}
	for _, b := range blobs {
		layers = append(layers, descriptor{MediaType: layerType, Digest: b.digest, Size: b.size})
	}
	content, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "layers": layers,
		"config": descriptor{MediaType: configType, Digest: blobs[0].digest, Size: blobs[0].size},
	})
	if err != nil {
		return err
	}
	_, err = w.do(ctx, "PUT", "/v2/"+w.prefix+repo+"/manifests/"+tag, bytes.NewReader(content), manifestType, http.StatusCreated)
	return err
}

// head asks count times whether one of the blobs is there.
func (w *wire) head(ctx context.Context, repo string, blobs []blob, count int) error {
	return w.each(ctx, count, func(ctx context.Context, i int) error {
		_, err := w.do(ctx, "HEAD", "/v2/"+w.prefix+repo+"/blobs/"+blobs[i%len(blobs)].digest, nil, "", http.StatusOK)
		return err
	})
}

// pull reads every blob once. Only the length is looked at: hashing would measure this program.
func (w *wire) pull(ctx context.Context, repo string, blobs []blob) error {
	return w.each(ctx, len(blobs), func(ctx context.Context, i int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v2/"+w.prefix+repo+"/blobs/"+blobs[i].digest, nil)
		if err != nil {
			return err
		}
		resp, err := w.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
		if err == nil && (n != blobs[i].size || resp.StatusCode != http.StatusOK) {
			err = fmt.Errorf("GET of a blob of %d bytes: %s with %d", blobs[i].size, resp.Status, n)
		}
		return err
	})
}

// do sends one request that has one right status and returns the Location of the answer.
func (w *wire) do(ctx context.Context, method, target string, body io.Reader, contentType string, want int) (string, error) {
	if strings.HasPrefix(target, "/") {
		target = w.url + target
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return "", err
	}
	if s, ok := body.(sized); ok {
		req.ContentLength = s.length
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != want {
		return "", fmt.Errorf("%s %s: %s %s", method, target, resp.Status, text)
	}
	return resp.Header.Get("Location"), nil
}
