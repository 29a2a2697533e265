package tests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Two people with accounts on one machine. The first runs pushproxy; the second, and root's daemons, are strangers to it.

// person is an account that lives as long as its test.
type person struct {
	name, home string
	uid        int
	setpriv    string
}

// people counts accounts, for names that nothing else has.
var people atomic.Int64

// startPeople makes two accounts with homes below a directory that both can enter.
func startPeople(t *testing.T) (ann, bob person) {
	t.Helper()
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		leftOut(t, "only root can make accounts for two people")
	}
	add, del, setpriv := system(t, "useradd"), system(t, "userdel"), system(t, "setpriv")
	base := shortDir(t)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	account := func(name string) person {
		p := person{name: fmt.Sprintf("pp-%s-%d-%d", name, os.Getpid(), people.Add(1)), home: filepath.Join(base, name), setpriv: setpriv}
		command{}.run(t, add, "--create-home", "--home-dir", p.home, "--shell", "/bin/sh", p.name)
		t.Cleanup(func() { _ = exec.Command(del, "--force", p.name).Run() })
		entry, err := user.Lookup(p.name)
		if err != nil {
			t.Fatal(err)
		}
		if p.uid, err = strconv.Atoi(entry.Uid); err != nil {
			t.Fatal(err)
		}
		return p
	}
	return account("ann"), account("bob")
}

// gives makes a copy of a file or folder that belongs to the person.
func (p person) gives(t *testing.T, path, as string) string {
	t.Helper()
	to := filepath.Join(p.home, as)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	command{}.run(t, "/bin/cp", "-rL", path, to)
	p.owns(t)
	return to
}

// owns gives the person what was put into their home.
func (p person) owns(t *testing.T) {
	t.Helper()
	command{}.run(t, "/bin/chown", "-R", p.name+":", p.home)
}

func (p person) env(more ...string) []string { return cleanEnv(p.home, more...) }

// as runs a program as the person, which may fail.
func (p person) as(t *testing.T, stdin string, program string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.setpriv, append([]string{"--reuid=" + p.name, "--regid=" + p.name, "--clear-groups", program}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = p.env(), p.home, strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// client sends requests whose sockets are the person's.
func (p person) client() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
}

// dial makes a connection whose socket is the person's.
func (p person) dial(ctx context.Context, network, address string) (net.Conn, error) {
	// A socket belongs to whoever its thread acts for when it is made.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(p.uid), 0, 0)
	defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) }()
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// listen opens a listener whose socket is the person's.
func (p person) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(p.uid), 0, 0)
	defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) }()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// shared is pushproxy as one of two people runs it.
type shared struct {
	traced
	ann, bob person
}

// startShared runs Ann's pushproxy before a registry where she is Alice. Bob has an account there, too, which is in Ann's
// configuration as that of the principal bob, for the repositories of team.
func startShared(t *testing.T) shared {
	t.Helper()
	built := pushproxyProgram(t, buildRace)
	ann, bob := startPeople(t)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	r := prepare(t, rec.URL, func(r *rig) {
		program := ann.gives(t, built, "bin/pushproxy")
		bob.gives(t, built, "bin/pushproxy")
		r.program = writeFile(t, filepath.Join(t.TempDir(), "as-ann"), fmt.Sprintf("#!/bin/sh\nexec %s --reuid=%s --regid=%s --clear-groups %s \"$@\"\n", ann.setpriv, ann.name, ann.name, program), 0o755)
		r.home, r.file, r.env = ann.home, filepath.Join(ann.home, "pushproxy.yaml"), ann.env("GORACE=halt_on_error=1 exitcode=66")
		r.config.DataDir = filepath.Join(ann.home, "data")
		r.config.Credentials.DockerConfig = writeFile(t, filepath.Join(ann.home, "registry", "config.json"), dockerConfig(upstreamName, parts.Alice()), 0o600)
		r.config.Credentials.PodmanAuth = filepath.Join(ann.home, "no-auth.json")
		r.config.Principals = []parts.Principal{{
			Name: "bob", Allow: &parts.Scope{Repositories: []string{"team/**"}},
			Credentials: &parts.Credentials{DockerConfig: writeFile(t, filepath.Join(ann.home, "for-bob", "config.json"), dockerConfig(upstreamName, parts.Bob()), 0o600)},
		}}
	})
	ann.owns(t)
	if err := os.Chown(r.file, ann.uid, ann.uid); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	return shared{traced{r, rec, reg}, ann, bob}
}

// token makes a token, as Ann.
func (s shared) token(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := s.run(t, append([]string{"token", "create"}, args...)...)
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	return strings.TrimSpace(out)
}

