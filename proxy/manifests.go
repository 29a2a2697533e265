package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/oci"
)

// putManifest answers 201 when the upstream holds the manifest and all that it
// names, and with the upstream's own reason when it does not; where pushes are
// queued, when the manifest and all that it names are safe here.
func (g *Registry) putManifest(c *call) error {
	job, err := g.readManifest(c)
	if err != nil {
		return err
	}
	async, err := g.async(c)
	if err != nil {
		return err
	}
	if async {
		return g.promise(c, job)
	}
	push, settled, err := g.submit(c, job)
	if err != nil {
		return err
	}
	c.push = push.ID
	result, err := c.await(push)
	if err != nil {
		return err
	}
	if err := settled(); err != nil {
		return err
	}
	g.logPush(job, result)
	g.Audit.push(c, job, result)
	h := c.w.Header()
	h.Set("Location", c.location("/manifests/"+job.Digest.String()))
	h.Set("Docker-Content-Digest", job.Digest.String())
	if result.Subject != "" {
		h.Set("OCI-Subject", result.Subject)
	}
	for _, tag := range result.Tags {
		h.Add("OCI-Tag", tag)
	}
	for _, warning := range result.Warnings {
		h.Add("Warning", warning)
	}
	h.Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func (g *Registry) readManifest(c *call) (forward.Job, error) {
	body := newPatientBody(c)
	raw, err := io.ReadAll(io.LimitReader(body, oci.MaxManifest+1))
	if err != nil {
		return forward.Job{}, body.broken(oci.ErrManifestInvalid, int64(len(raw)))
	}
	m, err := oci.ParseManifest(c.r.Header.Get("Content-Type"), raw)
	if err != nil {
		return forward.Job{}, err
	}
	job := forward.Job{Target: c.target, Repo: c.repo, Manifest: m, Tag: c.Tag, Tags: c.Tags, Digest: m.Digest(digest.SHA256)}
	if g.Traced != nil && g.Traced(c.principal) {
		job.Trace = clip(c.r.Header.Get("Traceparent"))
	}
	if c.Digest != "" {
		if job.Digest = m.Digest(c.Digest.Algorithm()); job.Digest != c.Digest {
			return forward.Job{}, oci.ErrDigestInvalid.With("the manifest was put as %s but its digest is %s", c.Digest, job.Digest)
		}
	}
	return job, nil
}

// loggedBlobs is how many blobs of a push are logged one by one.
const loggedBlobs = 100

// logPush writes the one line that a push leaves behind.
func (g *Registry) logPush(job forward.Job, r forward.Result) {
	count, bytes := map[forward.How]int{}, map[forward.How]int64{}
	var blobs []string
	for i, o := range r.Blobs {
		count[o.How]++
		bytes[o.How] += o.Size
		if i == loggedBlobs {
			blobs = append(blobs, fmt.Sprintf("and %d more", len(r.Blobs)-i))
		}
		if i >= loggedBlobs {
			continue
		}
		how := string(o.How)
		if o.From != "" {
			how += " from " + o.From
		}
		blobs = append(blobs, fmt.Sprintf("%s %s %dB %s", short(o.Digest), how, o.Size, o.Took.Round(time.Millisecond)))
	}
	g.Log.Info("push", "push", r.Push, "repository", job.Repo.String(), "reference", job.Reference(), "digest", job.Digest, "unchanged", r.Unchanged,
		slog.Group("skipped", "blobs", count[forward.Skipped], "bytes", bytes[forward.Skipped]),
		slog.Group("mounted", "blobs", count[forward.Mounted], "bytes", bytes[forward.Mounted]),
		slog.Group("uploaded", "blobs", count[forward.Uploaded], "bytes", bytes[forward.Uploaded]),
		"took", r.Took.Round(time.Millisecond), "blobs", strings.Join(blobs, ", "))
}

func short(d digest.Digest) string { return d.Encoded()[:12] }

// askFor bounds how long a client's HEAD of a manifest may wait for the upstream.
// A wrong 404 repeats a push that was not needed, so it is long; some clients
// wait 30 seconds for an answer.
const askFor = 20 * time.Second

func (g *Registry) headManifest(c *call) error {
	if d, _, ok := g.pending(c); ok {
		c.manifestHeader(d)
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), askFor)
	defer cancel()
	d, found, err := c.target.Client.HeadManifest(ctx, c.repo, c.Reference(), c.r.Header["Accept"])
	if err != nil {
		return err
	}
	if !found {
		return oci.ErrManifestUnknown
	}
	c.manifestHeader(d)
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (g *Registry) getManifest(c *call) error {
	if d, raw, ok := g.pending(c); ok {
		c.manifestHeader(d)
		c.w.WriteHeader(http.StatusOK)
		_, err := c.w.Write(raw)
		return err
	}
	d, raw, err := c.target.Client.GetManifest(c.Context(), c.repo, c.Reference(), c.r.Header["Accept"])
	if err != nil {
		return err
	}
	// A manifest that cannot be read teaches nothing, but it is the upstream's
	// and is passed on; it is served so that no browser runs it.
	if m, err := oci.ParseManifest(d.MediaType, raw); err == nil {
		d.MediaType = m.MediaType
		g.Forward.Learn(c.target, c.repo, m)
	}
	c.manifestHeader(d)
	c.w.WriteHeader(http.StatusOK)
	_, err = c.w.Write(raw)
	return err
}

func (c *call) manifestHeader(d oci.Descriptor) {
	if d.MediaType == "" {
		d.MediaType = "application/octet-stream"
	}
	h := c.w.Header()
	h.Set("Content-Type", d.MediaType)
	h.Set("Content-Length", strconv.FormatInt(d.Size, 10))
	h.Set("Docker-Content-Digest", d.Digest.String())
	h.Set("Content-Disposition", "attachment")
}

func (g *Registry) deleteManifest(c *call) error {
	_, _, queued := g.pending(c)
	release, err := g.hold(c, []string{c.Tag})
	if err != nil {
		return err
	}
	// As with blobs, a client that leaves does not end it.
	err = c.target.Client.DeleteManifest(c.lasting(), c.repo, c.Reference())
	if queued && c.Tag != "" && errors.Is(err, oci.ErrManifestUnknown) {
		// It was not there yet, and will not be.
		err = nil
	}
	if err := release(c.lasting(), err == nil); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if c.Digest != "" {
		if err := g.Meta.DeleteManifest(c.lasting(), c.repo, c.Digest); err != nil {
			return err
		}
	}
	g.Audit.deletion(c)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
