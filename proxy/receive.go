package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

const (
	// bodyPause is how long a client may take over bodyLeast bytes of a body.
	// Only the waiting counts, not what is done with the bytes meanwhile.
	bodyPause = 60 * time.Second
	// bodyLeast, in bytes, makes 1 KiB/s the slowest client (trust.md S28).
	bodyLeast = 60 << 10
)

// errBroken ends a body that the client did not send to its end.
var errBroken = errors.New("the body broke off")

// align makes the upload end where the request's body begins, and returns the
// length that Content-Range announces, or -1. An error tells the client where to
// go on.
//
// An upload may end behind its base when the process was killed in the middle of
// a body. No client had an answer about those bytes, so one that repeats the
// body begins at the base.
func (c *call) align(u *blobcache.Upload) (length int64, err error) {
	first, last, ranged := u.Base(), int64(-1), c.r.Header.Get("Content-Range")
	if ranged != "" {
		if first, last, err = parseContentRange(ranged); err != nil {
			return 0, err
		}
		length = last - first + 1
	}
	if u.Base() != u.Offset() {
		settle := u.Checkpoint
		if first == u.Base() {
			settle = u.Rollback
		}
		if err := settle(c.lasting()); err != nil {
			return 0, err
		}
	}
	if first != u.Offset() {
		c.uploadHeader(u)
		return 0, oci.ErrRangeInvalid.With("the chunk begins at %d but the upload ends at %d; go on from there", first, u.Offset())
	}
	if ranged == "" {
		return -1, nil
	}
	return length, nil
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

// receive copies the request's body, which has the length unless that is
// negative. A body that breaks off is errBroken; what came of it was written.
func (c *call) receive(w io.Writer, length int64) error {
	body := newPatientBody(c)
	from := io.Reader(body)
	if c.charge != nil {
		from = &charged{body, c.charge}
	}
	if length >= 0 {
		from = io.LimitReader(body, length+1)
	}
	n, err := io.Copy(w, from)
	switch {
	case body.err != nil:
		return body.broken(oci.ErrBlobUploadInvalid, n)
	case err != nil:
		return err
	case length >= 0 && n != length:
		return oci.ErrSizeInvalid.With("Content-Range announces %d bytes, and the body has another length", length)
	}
	return nil
}

// patientBody reads a request's body for as long as enough of it arrives. Its
// deadline moves with the bytes, since no limit on the whole suits every layer.
type patientBody struct {
	r       io.Reader
	control *http.ResponseController
	left    time.Duration // of waiting for
	want    int           // so many bytes more
	err     error         // of the client, other than io.EOF
	total   int64         // bytes so far
	seen    func(int64)   // told of the total as it grows, or nil
}

func newPatientBody(c *call) *patientBody {
	return &patientBody{r: c.r.Body, control: http.NewResponseController(c.w), left: bodyPause, want: bodyLeast, seen: c.seen}
}

// Read implements io.Reader.
func (b *patientBody) Read(p []byte) (int, error) {
	began := time.Now()
	_ = b.control.SetReadDeadline(began.Add(b.left))
	n, err := b.r.Read(p)
	b.left -= time.Since(began)
	if b.total += int64(n); n > 0 && b.seen != nil {
		b.seen(b.total)
	}
	if b.want -= n; b.want <= 0 {
		b.left, b.want = bodyPause, bodyLeast
	}
	switch {
	case err == io.EOF:
		// From here on, and from the start where there is no body, the server reads
		// to see whether the client is still there, and takes a deadline for its end.
		_ = b.control.SetReadDeadline(time.Time{})
	case err != nil:
		b.err = err
	}
	return n, err
}

// broken is the error of a body that broke off after n bytes.
func (b *patientBody) broken(as *oci.Error, n int64) error {
	cause := errors.Join(errBroken, b.err)
	if errors.Is(b.err, os.ErrDeadlineExceeded) {
		e := *as.With("the client sent less than 1 KiB/s for a minute, and %d bytes in all; send the rest, or all again, over a faster connection", n).Because(cause)
		e.Status = http.StatusRequestTimeout
		return &e
	}
	return as.With("the connection broke after %d bytes of the body; send it again", n).Because(cause)
}
