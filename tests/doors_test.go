package tests

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// doors is a pushproxy with a forward-proxy door before a TLS upstream with passwords. Clients name the upstream
// registry.test, which nothing but the door can resolve.
type doors struct {
	*rig
	upstream *parts.Registry
	cert     authority // the upstream's
	proxy    string    // address of the forward-proxy door
}

func startDoors(t *testing.T, change func(*rig)) *doors {
	t.Helper()
	d := prepareDoors(t, change)
	d.start(t)
	return d
}

func prepareDoors(t *testing.T, change func(*rig)) *doors {
	t.Helper()
	pushproxyProgram(t, buildRace)
	d := &doors{cert: newAuthority(t)}
	d.upstream = startRegistry(t, parts.RegistryConfig{Htpasswd: true, CertFile: d.cert.certFile, KeyFile: d.cert.keyFile})
	d.proxy = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	d.rig = prepare(t, d.upstream.URL, func(r *rig) {
		r.config.Upstreams[0].CAFile = d.cert.caFile
		r.config.ForwardProxy.Listen = []string{d.proxy}
		if change != nil {
			change(r)
		}
	})
	return d
}

// caFile is what clients are told to trust.
func (d *doors) caFile() string { return filepath.Join(d.config.DataDir, "ca", "ca.pem") }

// env is the environment of a client that goes through the door.
func (d *doors) env(home string, more ...string) []string {
	return cleanEnv(home, append([]string{"HTTPS_PROXY=http://" + d.proxy, "SSL_CERT_FILE=" + d.caFile()}, more...)...)
}

// inTunnel is an API client that speaks through the door, trusting its CA alone.
func (d *doors) inTunnel(t *testing.T) api {
	t.Helper()
	return api{url: "https://" + upstreamName, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: d.proxy}),
		TLSClientConfig:   &tls.Config{RootCAs: d.pool(t)},
		ForceAttemptHTTP2: true,
	}}}
}

func (d *doors) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(readFile(t, d.caFile()))) {
		t.Fatal("the CA's file holds no certificate")
	}
	return pool
}

// holds checks that the upstream has what was pushed.
func (d *doors) holds(t *testing.T, repo, tag, want string) {
	t.Helper()
	up := api{url: d.upstream.URL, user: parts.Alice(), client: d.cert.client()}
	if got := up.pull(t, repo, tag); got != want {
		t.Errorf("the client pushed %s, the upstream holds %s as %s:%s", want, got, repo, tag)
	}
}

// tunnel opens a tunnel by hand.
func (d *doors) tunnel(t *testing.T, authority string) (net.Conn, *http.Response) {
	t.Helper()
	c, err := net.DialTimeout("tcp", d.proxy, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("CONNECT %s: %v", authority, err)
	}
	return c, resp
}

// secure does the handshake in a tunnel, over HTTP/1.1.
func (d *doors) secure(t *testing.T, c net.Conn, name string) *tls.Conn {
	t.Helper()
	inner := tls.Client(c, &tls.Config{RootCAs: d.pool(t), ServerName: name})
	if err := inner.Handshake(); err != nil {
		t.Fatal(err)
	}
	return inner
}

func TestRealClientsPushAndPullTheRealNameThroughTheForwardProxyDoor(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"podman", "buildah", "skopeo", "crane", "oras", "regctl"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDoors(t, nil)
			home := shortDir(t)
			ref := upstreamName + "/team/" + name + ":v1"
			want := doorPush(t, name, home, d.env(home), ref)
			d.holds(t, "team/"+name, "v1", want)
		})
	}
}

