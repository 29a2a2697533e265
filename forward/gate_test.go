package forward

import (
	"net/http"
	"testing"

	"pushproxy/upstream/upstreamtest"
)

// gate stops the requests that match until open is closed.
type gate struct {
	open    chan struct{}
	arrived chan string
}

// hold makes a gate and closes it at the end of the test at the latest.
func hold(t *testing.T) *gate {
	g := &gate{open: make(chan struct{}), arrived: make(chan string, 1000)}
	t.Cleanup(g.pass)
	return g
}

func (g *gate) pass() {
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// wait is for the fake's Fail: it reports the request and holds it.
func (g *gate) wait(req *http.Request) {
	g.arrived <- req.Header.Get("Authorization") + " " + req.Method + " " + req.URL.Path
	select {
	case <-g.open:
	case <-req.Context().Done():
	}
}

// held is a rig whose upstream holds every request that match is true for.
func held(t *testing.T, match func(*http.Request) bool) (*rig, *gate) {
	g := hold(t)
	return memoryRig(t, &upstreamtest.Registry{Fail: func(req *http.Request) int {
		if match(req) {
			g.wait(req)
		}
		return 0
	}}), g
}
