package metadata_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/metadata"
)

// openBench opens a database for a benchmark.
func openBench(b *testing.B) *metadata.DB {
	kv, err := metadata.OpenBadger(b.Context(), b.TempDir()+"/meta", metadata.BadgerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := kv.Close(); err != nil {
			b.Error(err)
		}
	})
	return &metadata.DB{KV: kv}
}

// numbered returns digests that differ.
func numbered(n int) digest.Digest {
	return digest.Digest(fmt.Sprintf("sha256:%064x", n))
}

func BenchmarkGrant(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			db := openBench(b)
			var next atomic.Int64
			var group sync.WaitGroup
			b.ResetTimer()
			for range writers {
				group.Go(func() {
					for {
						n := int(next.Add(1))
						if n > b.N {
							return
						}
						if err := db.Grant(b.Context(), "local", numbered(n)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "grants/s")
		})
	}
}

func BenchmarkGrantAgain(b *testing.B) {
	db := openBench(b)
	for b.Loop() {
		if err := db.Grant(b.Context(), "local", numbered(1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGranted reads while nobody writes, and while eight writers keep
// the disk busy.
func BenchmarkGranted(b *testing.B) {
	for _, writers := range []int{0, 8} {
		b.Run(fmt.Sprintf("%d writers", writers), func(b *testing.B) {
			db := openBench(b)
			ctx, cancel := context.WithCancel(b.Context())
			var group sync.WaitGroup
			for w := range writers {
				group.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						_ = db.Grant(ctx, fmt.Sprint("writer", w), numbered(n))
					}
				})
			}
			var times []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := db.Granted(ctx, "local", numbered(1)); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
			}
			cancel()
			group.Wait()
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2])/1e3, "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100])/1e3, "p99-µs")
		})
	}
}
