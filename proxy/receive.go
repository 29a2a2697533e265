package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// bodyPause is how long a client may send nothing in the middle of a body.
const bodyPause = 60 * time.Second

// inOrder checks that a chunk begins where the upload ends, and returns the
// length that it announces, or -1. An error tells the client where to go on.
func (c *call) inOrder(u *blobcache.Upload) (int64, error) {
	text := c.r.Header.Get("Content-Range")
	if text == "" {
		return -1, nil
	}
	first, last, err := parseContentRange(text)
	if err != nil {
		return 0, err
	}
	if length := last - first + 1; c.r.ContentLength >= 0 && c.r.ContentLength != length {
		return 0, oci.ErrSizeInvalid.With("Content-Range announces %d bytes, Content-Length %d", length, c.r.ContentLength)
	}
	if first != u.Offset() {
		c.uploadHeader(u)
		return 0, oci.ErrRangeInvalid.With("the chunk begins at %d but the upload ends at %d; go on from there", first, u.Offset())
	}
	return last - first + 1, nil
}

// parseContentRange reads first-last, as the specification has it, or the form
// of HTTP, bytes first-last/total.
func parseContentRange(s string) (first, last int64, err error) {
	text, _, _ := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	a, b, ok := strings.Cut(text, "-")
	x, errA := strconv.ParseUint(a, 10, 62)
	y, errB := strconv.ParseUint(b, 10, 62)
	if !ok || errA != nil || errB != nil || y < x {
		return 0, 0, oci.ErrBlobUploadInvalid.With("Content-Range %q is not <first>-<last>", clip(s))
	}
	return int64(x), int64(y), nil
}

// receive copies the request's body into the upload and returns its length.
func (g *Registry) receive(c *call, u io.Writer) (int64, error) {
	body := &patientBody{r: c.r.Body, control: http.NewResponseController(c.w)}
	n, err := io.Copy(u, body)
	body.done()
	if err == nil && c.r.ContentLength >= 0 && n != c.r.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && (body.err != nil || errors.Is(err, io.ErrUnexpectedEOF)) {
		return n, oci.ErrBlobUploadInvalid.With("the connection broke after %d bytes of the body", n).Because(err)
	}
	return n, err
}

// patientBody reads a body for as long as something arrives now and then. Its
// deadline moves with the bytes, since no limit on the whole suits every layer.
type patientBody struct {
	r       io.Reader
	control *http.ResponseController
	until   time.Time
	err     error
}

func (b *patientBody) Read(p []byte) (int, error) {
	if now := time.Now(); b.until.Sub(now) < bodyPause/2 {
		b.until = now.Add(bodyPause)
		// A writer that has no deadlines is a test's.
		_ = b.control.SetReadDeadline(b.until)
	}
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// done takes the deadline away: the server watches the connection while the
// handler goes on.
func (b *patientBody) done() { _ = b.control.SetReadDeadline(time.Time{}) }
