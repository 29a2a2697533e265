package blobcache

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers of a cache: a prometheus.Collector. The fields are set
// before its first use.
type Metrics struct {
	Cache *Cache
	Quota int64                // bytes; 0: none
	Disk  func() (Disk, error) // of the store; nil: it is on none

	mu    sync.Mutex
	last  looked
	asked time.Time
}

// looked is what takes long enough to look up to be kept for a while.
type looked struct {
	usage    Usage
	disk     Disk
	counted  bool
	measured bool
}

// lookFor is how long what was looked up holds, and lookMost how long that may
// take.
const (
	lookFor  = 10 * time.Second
	lookMost = 10 * time.Second
)

// metric is one number, and how it is had.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*Cache) float64
}

// counts are the numbers that are kept as it happens.
func counts() []metric {
	count := func(name, help string, of func(*tally) int64) metric {
		return metric{describe(name, help), prometheus.CounterValue, func(c *Cache) float64 { return float64(of(&c.tally)) }}
	}
	return []metric{
		count("stored_blobs_total", "Blobs stored that were not in the cache.", func(t *tally) int64 { return t.stored.Load() }),
		count("stored_bytes_total", "Bytes of blobs stored that were not in the cache.", func(t *tally) int64 { return t.storedBytes.Load() }),
		count("evicted_blobs_total", "Blobs collected for a quota or their age.", func(t *tally) int64 { return t.evicted.Load() }),
		count("evicted_bytes_total", "Bytes of blobs collected for a quota or their age.", func(t *tally) int64 { return t.freed.Load() }),
		count("damaged_blobs_total", "Blobs found damaged and set aside.", func(t *tally) int64 { return t.damaged.Load() }),
	}
}

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("pushproxy_cache_"+name, help, nil, nil)
}

// sizes are the numbers that are looked up.
type sizes struct {
	blobs, bytes, quota, free, floor, readOnly, age *prometheus.Desc
	disk                                            *prometheus.Desc
}

func sizesOf() sizes {
	return sizes{
		blobs:    describe("blobs", "Blobs in the cache."),
		bytes:    describe("bytes", "Bytes of the blobs in the cache."),
		quota:    describe("quota_bytes", "Bytes that blobs may have by cache.quota; 0: any number."),
		free:     describe("disk_free_bytes", "Bytes free in the file system of the cache."),
		floor:    describe("disk_floor_bytes", "Bytes of the file system that nothing is stored into."),
		readOnly: describe("read_only", "Whether the cache stores nothing more, for want of space or since its disk failed."),
		age:      describe("oldest_use_timestamp_seconds", "When the blob was last used that was not used for longest."),
		disk: prometheus.NewDesc("pushproxy_cache_disk_bytes",
			"Bytes taken on the disk: by badger's tables, its log of values, and bodies in files.", []string{"part"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range counts() {
		ch <- c.desc
	}
	s := sizesOf()
	for _, d := range []*prometheus.Desc{s.blobs, s.bytes, s.quota, s.free, s.floor, s.readOnly, s.age, s.disk} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be had is left out.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range counts() {
		ch <- prometheus.MustNewConstMetric(c.desc, c.kind, c.of(m.Cache))
	}
	s := sizesOf()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.quota, float64(m.Quota))
	now := m.look()
	if now.counted {
		gauge(s.blobs, float64(now.usage.Blobs))
		gauge(s.bytes, float64(now.usage.Bytes))
		if !now.usage.Oldest.IsZero() {
			gauge(s.age, float64(now.usage.Oldest.Unix()))
		}
	}
	if !now.measured {
		return
	}
	disk := now.disk
	gauge(s.free, float64(disk.Free))
	gauge(s.floor, float64(disk.Floor))
	gauge(s.disk, float64(disk.Tables), "tables")
	gauge(s.disk, float64(disk.Log), "log")
	gauge(s.disk, float64(disk.Files), "files")
	readOnly := 0.
	if disk.ReadOnly() != "" {
		readOnly = 1
	}
	gauge(s.readOnly, readOnly)
}

// look returns what there is, as of ten seconds ago at most.
func (m *Metrics) look() looked {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.asked.IsZero() && time.Since(m.asked) < lookFor {
		return m.last
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookMost)
	defer cancel()
	var now looked
	var err error
	now.usage, err = m.Cache.Usage(ctx)
	now.counted = err == nil
	if m.Disk != nil {
		now.disk, err = m.Disk()
		now.measured = err == nil
	}
	m.last, m.asked = now, time.Now()
	return now
}
