package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
	"pushproxy/oci"
)

// open sends the head of a request and the first bytes of its body, and leaves
// the connection to the test.
func (r *rig) open(method, path string, length int, head []byte, headers ...string) net.Conn {
	r.t.Helper()
	conn, err := r.net.Dial(r.t.Context(), "", "")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: " + doorHost, fmt.Sprintf("Content-Length: %d", length)}, headers...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		r.t.Fatal(err)
	}
	if _, err := conn.Write(head); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

// statusOf reads the status line of an answer.
func statusOf(conn net.Conn) string {
	buf := make([]byte, 64)
	n, _ := io.ReadAtLeast(conn, buf, len("HTTP/1.1 200"))
	return strings.TrimPrefix(string(buf[:min(n, 12)]), "HTTP/1.1 ")
}

func TestAFailedClosingPutCanBeRepeated(t *testing.T) {
	blob := blobOf(2<<20 + 5)
	query := "?digest=" + digest.FromBytes(blob).String()
	wrong := "?digest=" + digest.FromString("x").String()
	for _, test := range []struct {
		name          string
		first         []byte // sent by PATCH before
		fail          string // query of the PUT that fails
		failBody, put []byte
	}{
		{"containerd repeats the whole body", nil, wrong, blob, blob},
		{"a whole body that was cut short is repeated", nil, query, blob[:1<<20+3], blob},
		{"skopeo repeats an empty PUT", blob, wrong, nil, nil},
		{"a long body that was wrong is repeated", nil, query, make([]byte, 18<<20), blob},
		{"a last part that was wrong is repeated", blob[:100], query, []byte("junk"), blob[100:]},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			at := r.begin(app)
			if test.first != nil {
				r.patch(at, test.first)
			}
			r.want(400, "PUT", at+test.fail, test.failBody)
			r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": fmt.Sprintf("0-%d", max(0, len(test.first)-1))})
			r.want(201, "PUT", at+query, test.put)
		})
	}
}

func TestAPutThatIsRepeatedAfterItsSuccessSucceeds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	blob := blobOf(3 << 20)
	d := digest.FromBytes(blob)
	at := r.begin(app)
	for _, body := range [][]byte{blob, blob, nil} {
		r.hasHeaders(r.want(201, "PUT", at+"?digest="+d.String(), body), flags{"Docker-Content-Digest": d.String(), "Location": app + "/blobs/" + d.String()})
	}
	r.want(404, "PUT", at+"?digest="+digest.FromString("never sent").String(), nil)
}

// Not every client reads an answer that comes before the end of its body.
func TestARepeatedPutIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		blob := blobOf(1 << 20)
		at := r.begin(app) + "?digest=" + digest.FromBytes(blob).String()
		r.want(201, "PUT", at, blob)
		conn := r.open("PUT", at, len(blob), blob[:len(blob)/2])
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if status := statusOf(conn); status != "" {
			t.Errorf("answered %s in the middle of the body", status)
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(blob[len(blob)/2:]); err != nil {
			t.Fatal(err)
		}
		if status := statusOf(conn); status != "201" {
			t.Errorf("status %q", status)
		}
	})
}

func TestAClientThatVanishesCanGoOn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		blob := blobOf(3 << 20)
		at := r.begin(app)
		r.open("PATCH", at, len(blob), blob[:1500000]).Close()
		r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-1499999"})
		at = r.patch(at, blob[1500000:], fmt.Sprintf("Content-Range: 1500000-%d", len(blob)-1))
		r.want(201, "PUT", at+"?digest="+digest.FromBytes(blob).String(), nil)
	})
}

func TestAClientThatVanishesInAPutLeavesWhatWasBefore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		at := r.patch(r.begin(app), []byte("01234"))
		query := "?digest=" + digest.FromString("0123456789").String()
		r.open("PUT", at+query, 5, []byte("56")).Close()
		r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-4"})
		r.want(201, "PUT", at+query, []byte("56789"))
	})
}

