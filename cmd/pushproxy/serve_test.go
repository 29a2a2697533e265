package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pushproxy/proxy"
)

// readyLog closes ready when the program says that it is, and keeps what it says.
type readyLog struct {
	bytes.Buffer
	ready   chan struct{}
	address string // the first that is listened on; set when it is ready
}

var listens = regexp.MustCompile(` listen="?([^ "]+)`)

func (l *readyLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("pushproxy is ready")) {
		if found := listens.FindSubmatch(p); found != nil {
			l.address = string(found[1])
		}
		close(l.ready)
	}
	return l.Buffer.Write(p)
}

func TestServeAnswersUntilItIsStoppedAndStartsAgain(t *testing.T) {
	clean(t)
	dir := filepath.Join(t.TempDir(), "data")
	for range 2 {
		c, err := load(t, "", "--listen", "127.0.0.1:0", "--data-dir", dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		log := &readyLog{ready: make(chan struct{})}
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
		select {
		case <-log.ready:
		case err := <-ended:
			t.Fatalf("ended before it was ready: %v", err)
		}
		response, err := http.Get("http://" + log.address + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != 200 || string(body) != "{}" || response.Header.Get("Server") != proxy.ServerName {
			t.Errorf("got %d %s %v", response.StatusCode, body, response.Header)
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

// inMemory returns a directory in memory, with room for a store.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pushproxy-")
	if err != nil {
		t.Skip("needs a tmpfs in /dev/shm")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if free, err := freeBytes(dir); err != nil || free < 4<<30 {
		t.Skip("needs 4 GiB of tmpfs in /dev/shm")
	}
	return dir
}

func TestADataDirThatDoesNotLastIsSaidToBeSo(t *testing.T) {
	clean(t)
	c, err := load(t, "", "--listen", "127.0.0.1:0", "--data-dir", inMemory(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	log := &readyLog{ready: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	select {
	case <-log.ready:
	case err := <-ended:
		t.Fatalf("ended before it was ready: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	const want = "is on tmpfs, which is memory"
	if !strings.Contains(log.String(), want) {
		t.Errorf("the log says %q, without %q", log.String(), want)
	}
	if said, err := c.diskCheck(); err != nil || !strings.Contains(said, want) {
		t.Errorf("doctor says %q, %v, without %q", said, err, want)
	}
}

func TestServeRefusesAPortThatIsTaken(t *testing.T) {
	clean(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.NotFoundHandler())
	c, err := load(t, "", "--listen", "127.0.0.1:0", "--listen", l.Addr().String(), "--data-dir", filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	err = serve(context.Background(), c, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is in use by another program (of user "+strconv.Itoa(os.Getuid())) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(c.DataDir); err == nil {
		t.Error("the data directory was made all the same")
	}
	for flag, key := range map[string]string{"listen": "listen: ", "forward-proxy-listen": "forward_proxy.listen: ", "status-listen": "status_listen: "} {
		args := []string{"--listen", "127.0.0.1:0", "--data-dir", c.DataDir, "--" + flag, l.Addr().String()}
		if c, err = load(t, "", args...); err != nil {
			t.Fatal(err)
		}
		err := serve(context.Background(), c, slog.New(slog.DiscardHandler))
		if err == nil || !strings.HasPrefix(err.Error(), key) || !strings.Contains(err.Error(), "choose another address with --"+flag) {
			t.Errorf("--%s: got %v", flag, err)
		}
	}
}

func TestAnAddressThatCannotBeOpenedIsToldWithWhatToDo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := listen("listen", "listen", []string{"unix:" + filepath.Join(dir, "nowhere", "socket")}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "nowhere/socket") || !strings.Contains(err.Error(), "choose another address with --listen") {
		t.Errorf("got %v", err)
	}
	err = notListening("forward_proxy.listen", "forward-proxy-listen", "127.0.0.1:80", syscall.EACCES)
	if !strings.Contains(err.Error(), "ports below 1024") || !strings.Contains(err.Error(), "--forward-proxy-listen, or go without with forward_proxy.listen: []") {
		t.Errorf("got %v", err)
	}
}

func TestTheInstallationsSecretIsMadeOnceAndKeptPrivate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	first, err := installationSecret(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := installationSecret(file)
	if err != nil || first.Reveal() != again.Reveal() || len(first.Reveal()) != 2*secretBytes {
		t.Errorf("got %d characters, the same again: %t, %v", len(first.Reveal()), first.Reveal() == again.Reveal(), err)
	}
	for says, change := range map[string]func() error{
		"others can read it": func() error { return os.Chmod(file, 0o644) },
		"it is cut short":    func() error { return os.WriteFile(file, []byte("abc"), 0o600) },
		"it is a link": func() error {
			if err := os.Rename(file, file+".real"); err != nil {
				return err
			}
			return os.Symlink(file+".real", file)
		},
	} {
		os.Remove(file)
		if _, err := installationSecret(file); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if says == "it is cut short" {
			os.Chmod(file, 0o600)
		}
		if _, err := installationSecret(file); err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: got %v", says, err)
		}
	}
}
