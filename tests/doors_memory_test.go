package tests

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestUploadsInTunnelsAreStreamed pushes large layers through tunnels, over HTTP/2 and HTTP/1.1: bytes pass, nothing gathers.
func TestUploadsInTunnelsAreStreamed(t *testing.T) {
	if testing.Short() {
		leftOut(t, "the memory check writes a gigabyte, and -short was asked for")
	}
	if runtime.GOOS != "linux" {
		leftOut(t, "anonymous memory is read from /proc")
	}
	program := pushproxyProgram(t, buildPlain)
	d := startDoors(t, func(r *rig) { r.program = program })
	stop, peak := make(chan struct{}), make(chan int64)
	go sampleAnonymous(d.Pid(), stop, peak)
	var clients errgroup.Group
	for i := range 4 {
		a := d.inTunnel(t)
		a.client.Timeout = 10 * time.Minute
		transport := a.client.Transport.(*http.Transport)
		transport.ForceAttemptHTTP2 = i%2 == 0
		defer transport.CloseIdleConnections()
		clients.Go(func() error { return pushLarge(a, fmt.Sprintf("large/app%d", i), byte(100+i), 256<<20) })
	}
	err := clients.Wait()
	close(stop)
	most := <-peak
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("4 clients pushed layers of 256 MiB through tunnels; most anonymous memory: %d MiB", most>>20)
	if most > mostAnonymous {
		t.Errorf("anonymous memory reached %d MiB, at most %d are allowed", most>>20, mostAnonymous>>20)
	}
}