// doorPush pushes the single image to a real name with no credential and no insecure flag, pulls it back the same way, and
// returns the digest that must be upstream.
func doorPush(t *testing.T, name, home string, env []string, ref string) string {
	t.Helper()
	run := func(program string, args ...string) string {
		t.Helper()
		return command{env: env}.run(t, program, args...)
	}
	want := digestInSample(t, "single")
	digestFile := filepath.Join(home, "digest")
	switch name {
	case "podman", "buildah":
		program := system(t, name)
		policy := writeFile(t, filepath.Join(home, ".config", "containers", "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`, 0o600)
		env = append(env, "CONTAINERS_REGISTRIES_CONF="+writeFile(t, filepath.Join(filepath.Dir(policy), "registries.conf"), "unqualified-search-registries = []\n", 0o600))
		flags := []string{"--storage-driver=vfs", "--root=" + filepath.Join(home, "root"), "--runroot=" + filepath.Join(home, "run")}
		if name == "podman" {
			flags = append(flags, "--cgroup-manager=cgroupfs", "--events-backend=file")
		}
		id := lastLine(run(program, append(flags, "pull", "-q", sampleRef(t, "single"))...))
		run(program, append(flags, "push", "--digestfile="+digestFile, id, "docker://"+ref)...)
		wantEqual(t, "the id of what was pulled", lastLine(run(program, append(flags, "pull", "-q", "docker://"+ref)...)), id)
		return readFile(t, digestFile)
	case "skopeo":
		run(system(t, name), "--insecure-policy", "copy", "--all", "--preserve-digests", sampleRef(t, "single"), "docker://"+ref)
		run(system(t, name), "--insecure-policy", "copy", "--all", "--preserve-digests", "--digestfile", digestFile, "docker://"+ref, "oci:"+t.TempDir()+":pulled")
		wantEqual(t, "what skopeo pulled", readFile(t, digestFile), want)
	case "crane":
		run(tool(t, name), "push", layoutOfOne(t, "single"), ref)
		run(tool(t, name), "pull", "--format=oci", ref, t.TempDir())
		wantEqual(t, "crane digest", run(tool(t, name), "digest", ref), want)
	case "oras":
		run(tool(t, name), "cp", "--no-tty", "--from-oci-layout", samples(t).dir+":single", ref)
		run(tool(t, name), "cp", "--no-tty", "--to-oci-layout", ref, t.TempDir()+":pulled")
	case "regctl":
		run(tool(t, name), "image", "copy", "ocidir://"+samples(t).dir+":single", ref)
		wantEqual(t, "regctl digest", run(tool(t, name), "image", "digest", ref), want)
	default:
		t.Fatalf("no client %q", name)
	}
	return want
}

func TestDockerPushesAndPullsTheRealNameThroughTheForwardProxyDoor(t *testing.T) {
	t.Parallel()
	d := startDoors(t, nil)
	certs := t.TempDir()
	writeFile(t, filepath.Join(certs, upstreamName, "pushproxy.crt"), readFile(t, d.caFile()), 0o644)
	first := proxiedDocker(t, certs, "HTTPS_PROXY=http://"+d.proxy)
	ref := upstreamName + "/team/app:v1"
	s := samples(t)
	first.load(t, s, s.single, ref)
	d.holds(t, "team/app", "v1", first.pushLoaded(t, ref))
	second := proxiedDocker(t, certs, "HTTPS_PROXY=http://"+d.proxy)
	second.run(t, second.socket, "pull", "-q", ref)
	var m manifest
	readBlob(t, s, s.single.Digest, &m)
	wantEqual(t, "the id of the pulled image", second.run(t, second.socket, "image", "inspect", "--format={{.Id}}", ref), m.Config.Digest)
}

// proxiedDocker runs a dockerd that sees certs as /etc/docker/certs.d, with more in its environment.
func proxiedDocker(t *testing.T, certs string, more ...string) docker {
	t.Helper()
	client, daemon, unshare := system(t, "docker"), system(t, "dockerd"), system(t, "unshare")
	if os.Geteuid() != 0 {
		leftOut(t, "dockerd runs as root only")
	}
	// The daemon's own name for the directory; it is empty unless this machine's docker is configured.
	if err := os.MkdirAll("/etc/docker/certs.d", 0o755); err != nil {
		t.Fatal(err)
	}
	c := docker{client, t.TempDir(), ""}
	c.socket = c.daemonBy(t, []string{unshare, "--mount", "--propagation=private", "/bin/sh", "-c",
		`mount --bind "$0" /etc/docker/certs.d && exec "$@"`, certs, daemon}, more...)
	return c
}
