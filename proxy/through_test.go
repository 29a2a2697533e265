package proxy

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// slowManifests makes the upstream take its time over every manifest.
func (r *rig) slowManifests(by time.Duration) {
	r.hook = func(_ http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
			time.Sleep(by)
		}
		return false
	}
}

func TestAnImpatientClientIsAskedToRepeatAndJoinsThePushUnderWay(t *testing.T) {
	for agent, answers := range map[string][]int{
		"containerd/2.4.2": {408, 408, 201},
		"docker/29.1.0 go/go1.26 UpstreamClient(containerd-client/2.2.0 docker/29.1.0)": {408, 408, 201},
		"docker/20.10.24": {201},
		"skopeo/1.9.3":    {201},
	} {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				r.slowManifests(70 * time.Second)
				blob := blobOf(100)
				r.pushBlob(app, blob)
				for i, want := range answers {
					began := time.Now()
					got, err := r.try("PUT", app+"/manifests/v1", bytes.NewReader(image(blob)), "User-Agent: "+agent)
					if err != nil || got.status != want {
						t.Fatalf("answer %d: %d %v, want %d", i+1, got.status, err, want)
					}
					if took := time.Since(began); len(answers) > 1 && took > 29*time.Second {
						t.Errorf("answer %d took %s, and such clients give up after 30s", i+1, took)
					}
				}
				puts := 0
				for _, request := range r.up.Log() {
					if request.Method == http.MethodPut && strings.Contains(request.Path, "/manifests/") {
						puts++
					}
				}
				if puts != 1 {
					t.Errorf("the manifest was put %d times upstream, want once", puts)
				}
			})
		})
	}
}

// paceTest is the length of a blob whose beginning is held back.
const paceTest = unread + 12<<20

func TestOnlyAnImpatientClientIsHeldToTheUpstreamsPace(t *testing.T) {
	for agent, held := range map[string]bool{"containerd/2.4.2": true, "oras/1.3.2": false} {
		t.Run(agent, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, r *rig) {
				open := make(chan struct{})
				r.hook = func(_ http.ResponseWriter, req *http.Request) bool {
					if req.Method == http.MethodPut && strings.Contains(req.URL.RawQuery, "digest=") {
						<-open
					}
					return false
				}
				blob := blobOf(paceTest)
				at := r.begin(app)
				done := make(chan int)
				go func() {
					got, err := r.try("PUT", at+"?digest="+digest.FromBytes(blob).String(), bytes.NewReader(blob), "User-Agent: "+agent)
					if err != nil {
						t.Error(err)
					}
					done <- got.status
				}()
				synctest.Wait()
				time.Sleep(20 * time.Second)
				select {
				case status := <-done:
					if held || status != 201 {
						t.Errorf("answered %d while the upstream had taken nothing", status)
					}
				default:
					if !held {
						t.Error("a client that can wait was held back")
					}
				}
				close(open)
				if held {
					if status := <-done; status != 201 {
						t.Errorf("status %d after the wait", status)
					}
				}
			})
		})
	}
}
