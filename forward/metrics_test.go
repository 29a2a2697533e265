package forward

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"pushproxy/oci"
)

func TestPushesAreCountedByHowTheyEnded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		result Result
		err    error
		want   string
	}{
		{"what the upstream took is done", Result{}, nil, "done"},
		{"what it had is unchanged", Result{Unchanged: true}, nil, "unchanged"},
		{"what it refused has failed", Result{}, oci.ErrDenied, "failed"},
		{"a client that left has stopped it", Result{}, fmt.Errorf("push: %w", errAbandoned), "stopped"},
		{"so has whoever gave up waiting", Result{}, context.Canceled, "stopped"},
		{"and the end of the program", Result{}, ErrClosed, "stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := NewMetrics(func(string) string { return "other" })
			m.pushed("registry.test", time.Now(), c.result, c.err)
			text, err := testutil.CollectAndFormat(m.pushes, expfmt.TypeTextPlain, "pushproxy_push_duration_seconds")
			if want := fmt.Sprintf("pushproxy_push_duration_seconds_count{result=%q,upstream=\"other\"} 1", c.want); err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%v\n%s\nwant %s", err, text, want)
			}
		})
	}
}

func TestUploadsThatWaitAreSeen(t *testing.T) {
	t.Parallel()
	f := New(nil, nil)
	f.Uploads = func(string) int { return 2 }
	m := NewMetrics(func(host string) string { return host })
	m.Forward = f
	l := f.lane("registry.test")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		if _, err := l.acquire(ctx, "ann", 1); err != nil {
			t.Fatal(err)
		}
	}
	l.mu.Lock()
	l.waiting = append(l.waiting, &place{principal: "ann"})
	l.mu.Unlock()
	if got, want := m.lanes()["registry.test"], (laneCount{used: 2, waiting: 1, limit: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
