package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"pushproxy/forward"
	"pushproxy/upstream/upstreamtest"
)

func TestAPulledBlobComesFromTheCacheTheSecondTime(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 10, "a buffer": pullBuffer, "large": 3<<20 + 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			blob := blobOf(size)
			d := r.up.AddBlob("acme/app", blob)
			for range 2 {
				got := r.want(200, "GET", app+"/blobs/"+d.String(), nil)
				r.hasHeaders(got, flags{
					"Content-Length": strconv.Itoa(size), "Docker-Content-Digest": d.String(), "Content-Type": "application/octet-stream",
					"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox",
				})
				if !bytes.Equal(got.body, blob) {
					t.Errorf("%d other bytes", len(got.body))
				}
			}
			if n := count(r.up.Requests(), "GET /v2/acme/app/blobs/"); n != 1 {
				t.Errorf("the upstream was asked %d times", n)
			}
		})
	}
}

func count(requests []string, prefix string) (n int) {
	for _, q := range requests {
		if strings.HasPrefix(q, prefix) {
			n++
		}
	}
	return n
}

// lies are what an upstream may send in place of the blob.
func lies(blob, flipped []byte) map[string]func(http.ResponseWriter) {
	size := len(blob)
	return map[string]func(http.ResponseWriter){
		"the last byte is wrong": func(w http.ResponseWriter) { _, _ = w.Write(flipped) },
		"it ends early":          func(w http.ResponseWriter) { _, _ = w.Write(blob[:size-1]) },
		"it ends early and says the right length": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			_, _ = w.Write(blob[:size/2])
		},
		"it goes on":    func(w http.ResponseWriter) { _, _ = w.Write(append(bytes.Clone(blob), 'x')) },
		"nothing comes": func(w http.ResponseWriter) { w.WriteHeader(200) },
		"it is compressed": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(blob)
		},
		"it is named otherwise": func(w http.ResponseWriter) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
			_, _ = w.Write(blob)
		},
		"the connection breaks": func(w http.ResponseWriter) {
			_, _ = w.Write(blob[:size/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	}
}

func TestS26BytesThatAreNotTheBlobNeverReachTheCacheOrTheClient(t *testing.T) {
	for _, size := range []int{1000, 3 << 20} {
		blob := blobOf(size)
		d := digest.FromBytes(blob)
		flipped := bytes.Clone(blob)
		flipped[size-1] ^= 1
		for name, serve := range lies(blob, flipped) {
			for _, part := range []string{"", "Range: bytes=0-9"} {
				t.Run(fmt.Sprint(name, " ", size, " ", part), func(t *testing.T) {
					t.Parallel()
					r := newRig(t)
					r.hook = func(w http.ResponseWriter, req *http.Request) bool {
						if req.Method == "GET" {
							serve(w)
						}
						return req.Method == "GET"
					}
					headers := []string{"Accept: */*"}
					if part != "" {
						headers = append(headers, part)
					}
					got, err := r.try("GET", app+"/blobs/"+d.String(), nil, headers...)
					switch {
					case err != nil:
					case got.status == 502:
						if code, message := r.code(got); code != "UNAVAILABLE" || !strings.Contains(message, "registry.test") {
							t.Errorf("%s %s", code, message)
						}
						r.hasHeaders(got, flags{"Docker-Content-Digest": "", "Content-Disposition": ""})
					case got.err == nil || part != "":
						t.Errorf("status %d, %d bytes, %v: the client cannot see that they are wrong", got.status, len(got.body), got.err)
					}
					if _, err := r.door.Cache.Stat(t.Context(), d); err == nil {
						t.Error("it was cached")
					}
					r.hook = nil
					r.want(404, "HEAD", app+"/blobs/"+d.String(), nil)
				})
			}
		}
	}
}

func TestTheLastBytesWaitForTheDigest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	blob := blobOf(1 << 20)
	d := digest.FromBytes(blob)
	r.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		_, _ = w.Write(append(bytes.Clone(blob[:len(blob)-1]), blob[len(blob)-1]^1))
		return true
	}
	got, err := r.try("GET", app+"/blobs/"+d.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.err == nil || len(got.body) > len(blob)-pullBuffer {
		t.Errorf("%d of %d bytes came, %v", len(got.body), len(blob), got.err)
	}
}

