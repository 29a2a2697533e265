package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestS28SlowClients(t *testing.T) {
	for _, test := range []struct {
		name   string
		every  time.Duration
		bytes  int
		status string
	}{
		{"one that sends nothing is given up after a minute", 90 * time.Second, 1, "408"},
		{"one that sends a byte now and then is given up too", 10 * time.Second, 1, "408"},
		{"one that is slow but steady is not", 50 * time.Second, 64 << 10, "202"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				at := r.begin(app)
				blob := blobOf(1 << 20)
				conn := r.open("PATCH", at, len(blob), nil)
				go func() {
					for i := 0; i < len(blob); i += test.bytes {
						time.Sleep(test.every)
						if _, err := conn.Write(blob[i:min(len(blob), i+test.bytes)]); err != nil {
							return
						}
					}
				}()
				if status := statusOf(conn); status != test.status {
					t.Fatalf("status %q, want %s", status, test.status)
				}
				conn.Close()
				r.want(204, "GET", at, nil)
			})
		})
	}
}

// deadlines is a writer that remembers the last read deadline.
type deadlines struct {
	http.ResponseWriter
	last time.Time
}

// SetReadDeadline is what http.ResponseController calls.
func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.last = t
	return nil
}

func TestNoDeadlineStaysBehindABody(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "body"} {
		d := &deadlines{last: time.Now()}
		c := &call{w: d, r: &http.Request{Body: io.NopCloser(strings.NewReader(body))}}
		if err := c.receive(io.Discard, -1); err != nil || !d.last.IsZero() {
			t.Errorf("%q: %v, the deadline is %v", body, err, d.last)
		}
	}
}

// The server reads what a handler leaves of a body, and would do so for ever.
func TestABodyThatNobodyWantsDoesNotHoldTheConnection(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		conn := r.open("PATCH", app+"/blobs/uploads/none", 1000, []byte("x"))
		began := time.Now()
		if status := statusOf(conn); status != "404" {
			t.Errorf("status %q, want 404", status)
		}
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(began); took > leftFor+time.Second {
			t.Errorf("the connection was held for %v", took)
		}
	})
}

func TestS28AClientThatDoesNotReadIsGivenUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		d := r.pushBlob(app, blobOf(3<<20))
		conn := r.open("GET", app+"/blobs/"+d.String(), 0, nil)
		time.Sleep(2 * readPause)
		n, err := io.Copy(io.Discard, conn)
		if err != nil || n > 1<<20 {
			t.Errorf("the connection was still there after two minutes: %d bytes, %v", n, err)
		}
		r.want(200, "HEAD", app+"/blobs/"+d.String(), nil)
	})
}

func TestAClientThatReadsSlowlyButSteadilyGetsAllOfABlob(t *testing.T) {
	t.Parallel()
	for name, fast := range map[string]int64{"from the start": 0, "after it was fast": 2<<20 + 500<<10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				blob := blobOf(5<<20 + 7)
				d := r.pushBlob(app, blob)
				conn := r.open("GET", app+"/blobs/"+d.String(), 0, nil)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if _, err := io.CopyN(&got, resp.Body, fast); err != nil {
					t.Fatal(err)
				}
				for err == nil && got.Len() < len(blob) {
					time.Sleep(readPause - 10*time.Second)
					_, err = io.CopyN(&got, resp.Body, 2*leastPiece)
				}
				if !bytes.Equal(got.Bytes(), blob) {
					t.Errorf("%d bytes of %d came: %v", got.Len(), len(blob), err)
				}
			})
		})
	}
}

func TestS28AClientThatReadsAFewBytesNowAndThenIsGivenUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		d := r.pushBlob(app, blobOf(3<<20))
		conn := r.open("GET", app+"/blobs/"+d.String(), 0, nil)
		reader := bufio.NewReader(conn)
		if _, err := io.CopyN(io.Discard, reader, 1<<20); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for err := error(nil); err == nil; {
			time.Sleep(10 * time.Second)
			_, err = io.CopyN(io.Discard, conn, 1000)
		}
		if took := time.Since(began); took > 3*readPause {
			t.Errorf("it was given up after %v only", took)
		}
	})
}
