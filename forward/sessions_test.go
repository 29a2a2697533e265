package forward

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/metadata"
	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func aead(t *testing.T, key string) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher([]byte(strings.Repeat(key, 32)))
	noError(t, err)
	gcm, err := cipher.NewGCM(block)
	noError(t, err)
	return gcm
}

// breakOff pushes a blob whose upload breaks in the middle.
func breakOff(t *testing.T, seal cipher.AEAD) (r *rig, m oci.Manifest, size int64) {
	t.Helper()
	r = memoryRig(t, &upstreamtest.Registry{})
	r.Seal = seal
	b := r.blob("large", lastingSize+1)
	r.give("alice", b)
	r.reg.Inject(upstreamtest.Fault{Method: "PUT", Path: "/uploads/", Reset: true, ResetAt: lastingSize / 2})
	m = r.image(b)
	if _, err := r.push("alice", "app", "v1", m); !errors.Is(err, oci.ErrUpstream) {
		t.Fatalf("the first attempt: %v", err)
	}
	return r, m, int64(len(b))
}

func TestTheNextAttemptGoesOnWhereAnUploadBrokeOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, nil)
		r.pushed("alice", "app", "v1", m)
		if got := r.reg.Bytes(); got != size {
			t.Errorf("%d bytes were sent of %d", got, size)
		}
	})
}

func TestAnUploadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after    string // key of the installation after the restart
		fail     bool   // the upstream has lost the session
		sentOnce bool
	}{
		"with what was stored":             {"k", false, true},
		"with another secret, from anew":   {"x", false, false},
		"with a session that is not there": {"k", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, m, size := breakOff(t, aead(t, "k"))
				if c.fail {
					r.reg.Inject(upstreamtest.Fault{Method: "GET", Path: "/uploads/", Status: 404, Code: "BLOB_UPLOAD_UNKNOWN"})
				}
				for entry, err := range r.meta.KV.Scan(t.Context(), "session/") {
					noError(t, err)
					if strings.Contains(string(entry.Value), "/uploads/") {
						t.Error("the location is stored in clear text")
					}
				}
				noError(t, r.Close(t.Context()))
				r.Forwarder = New(r.cache, r.meta)
				r.Seal = aead(t, c.after)
				r.pushed("alice", "app", "v1", m)
				if got := r.reg.Bytes(); (got == size) != c.sentOnce || got > size*3/2+1 {
					t.Errorf("%d bytes were sent of %d", got, size)
				}
				for range r.meta.KV.Scan(t.Context(), "session/") {
					t.Error("what is done is still remembered")
				}
			})
		})
	}
}

func TestNobodyGoesOnWithAnothersUpload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, aead(t, "k"))
		r.give("bob", r.blob("large", lastingSize+1))
		r.pushed("bob", "app", "v1", m)
		if got := r.reg.Bytes(); got <= size {
			t.Errorf("%d bytes were sent of %d: bob went on with alice's upload", got, size)
		}
	})
}

func TestSessionsAreForgottenInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m, size := breakOff(t, aead(t, "k"))
		time.Sleep(keptFor + time.Minute)
		r.pushed("alice", "app", "v1", m)
		if got := r.reg.Bytes(); got <= size {
			t.Errorf("%d bytes were sent of %d", got, size)
		}
		_, ok, err := r.meta.Session(context.Background(), ownerOf("alice"), repo("app"), m.Blobs[0].Digest)
		if ok || err != nil {
			t.Errorf("it is still remembered: %v, %v", metadata.Session{}, err)
		}
	})
}
