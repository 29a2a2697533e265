package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"pushproxy/tests/parts"
)

// client is a program that people push with. Its daemon, if it has one, runs from the first use to the end.
type client interface {
	// load brings an image into the client's own store, where it has one.
	load(ctx context.Context, img *image) error
	// tag gives a loaded image the name that it is pushed by, for clients that want that before.
	tag(ctx context.Context, img *image, ref string) error
	// push pushes a loaded image. This is what is timed.
	push(ctx context.Context, img *image, ref string) error
	// drop forgets an image and its bytes.
	drop(img *image)
	stop()
}

func clientNames() []string { return []string{"docker", "skopeo", "crane", "containerd"} }

// client returns a client by name, started when it is asked for the first time.
func (b *bench) client(ctx context.Context, name string) (client, error) {
	if c, ok := b.clients[name]; ok {
		return c, nil
	}
	if err, known := b.absent[name]; known {
		return nil, err
	}
	home := filepath.Join(b.dir, name)
	err := os.MkdirAll(home, 0o755)
	var c client
	if err == nil {
		switch name {
		case "docker":
			c, err = startDocker(ctx, home, b.find)
		case "containerd":
			c, err = startContainerd(ctx, home, b.newer(ctx))
		case "skopeo":
			var program string
			program, err = b.find("skopeo")
			c = &skopeo{command{program, cleanEnv(home)}}
		case "crane":
			c = &crane{command{filepath.Join(b.tools, "crane"), cleanEnv(home)}}
		}
	}
	if err != nil {
		b.absent[name] = err
		return nil, err
	}
	b.clients[name] = c
	return c, nil
}

// command is a program with its environment.
type command struct {
	program string
	env     []string
}

func (c command) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Env = c.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(c.program), strings.Join(args, " "), err, lastLine(out.String()))
	}
	return nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// skopeo copies from a layout.
type skopeo struct{ command }

func (c *skopeo) load(context.Context, *image) error { return nil }

func (c *skopeo) tag(context.Context, *image, string) error { return nil }

func (c *skopeo) push(ctx context.Context, img *image, ref string) error {
	return c.run(ctx, "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+img.layout, "docker://"+ref)
}

func (c *skopeo) drop(*image) {}

func (c *skopeo) stop() {}

// crane pushes a layout too.
type crane struct{ command }

func (c *crane) load(context.Context, *image) error { return nil }

func (c *crane) tag(context.Context, *image, string) error { return nil }

func (c *crane) push(ctx context.Context, img *image, ref string) error {
	return c.run(ctx, "push", img.layout, ref)
}

func (c *crane) drop(*image) {}

func (c *crane) stop() {}

// daemon starts a program and waits until probe succeeds.
func daemon(ctx context.Context, cmd *exec.Cmd, probe func() error) (*parts.Process, error) {
	p, err := parts.Start(cmd)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := p.Ready(ctx, probe); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}
