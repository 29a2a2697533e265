package blobcachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/blobcache"
)

func damagedChunks(t *testing.T, s Store) {
	ctx := t.Context()
	for _, size := range []int{10, mib + 70<<10} {
		for name, damage := range map[string]func(id string, n int, sealed []byte) error{
			"first bit":  func(id string, n int, p []byte) error { p[0] ^= 1; return s.PutChunk(ctx, id, n, p) },
			"last bit":   func(id string, n int, p []byte) error { p[len(p)-1] ^= 0x80; return s.PutChunk(ctx, id, n, p) },
			"shorter":    func(id string, n int, p []byte) error { return s.PutChunk(ctx, id, n, p[:len(p)-1]) },
			"a byte":     func(id string, n int, p []byte) error { return s.PutChunk(ctx, id, n, p[:1]) },
			"longer":     func(id string, n int, p []byte) error { return s.PutChunk(ctx, id, n, append(p, 0)) },
			"other's":    func(id string, n int, p []byte) error { return s.PutChunk(ctx, id, n, otherChunk(ctx, s, id, n)) },
			"all absent": func(id string, _ int, _ []byte) error { return s.Drop(ctx, id) },
		} {
			for n := range (size + mib - 1) / mib {
				c := blobcache.New(s, s)
				p := Bytes(n, size)
				u := begin(t, c, "")
				write(t, u, p)
				d := digest.FromBytes(p)
				must(t, "Commit", u.Commit(ctx, d))
				sealed, err := s.GetChunk(ctx, u.ID(), n, nil)
				must(t, "GetChunk", err)
				must(t, "damage", damage(u.ID(), n, sealed))
				wantDamage(t, fmt.Sprintf("%d bytes, chunk %d, %s", size, n, name), c, d, p, n)
				store(t, c, p)
				wantBlob(t, c, d, p)
				must(t, "Remove", c.Remove(ctx, d))
			}
		}
	}
}

// otherChunk returns a chunk as stored for another upload with the same length.
func otherChunk(ctx context.Context, s Store, id string, n int) []byte {
	p, err := s.GetChunk(ctx, id, n, nil)
	if err != nil {
		return nil
	}
	c := blobcache.New(s, s)
	u, err := c.Begin(ctx, "", "")
	if err != nil {
		return nil
	}
	defer u.Release()
	if _, err := u.Write(Bytes(99, n*mib+len(p)-4)); err != nil || u.Checkpoint(ctx) != nil {
		return nil
	}
	p, _ = s.GetChunk(ctx, u.ID(), n, nil)
	return p
}

