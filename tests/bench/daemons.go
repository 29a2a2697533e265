package main

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"pushproxy/tests/parts"
)

// docker pushes from a dockerd of its own. dockerd 20.10 unpacks what it loads and packs it again for every push, which is
// part of the time, directly and through pushproxy. It remembers where layers were pushed: only new bytes are a first push.
type docker struct {
	command
	server string // program of the daemon
	daemon *parts.Process
}

func startDocker(ctx context.Context, home string, find func(string) (string, error)) (*docker, error) {
	program, err := find("docker")
	if err != nil {
		return nil, err
	}
	server, err := find("dockerd")
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("dockerd runs as root only")
	}
	socket := "unix://" + filepath.Join(home, "d.sock")
	settings := filepath.Join(home, "daemon.json")
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	d := &docker{command: command{program, cleanEnv(home, "DOCKER_HOST="+socket)}, server: server}
	cmd := exec.Command(server, "--bridge=none", "--iptables=false", "--ip6tables=false", "--config-file", settings,
		"--data-root", filepath.Join(home, "data"), "--exec-root", filepath.Join(home, "exec"), "-H", socket,
		"--pidfile", filepath.Join(home, "pid"))
	cmd.Env = cleanEnv(home)
	d.daemon, err = daemon(ctx, cmd, func() error { return d.run(ctx, "version") })
	return d, err
}

func (d *docker) load(ctx context.Context, img *image) error {
	return d.run(ctx, "load", "-q", "-i", img.archive)
}

func (d *docker) tag(ctx context.Context, img *image, ref string) error {
	return d.run(ctx, "tag", img.reference(), ref)
}

func (d *docker) push(ctx context.Context, _ *image, ref string) error {
	return d.run(ctx, "push", "-q", ref)
}

func (d *docker) drop(img *image) {
	// By id, with all its names.
	out := exec.Command(d.program, "image", "inspect", "--format={{.Id}}", img.reference())
	out.Env = d.env
	if id, err := out.Output(); err == nil {
		_ = d.run(context.Background(), "rmi", "-f", lastLine(string(id)))
	}
}

func (d *docker) stop() { d.daemon.Stop() }

// newer finds programs as find does, but takes the containerd and ctr of containerd 2.4 before the system's, built when they
// were never built here: since 2.3 it waits 30 seconds for an answer and no longer.
func (b *bench) newer(ctx context.Context) func(string) (string, error) {
	return func(program string) (string, error) {
		if b.bin != "" {
			return b.find(program)
		}
		built := parts.Standalone{Name: program, Module: "github.com/containerd/containerd/v2@v2.4.2", Package: "./cmd/" + program}
		path, err := built.Build(ctx)
		if err != nil {
			b.remark("%s is the system's: %v", program, err)
			return b.find(program)
		}
		return path, nil
	}
}

// containerd pushes with ctr from a containerd of its own.
type containerd struct {
	command
	server string // program of the daemon
	daemon *parts.Process
}

func startContainerd(ctx context.Context, home string, find func(string) (string, error)) (*containerd, error) {
	program, err := find("ctr")
	if err != nil {
		return nil, err
	}
	server, err := find("containerd")
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("containerd runs as root only")
	}
	config, socket := filepath.Join(home, "config.toml"), filepath.Join(home, "c.sock")
	if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
		return nil, err
	}
	c := &containerd{
		command: command{program, cleanEnv(home, "CONTAINERD_ADDRESS="+socket, "CONTAINERD_NAMESPACE=bench")}, server: server,
	}
	cmd := exec.Command(server, "--config", config, "--root", filepath.Join(home, "root"), "--state", filepath.Join(home, "state"), "--address", socket)
	cmd.Env = cleanEnv(home)
	c.daemon, err = daemon(ctx, cmd, func() error { return c.run(ctx, "version") })
	return c, err
}

func (c *containerd) load(ctx context.Context, img *image) error {
	packed := img.layout + ".tar"
	if err := packDirectory(img.layout, packed); err != nil {
		return err
	}
	return c.run(ctx, "images", "import", "--no-unpack", "--all-platforms", packed)
}

func (c *containerd) tag(context.Context, *image, string) error { return nil }

func (c *containerd) push(ctx context.Context, img *image, ref string) error {
	return c.run(ctx, "images", "push", "--plain-http", ref, img.reference())
}

func (c *containerd) drop(img *image) {
	_ = c.run(context.Background(), "images", "rm", "--sync", img.reference())
}

func (c *containerd) stop() { c.daemon.Stop() }

func packDirectory(dir, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	return errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close())
}
