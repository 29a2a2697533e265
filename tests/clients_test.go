package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// client is a real client with a home and storage of its own and no credential.
type client interface {
	// push sends a tag of the shared images to ref over plain HTTP and returns the digest that must then be upstream.
	push(t *testing.T, tag, ref string) string
	// pull fetches ref with Alice's credential into storage that never held it, and checks what came against what push sent.
	pull(t *testing.T, tag, ref string)
}

// clientKind says how a client is made and what it can push; all of them push single images.
type clientKind struct {
	name            string
	make            func(t *testing.T, home, host string) client
	multi, artifact bool
}

func clientKinds() []clientKind {
	return []clientKind{
		{"docker", newDocker, true, false},
		{"podman", newPodman, true, false},
		{"buildah", newBuildah, true, false},
		{"skopeo", newSkopeo, true, true},
		{"crane", newCrane, true, true},
		{"oras", newOras, true, true},
		{"regctl", newRegctl, true, true},
		{"ctr", newCtr, true, false}, // containerd 1.6 crashes on a blob without bytes, which the artifact has,
	}
}

// target is what a client is pointed at, and where its images must land.
type target struct {
	host, prefix string // clients push host/prefixREPOSITORY
	upstream     *parts.Registry
	rig          *rig // nil when clients speak to the upstream themselves
}

// startTarget runs pushproxy before a registry with passwords. With PUSHPROXY_TESTS_DIRECT=1 clients speak to an open
// registry without pushproxy: what fails then is the client's or the test's fault.
func startTarget(t *testing.T) target {
	t.Helper()
	if os.Getenv("PUSHPROXY_TESTS_DIRECT") == "1" {
		reg := startRegistry(t, parts.RegistryConfig{})
		return target{host: strings.Replace(reg.Host, "127.0.0.1", "localhost", 1), upstream: reg}
	}
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, nil)
	return target{host: fmt.Sprintf("localhost:%d", r.Port), prefix: upstreamName + "/", upstream: reg, rig: r}
}

func TestAClientWithoutCredentialsPushesAndTheUpstreamHoldsIt(t *testing.T) {
	t.Parallel()
	for _, kind := range clientKinds() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			to := startTarget(t)
			c := kind.make(t, t.TempDir(), to.host)
			tags := []string{"single"}
			if kind.multi {
				tags = append(tags, "multi")
			}
			if kind.artifact {
				tags = append(tags, "artifact")
			}
			for _, tag := range tags {
				repo := "acme/" + kind.name
				want := c.push(t, tag, to.host+"/"+to.prefix+repo+":"+tag)
				if got := upstreamAPI(to.upstream).pull(t, repo, tag); got != want {
					t.Errorf("%s: the client pushed %s, the upstream holds %s", tag, want, got)
				}
				c.pull(t, tag, to.upstream.Host+"/"+repo+":"+tag)
			}
			if to.rig != nil && len(to.rig.pushLines()) < len(tags) {
				t.Errorf("%d pushes left %d log lines of pushes", len(tags), len(to.rig.pushLines()))
			}
		})
	}
}

// digestInSample returns the digest of a tag of the shared images.
func digestInSample(t *testing.T, tag string) string {
	t.Helper()
	s := samples(t)
	switch tag {
	case "single":
		return s.single.Digest
	case "multi":
		return s.multi.Digest
	case "artifact":
		return s.artifact.Digest
	}
	t.Fatalf("no image %q among the samples", tag)
	return ""
}

// sampleRef is a tag of the shared images in the way podman, buildah and skopeo name OCI layouts.
func sampleRef(t *testing.T, tag string) string { return "oci:" + samples(t).dir + ":" + tag }

// authFile writes a credential file with Alice's account for host, which only pulls from the upstream get to see.
func authFile(t *testing.T, ref string) string {
	t.Helper()
	host, _, _ := strings.Cut(ref, "/")
	return writeFile(t, filepath.Join(t.TempDir(), "config.json"), dockerConfig(host, parts.Alice()), 0o600)
}

func wantEqual(t *testing.T, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("%s: got %q, want %q", what, strings.TrimSpace(got), strings.TrimSpace(want))
	}
}