// A process that is killed in the middle of a body has stored more of it than
// any client was told.
func TestAfterAKillTheClientMayRepeatOrGoOn(t *testing.T) {
	const before, stored = 1<<20 + 7, 20 << 20
	blob := blobOf(stored + before)
	query := "?digest=" + digest.FromBytes(blob).String()
	whole := fmt.Sprintf("Content-Range: %d-%d", before, len(blob)-1)
	for _, test := range []struct {
		name, method string
		again        func(r *rig, at string)
	}{
		{"the PUT is repeated", "PUT", func(r *rig, at string) { r.want(201, "PUT", at+query, blob[before:]) }},
		{"the PUT is repeated with its range", "PUT", func(r *rig, at string) { r.want(201, "PUT", at+query, blob[before:], whole) }},
		{"the PATCH is repeated", "PATCH", func(r *rig, at string) { r.want(201, "PUT", r.patch(at, blob[before:])+query, nil) }},
		{"the PATCH is repeated with its range", "PATCH", func(r *rig, at string) { r.want(201, "PUT", r.patch(at, blob[before:], whole)+query, nil) }},
		{"the client asks and goes on", "PATCH", func(r *rig, at string) {
			var last int
			if _, err := fmt.Sscanf(r.want(204, "GET", at, nil).header.Get("Range"), "0-%d", &last); err != nil || last < before {
				r.t.Fatalf("nothing of the body was kept: %d %v", last, err)
			}
			r.want(201, "PUT", at+query, blob[last+1:], fmt.Sprintf("Content-Range: %d-%d", last+1, len(blob)-1))
		}},
		{"the client goes on somewhere and is told where", "PATCH", func(r *rig, at string) {
			var last int
			got := r.want(416, "PATCH", at, []byte("x"), "Content-Range: 3-3")
			if _, err := fmt.Sscanf(got.header.Get("Range"), "0-%d", &last); err != nil || last < before {
				r.t.Fatalf("nothing of the body was kept: %d %v", last, err)
			}
			r.want(201, "PUT", at+query, blob[last+1:], fmt.Sprintf("Content-Range: %d-%d", last+1, len(blob)-1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				at := r.patch(r.begin(app), blob[:before])
				r.open(test.method, at+query, len(blob)-before, blob[before:stored])
				synctest.Wait()
				r.start()
				test.again(r, at)
			})
		})
	}
}

func TestTwoRequestsOnOneUploadDoNotMix(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		at := r.begin(app)
		first := r.open("PATCH", at, 10, []byte("01234"))
		began := time.Now()
		for _, method := range []string{"PATCH", "GET", "DELETE", "PUT"} {
			got := r.want(409, method, at+"?digest="+digest.FromString("x").String(), []byte("zzz"))
			if code, _ := r.code(got); code != "BLOB_UPLOAD_INVALID" {
				t.Errorf("%s: code %s", method, code)
			}
		}
		if took := time.Since(began); took > 4*busyFor+time.Second {
			t.Errorf("the answers took %v", took)
		}
		if _, err := first.Write([]byte("56789")); err != nil {
			t.Fatal(err)
		}
		if status := statusOf(first); status != "202" {
			t.Errorf("the first request got %s", status)
		}
		r.want(201, "PUT", at+"?digest="+digest.FromString("0123456789").String(), nil)
	})
}

func TestARequestWaitsForTheOneBeforeIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		at := r.begin(app)
		first := r.open("PATCH", at, 10, []byte("01234"))
		time.AfterFunc(2*time.Second, func() { first.Close() })
		r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-4"})
	})
}

// full is a store on a full disk.
type full struct{ blobcache.Bodies }

// PutChunk implements blobcache.Bodies.
func (full) PutChunk(context.Context, string, int, []byte) error {
	return errors.Join(blobcache.ErrFull, oci.ErrStorageFull.With("the disk of the cache is full; free some space"))
}

func TestAFullDiskIsSaidSoAndTheUploadCanGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	blob := blobOf(2 << 20)
	query := "?digest=" + digest.FromBytes(blob).String()
	at := r.patch(r.begin(app), blob[:100])
	r.bodies = full{r.memory}
	r.start()
	for _, send := range []struct{ method, path string }{{"PUT", at + query}, {"PATCH", at}, {"POST", app + "/blobs/uploads/" + query}} {
		got, err := r.try(send.method, send.path, bytes.NewReader(blob[100:]))
		if err != nil || got.status != 507 {
			t.Fatalf("%s: status %d, %v", send.method, got.status, err)
		}
		if _, message := r.code(got); !strings.Contains(message, "free some space") {
			t.Errorf("%s: message %q", send.method, message)
		}
	}
	r.bodies = r.memory
	r.start()
	r.want(201, "PUT", at+query, blob[100:])
}