// wantDamage reads the blob, whose chunk n is damaged: what comes must be
// right, not whole, and end in ErrDamaged, and the blob be unknown then.
func wantDamage(t *testing.T, what string, c *blobcache.Cache, d digest.Digest, p []byte, n int) {
	t.Helper()
	b, err := c.Open(t.Context(), d)
	must(t, what, err)
	defer b.Close()
	if n > 0 {
		// A range read from the damaged chunk itself fails too.
		if _, err := b.Seek(int64(n)*mib, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(b)
		if len(got) > 0 || !errors.Is(err, blobcache.ErrDamaged) {
			t.Fatalf("%s: range read: %d bytes, %v; want none and ErrDamaged", what, len(got), err)
		}
		wantMiss(t, c, d)
		return
	}
	got, err := io.ReadAll(b)
	if !errors.Is(err, blobcache.ErrDamaged) || len(got) >= len(p) || !bytes.HasPrefix(p, got) {
		t.Fatalf("%s: %d of %d bytes, %v; want ErrDamaged before the end", what, len(got), len(p), err)
	}
	if again, err := b.Read(make([]byte, 1)); again != 0 || !errors.Is(err, blobcache.ErrDamaged) {
		t.Fatalf("%s: read again: %d, %v", what, again, err)
	}
	wantMiss(t, c, d)
}

func damagedRecords(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 1000)
	for _, damage := range []func([]byte) []byte{
		func(r []byte) []byte { r[len(r)/2] ^= 1; return r },
		func(r []byte) []byte { return r[:len(r)-1] },
		func([]byte) []byte { return []byte("x") },
		func([]byte) []byte { return []byte("{}0000") },
	} {
		d := store(t, c, p)
		swapRecord(t, s, "blob/"+string(d), damage)
		wantMiss(t, c, d)

		u := begin(t, c, "")
		write(t, u, p)
		must(t, "Checkpoint", u.Checkpoint(t.Context()))
		u.Release()
		swapRecord(t, s, "upload/"+u.ID(), damage)
		_, err := c.Resume(t.Context(), u.ID())
		wantErr(t, "Resume", err, blobcache.ErrUnknown)
	}
	// A record that is whole but another blob's leads to other bytes.
	d := store(t, c, p)
	other := store(t, c, Bytes(2, 1000))
	record, err := s.Get(t.Context(), "blob/"+string(other))
	must(t, "Get", err)
	swapRecord(t, s, "blob/"+string(d), func([]byte) []byte { return record })
	wantMiss(t, c, d)
	swapped := digest.FromString("never stored")
	if _, err := s.Swap(t.Context(), "blob/"+string(swapped), nil, record); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Sweep(t.Context(), 0); err != nil || n == 0 {
		t.Fatalf("Sweep: %d, %v", n, err)
	}
	keys := Collect(t, s.Scan(t.Context(), ""+"blob/"))
	if len(keys) != 1 || !strings.HasSuffix(keys[0].Key, string(other)) {
		t.Errorf("%d blob records are left, want one", len(keys))
	}
}

func swapRecord(t *testing.T, s Store, key string, change func([]byte) []byte) {
	t.Helper()
	old, err := s.Get(t.Context(), key)
	if err != nil || old == nil {
		t.Fatalf("Get(%s): %v", key, err)
	}
	if ok, err := s.Swap(t.Context(), key, old, change(bytes.Clone(old))); err != nil || !ok {
		t.Fatalf("Swap(%s): %t, %v", key, ok, err)
	}
}

func seeks(t *testing.T, s Store) {
	c := blobcache.New(s, s)
	p := Bytes(1, 3*mib+100)
	b, err := c.Open(t.Context(), store(t, c, p))
	must(t, "Open", err)
	if b.Size() != int64(len(p)) {
		t.Fatalf("Size %d", b.Size())
	}
	r := bytes.NewReader(p)
	for _, step := range []struct {
		offset int64
		whence int
		read   int
	}{
		{0, io.SeekEnd, 1}, {0, io.SeekStart, 10}, {mib - 5, io.SeekCurrent, 10}, {-50, io.SeekEnd, 100},
		{2 * mib, io.SeekStart, mib}, {0, io.SeekStart, 4 * mib}, {-1, io.SeekStart, 1}, {9 * mib, io.SeekStart, 1}, {0, 7, 1},
	} {
		want, wantErr := r.Seek(step.offset, step.whence)
		got, err := b.Seek(step.offset, step.whence)
		if (err == nil) != (wantErr == nil) || got != want {
			t.Fatalf("Seek(%d, %d): %d, %v; want %d, %v", step.offset, step.whence, got, err, want, wantErr)
		}
		wantBytes, _ := io.ReadAll(io.LimitReader(r, int64(step.read)))
		gotBytes, err := io.ReadAll(io.LimitReader(b, int64(step.read)))
		if err != nil || !bytes.Equal(gotBytes, wantBytes) {
			t.Fatalf("after Seek(%d, %d): %d bytes, %v; want %d", step.offset, step.whence, len(gotBytes), err, len(wantBytes))
		}
	}
	_, err = b.Seek(5, io.SeekStart)
	must(t, "Seek", err)
	var out bytes.Buffer
	if n, err := b.WriteTo(&out); n != int64(len(p)-5) || err != nil || !bytes.Equal(out.Bytes(), p[5:]) {
		t.Fatalf("WriteTo: %d, %v", n, err)
	}
	must(t, "Close", b.Close())
	must(t, "Close", b.Close())
	if _, err := b.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after Close: %v", err)
	}
}
