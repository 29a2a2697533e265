package blobcache_test

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pushproxy/blobcache"
	"pushproxy/blobcache/blobcachetest"
)

func TestMetricsTellWhatIsStoredCollectedAndDamaged(t *testing.T) {
	t.Parallel()
	store := blobcache.NewMemory()
	a := newAged(t, store)
	old := a.put(1)
	a.pass(2 * time.Hour)
	hurt := a.put(2)
	for upload := range store.Uploads(t.Context()) {
		chunk, err := store.GetChunk(t.Context(), upload, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(chunk), string(blobcachetest.Bytes(2, 1000)[:100])) {
			chunk[5] ^= 1
			if err := store.PutChunk(t.Context(), upload, 0, chunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, err := a.Open(t.Context(), hurt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, b); err == nil {
		t.Fatal("damage was not noticed")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	a.collect(blobcache.Limits{Quota: 1})
	if _, err := a.Stat(t.Context(), old); err == nil {
		t.Fatal("nothing was collected")
	}
	a.put(3)
	disk := blobcache.Disk{Free: 50, Floor: 100, Tables: 7}
	m := &blobcache.Metrics{Cache: a.Cache, Quota: 4096, Disk: func() (blobcache.Disk, error) { return disk, nil }}
	const want = `
# HELP pushproxy_cache_blobs Blobs in the cache.
# TYPE pushproxy_cache_blobs gauge
pushproxy_cache_blobs 1
# HELP pushproxy_cache_bytes Bytes of the blobs in the cache.
# TYPE pushproxy_cache_bytes gauge
pushproxy_cache_bytes 1000
# HELP pushproxy_cache_damaged_blobs_total Blobs found damaged and set aside.
# TYPE pushproxy_cache_damaged_blobs_total counter
pushproxy_cache_damaged_blobs_total 1
# HELP pushproxy_cache_evicted_bytes_total Bytes of blobs collected for a quota or their age.
# TYPE pushproxy_cache_evicted_bytes_total counter
pushproxy_cache_evicted_bytes_total 1000
# HELP pushproxy_cache_quota_bytes Bytes that blobs may have by cache.quota; 0: any number.
# TYPE pushproxy_cache_quota_bytes gauge
pushproxy_cache_quota_bytes 4096
# HELP pushproxy_cache_read_only Whether the cache stores nothing more, for want of space or since its disk failed.
# TYPE pushproxy_cache_read_only gauge
pushproxy_cache_read_only 1
# HELP pushproxy_cache_stored_blobs_total Blobs stored that were not in the cache.
# TYPE pushproxy_cache_stored_blobs_total counter
pushproxy_cache_stored_blobs_total 3
`
	err = testutil.CollectAndCompare(m, strings.NewReader(want), "pushproxy_cache_blobs", "pushproxy_cache_bytes", "pushproxy_cache_damaged_blobs_total",
		"pushproxy_cache_evicted_bytes_total", "pushproxy_cache_quota_bytes", "pushproxy_cache_read_only", "pushproxy_cache_stored_blobs_total")
	if err != nil {
		t.Error(err)
	}
}

func TestADiskSaysWhatItsPartsTake(t *testing.T) {
	t.Parallel()
	s, err := blobcache.OpenFiles(filepath.Join(t.TempDir(), "blobs"), blobcache.FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	p := blobcachetest.Bytes(1, size)
	c := blobcache.New(s, s)
	commit(t, c, p)
	if _, err := c.Stat(t.Context(), digest.FromBytes(p)); err != nil {
		t.Fatal(err)
	}
	after, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.Files - before.Files; grown < size || grown > 2*size {
		t.Errorf("a body of %d bytes takes %d in files", size, grown)
	}
	if after.Free <= 0 || after.Floor <= 0 || after.Log <= 0 || after.Log > 1<<30 || after.ReadOnly() != "" {
		t.Errorf("%+v", after)
	}
}
