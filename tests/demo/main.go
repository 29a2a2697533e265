// Command demo shows what pushproxy does, on real programs: a distribution registry that wants a password, pushproxy in
// front of it, and crane, which knows no password, pushing one image twice and then to a second repository. Everything
// lives in a temporary directory and on free ports, and is gone afterwards. With -pictures DIR it pushes more, over a slow
// link, and takes pictures of the status page meanwhile.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"pushproxy/tests/parts"
)

const host = "registry.test"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pictures := flag.String("pictures", "", "take pictures of the status page, and write them to this directory")
	flag.Parse()
	run := demo
	if *pictures != "" {
		run = func(ctx context.Context) error { return photograph(ctx, *pictures) }
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) error {
	fmt.Println("building what the demo needs (minutes the first time, nothing after that) …")
	tools, err := parts.Tools(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pushproxy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := parts.BuildPushproxy(ctx, dir, false)
	if err != nil {
		return err
	}
	registry, err := parts.StartRegistry(ctx, dir, parts.RegistryConfig{Htpasswd: true})
	if err != nil {
		return err
	}
	defer registry.Stop()
	proxy, err := startProxy(ctx, dir, program, host, registry.URL, nil)
	if err != nil {
		return err
	}
	defer proxy.Stop()
	fmt.Printf("a registry with a password is at %s, pushproxy at %s; crane knows no password\n\n", registry.URL, proxy.URL)
	d := demonstration{crane: filepath.Join(tools, "crane"), home: dir, registry: registry, proxy: proxy}
	return d.run(ctx)
}

// startProxy runs pushproxy as somebody who is logged in to the registry, with its status page at the addresses.
func startProxy(ctx context.Context, dir, program, name, upstream string, page []string) (*parts.Pushproxy, error) {
	port, err := parts.FreePort()
	if err != nil {
		return nil, err
	}
	config := parts.Config{
		Listen:    []string{fmt.Sprintf("127.0.0.1:%d", port)},
		DataDir:   filepath.Join(dir, "data"),
		Upstreams: []parts.Upstream{{Host: name, URL: upstream}},
		Credentials: &parts.Credentials{
			References: []parts.Reference{{For: name, Username: parts.Alice().Name, Password: "env:REGISTRY_PASSWORD"}},
		},
		Log:          &parts.Log{Format: "json"},
		StatusListen: page,
	}
	file := filepath.Join(dir, "pushproxy.yaml")
	if err := config.Write(file); err != nil {
		return nil, err
	}
	return parts.StartPushproxy(ctx, program, file, port, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "REGISTRY_PASSWORD=" + parts.Alice().Password})
}

// demonstration is the scene of the demo.
type demonstration struct {
	crane, home string
	registry    *parts.Registry
	proxy       *parts.Pushproxy
}

// pushed is what pushproxy's log says of one push.
type pushed struct {
	Msg, Repository, Reference, Blobs string
	Skipped, Mounted, Uploaded        volume
	Unchanged                         bool
	Took                              time.Duration
}

type volume struct{ Blobs, Bytes int64 }

func (v volume) String() string {
	if v.Blobs == 0 {
		return "–"
	}
	return fmt.Sprintf("%d (%.1f MB)", v.Blobs, float64(v.Bytes)/1e6)
}

func (d demonstration) run(ctx context.Context) error {
	image := filepath.Join(d.home, "image")
	if err := writeImage(image, randomLayer(50_000), randomLayer(5_000_000), randomLayer(40_000_000)); err != nil {
		return err
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "push\tskipped\tmounted\tuploaded\tcrane took")
	var details []string
	// A tag of its own each time: for one that is there already crane asks once and sends nothing.
	for _, step := range []struct{ what, ref string }{
		{"a new image", "acme/app:1"},
		{"the same again", "acme/app:2"},
		{"to a second repository", "acme/second:1"},
	} {
		took, err := d.push(ctx, image, step.ref)
		if err != nil {
			return err
		}
		line, err := d.lastPush(step.ref)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s: %s\t%s\t%s\t%s\t%s\n", step.what, step.ref, line.Skipped, line.Mounted, line.Uploaded, took.Round(time.Millisecond))
		details = append(details, step.ref+": "+line.Blobs)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Printf("\nper blob, from pushproxy's log:\n  %s\n", strings.Join(details, "\n  "))
	return d.compare(ctx)
}

func (d demonstration) push(ctx context.Context, image, ref string) (time.Duration, error) {
	start := time.Now()
	_, err := d.client(ctx, "push", "--insecure", image, fmt.Sprintf("localhost:%d/%s/%s", d.proxy.Port, host, ref))
	return time.Since(start), err
}

// compare asks the registry itself, with the password, what it holds.
func (d demonstration) compare(ctx context.Context) error {
	fmt.Println("\nwhat the registry holds now:")
	for _, path := range []string{"acme/app/manifests/1", "acme/app/manifests/2", "acme/second/manifests/1"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, d.registry.URL+"/v2/"+path, nil)
		if err != nil {
			return err
		}
		req.SetBasicAuth(parts.Alice().Name, parts.Alice().Password)
		req.Header.Set("Accept", manifestType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the registry answers %s for %s", resp.Status, path)
		}
		fmt.Printf("  %s  %s\n", strings.Replace(path, "/manifests/", ":", 1), resp.Header.Get("Docker-Content-Digest"))
	}
	return nil
}

// client runs crane in a home without any credential.
func (d demonstration) client(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.crane, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(d.home, "nobody")}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("crane %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// lastPush finds what the log says of the latest push of ref.
func (d demonstration) lastPush(ref string) (pushed, error) {
	var last pushed
	for line := range strings.Lines(d.proxy.Output()) {
		var p pushed
		if json.Unmarshal([]byte(line), &p) == nil && p.Msg == "push" {
			last = p
		}
	}
	if want := host + "/" + ref; last.Repository+":"+last.Reference != want {
		return last, fmt.Errorf("pushproxy's log has no line for the push of %s:\n%s", want, d.proxy.Output())
	}
	return last, nil
}