func TestManyPartsOfOneBlobAreOneFetch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	blob := blobOf(2 << 20)
	d := r.up.AddBlob("acme/app", blob)
	// The first request that reaches the upstream waits for all to be asked.
	arrived, gate := make(chan struct{}, 8), make(chan struct{})
	r.hook = func(http.ResponseWriter, *http.Request) bool { <-gate; return false }
	original := r.door.Target
	r.door.Target = func(ctx context.Context, principal, host string) (*forward.Target, error) {
		arrived <- struct{}{}
		return original(ctx, principal, host)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			got, err := r.try("GET", app+"/blobs/"+d.String(), nil, fmt.Sprintf("Range: bytes=%d-%d", i*1000, i*1000+9))
			if err != nil || got.status != 206 || !bytes.Equal(got.body, blob[i*1000:i*1000+10]) {
				t.Errorf("part %d: %d %v", i, got.status, err)
			}
		})
	}
	for range 8 {
		<-arrived
	}
	close(gate)
	group.Wait()
	if n := count(r.up.Requests(), "GET"); n > 2 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestAFullDiskDoesNotStopAPull(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.bodies = full{r.memory}
	r.start()
	blob := blobOf(3 << 20)
	d := r.up.AddBlob("acme/app", blob)
	if got := r.want(200, "GET", app+"/blobs/"+d.String(), nil); !bytes.Equal(got.body, blob) {
		t.Errorf("%d other bytes", len(got.body))
	}
	// A part goes through the cache.
	if _, message := r.code(r.want(507, "GET", app+"/blobs/"+d.String(), nil, "Range: bytes=0-9")); !strings.Contains(message, "free some space") {
		t.Errorf("message %q", message)
	}
	if !strings.Contains(r.log.String(), "a pulled blob is not kept") {
		t.Error("nothing was logged")
	}
}

func TestADamagedBlobEndsItsAnswerAndIsPulledTheNextTime(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, r *rig) {
		blob := blobOf(3 << 20)
		at := r.begin(app)
		d := digest.FromBytes(blob)
		r.want(201, "PUT", at+"?digest="+d.String(), blob)
		synctest.Wait()
		id := at[strings.LastIndex(at, "/")+1:]
		if err := r.memory.PutChunk(t.Context(), id, 1, []byte("not what was stored")); err != nil {
			t.Fatal(err)
		}
		got, err := r.try("GET", app+"/blobs/"+d.String(), nil)
		if err != nil || got.status != 200 || got.err == nil || len(got.body) > 1<<20 {
			t.Fatalf("status %d, %d bytes, %v, %v", got.status, len(got.body), got.err, err)
		}
		synctest.Wait()
		if !strings.Contains(r.log.String(), "damaged") {
			t.Error("nothing was logged")
		}
		if again := r.want(200, "GET", app+"/blobs/"+d.String(), nil); !bytes.Equal(again.body, blob) {
			t.Errorf("%d other bytes", len(again.body))
		}
		if n := count(r.up.Requests(), "GET /v2/acme/app/blobs/"); n != 1 {
			t.Errorf("the upstream was asked %d times", n)
		}
	})
}

func TestARefusedPullSaysWhy(t *testing.T) {
	for _, test := range []struct {
		name   string
		set    func(*rig)
		status int
		code   string
		words  string
	}{
		{"no such blob", func(*rig) {}, 404, "BLOB_UNKNOWN", "registry.test"},
		{"a login is missing", func(r *rig) { r.up.Auth = &upstreamtest.Auth{Username: "u", Password: "p"} }, 403, "DENIED", "docker login registry.test"},
		{"the upstream fails", func(r *rig) { r.up.Inject(upstreamtest.Fault{Status: 503, Times: -1}) }, 502, "UNAVAILABLE", "registry.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			test.set(r)
			code, message := r.code(r.want(test.status, "GET", app+"/blobs/"+digest.FromString("x").String(), nil))
			if code != test.code || !strings.Contains(message, test.words) {
				t.Errorf("%s %s", code, message)
			}
		})
	}
}