func TestTwoPeopleOnOneMachine(t *testing.T) {
	t.Parallel()
	s := startShared(t)
	skopeo, img := system(t, "skopeo"), newImage(t, 40, 41)
	push := func(p person, repo, authfile string) (string, error) {
		args := []string{"--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false", "oci:" + p.gives(t, img.dir, "image-"+strings.ReplaceAll(repo, "/", "-")) + ":v1", "docker://" + s.ref(repo, "v1")}
		if authfile != "" {
			args = append(args, "--dest-authfile="+authfile)
		}
		_, errs, err := p.as(t, "", skopeo, args...)
		return errs, err
	}
	if errs, err := push(s.ann, "acme/app", ""); err != nil {
		t.Fatalf("Ann cannot push with her own process: %v\n%s", err, errs)
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(s.reg).pull(t, "acme/app", "v1"), img.digest)
	s.rec.reset()
	if errs, err := push(s.bob, "acme/bob", ""); err == nil || !strings.Contains(errs, "unauthorized") && !strings.Contains(errs, "authentication required") {
		t.Errorf("Bob without a token: %v\n%s", err, errs)
	}
	if got := s.rec.reset(); len(got) > 0 {
		t.Errorf("what Bob was refused went upstream:\n%s", got)
	}
	// Bob gets a token, and logs in with it himself.
	_, errs, err := s.bob.as(t, s.token(t, "bob", "--principal", "bob")+"\n", filepath.Join(s.bob.home, "bin/pushproxy"), "login", "--token-stdin",
		"--listen", fmt.Sprintf("127.0.0.1:%d", s.Port), "--podman-auth", filepath.Join(s.bob.home, "auth.json"))
	if err != nil {
		t.Fatalf("Bob cannot log in: %v\n%s", err, errs)
	}
	authfile := filepath.Join(s.bob.home, "auth.json")
	if errs, err := push(s.bob, "team/app", authfile); err != nil {
		t.Fatalf("Bob cannot push with his token: %v\n%s", err, errs)
	}
	for _, q := range s.rec.reset() {
		if q.Authorized && q.User != "bob" {
			t.Errorf("Bob's push went upstream as %q: %s", q.User, q)
		}
		if q.has("from", "acme/app") {
			t.Errorf("Bob's push was mounted from Ann's repository: %s", q)
		}
	}
	if _, err := push(s.bob, "acme/stolen", authfile); err == nil {
		t.Error("Bob can push where his principal may not")
	}
	if _, _, err := s.run(t, "token", "revoke", "bob"); err != nil {
		t.Fatal(err)
	}
	if _, err := push(s.bob, "team/again", authfile); err == nil {
		t.Error("Bob can push with a token that was revoked")
	}
	s.auditNames(t, "local", "bob")
}

// auditNames checks that the audit log has a push of each principal, and refusals.
func (s shared) auditNames(t *testing.T, principals ...string) {
	t.Helper()
	text := readFile(t, filepath.Join(s.config.DataDir, "audit.log"))
	for _, p := range principals {
		if !strings.Contains(text, `"msg":"push","principal":"`+p+`"`) {
			t.Errorf("the audit log has no push of %s:\n%s", p, lastLines(text, 10))
		}
	}
	if !strings.Contains(text, `"msg":"denied"`) || !strings.Contains(text, "alice from docker config") || !strings.Contains(text, "bob from docker config") {
		t.Errorf("the audit log lacks refusals or credentials:\n%s", lastLines(text, 10))
	}
}

func TestS1NoRouteAnswersAnotherUser(t *testing.T) {
	t.Parallel()
	s := startShared(t)
	mine := api{url: s.URL, client: s.ann.client()}
	digest := pushSmall(t, mine, killRepo)
	s.rec.reset()
	blob := digestOf([]byte("hello from " + t.Name()))
	upload := mine.begin(t, killRepo)
	for _, who := range []struct {
		name   string
		client *http.Client
	}{{"another person", s.bob.client()}, {"root, where there are several people", nil}} {
		theirs := api{url: s.URL, client: who.client}
		for _, path := range []string{
			"/", "/v2/", "/v2", "/v2/_catalog", "/metrics", "/debug/pprof/", "/healthz", "/v2/" + killRepo + "/tags/list", "/v2/" + killRepo + "/blobs/" + blob, "/v2/" + killRepo + "/manifests/1",
			"/v2/" + killRepo + "/manifests/" + digest, "/v2/" + killRepo + "/referrers/" + digest, "/v2/" + killRepo + "/blobs/uploads/",
			"/v2/" + killRepo + "/blobs/uploads/?mount=" + blob, "/v2/" + killRepo + "/blobs/uploads/?digest=" + blob, upload, upload + "?digest=" + blob,
		} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
				if got := theirs.do(t, method, path, []byte("{}")); got.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %s %s is answered %v", who.name, method, path, got)
				}
			}
		}
	}
	if got := s.rec.reset(); len(got) > 0 {
		t.Errorf("what was refused went upstream:\n%s", got)
	}
	mine.want(t, http.StatusNoContent, "GET", upload, nil)
}

// Who holds the port that clients send tokens to is not to go unnoticed, on either family.
func TestS3APortThatAnotherUserHasIsNotServed(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	_, bob := startPeople(t)
	for _, host := range []string{"127.0.0.1", "::1", "0.0.0.0", "::"} {
		t.Run(host, func(t *testing.T) {
			r := prepare(t, "http://127.0.0.1:1", nil)
			bob.listen(t, net.JoinHostPort(host, fmt.Sprint(r.Port)))
			_, stderr, err := r.run(t, "serve")
			if err == nil {
				t.Fatal("serve began beside another's listener")
			}
			for _, word := range []string{fmt.Sprint(bob.uid), bob.name, fmt.Sprint(r.Port), "--listen"} {
				if !strings.Contains(stderr, word) {
					t.Errorf("the message does not say %q:\n%s", word, lastLines(stderr, 5))
				}
			}
			if _, err := os.Stat(r.config.DataDir); err == nil {
				t.Error("the data directory was made all the same")
			}
		})
	}
}

// A socket that was closed is root's, as the kernel shows it, and this pushproxy runs as root.
func TestS2ARequestFromASocketThatWasClosedIsRefused(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	_, bob := startPeople(t)
	rec := startRecorder(t, "http://127.0.0.1:1", nil)
	r := startRig(t, rec.URL, func(r *rig) { r.config.Log = &parts.Log{Level: "debug"} })
	for range 100 {
		conn, err := bob.dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", r.Port))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /v2/%s/tags/list HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", killRepo, r.Port)
		_ = conn.Close()
	}
	poll(t, "an answer to every request", func() bool { return strings.Count(r.Output(), "msg=refused") >= 100 })
	if got := rec.requests(); len(got) > 0 {
		t.Errorf("the upstream saw\n%s", got)
	}
}
