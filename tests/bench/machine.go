package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"pushproxy/tests/bench/report"
)

// facts says when and on what the benchmark runs.
func (b *bench) facts(ctx context.Context) []report.Fact {
	command := "go run ./tests/bench"
	if len(os.Args) > 1 {
		command += " " + strings.Join(os.Args[1:], " ")
	}
	return []report.Fact{
		{Name: "date", Value: time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{Name: "command", Value: "`" + command + "`"},
		{Name: "machine", Value: machine()},
		{Name: "line", Value: fmt.Sprintf("%v there and back, %.4g Mbit/s in each direction", b.rtt, b.mbit)},
		{Name: "pushproxy", Value: b.version(ctx)},
	}
}

// doubts says why the numbers may be worth less than they look.
func (b *bench) doubts() {
	if b.rounds < 5 {
		b.remark("rounds: %d; the targets are for medians of at least 5", b.rounds)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return
	}
	var now float64
	if _, err := fmt.Sscan(string(load), &now); err == nil && now > 1 {
		b.remark("busy machine: its load was %.1f before the first round; run it again on a quiet one", now)
	}
}

// version is what pushproxy says of itself, and the commit that it was built from.
func (b *bench) version(ctx context.Context) string {
	version := says(ctx, b.program, "version")
	if b.options.program != "" {
		return version
	}
	return version + ", " + says(ctx, "git", "describe", "--always", "--dirty")
}

// peers says which programs took part: the registry and the clients that were used.
func (b *bench) peers(ctx context.Context) report.Fact {
	peers := []string{says(ctx, filepath.Join(b.tools, "registry"), "--version")}
	for _, name := range clientNames() {
		switch c := b.clients[name].(type) {
		case *docker:
			peers = append(peers, says(ctx, c.server, "--version"))
		case *containerd:
			peers = append(peers, says(ctx, c.server, "--version"))
		case *skopeo:
			peers = append(peers, says(ctx, c.program, "--version"))
		case *crane:
			peers = append(peers, "crane "+says(ctx, c.program, "version"))
		}
	}
	return report.Fact{Name: "peers", Value: strings.Join(peers, "; ")}
}

// says returns the first line that a program prints, without the paths in it.
func says(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return "of unknown version"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	words := strings.Fields(line)
	for i, w := range words {
		if filepath.IsAbs(w) {
			words[i] = filepath.Base(w)
		}
	}
	return strings.Join(words, " ")
}

func machine() string {
	text := fmt.Sprintf("%d × %s, %s/%s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"), runtime.GOOS, runtime.GOARCH)
	if memory := field("/proc/meminfo", "MemTotal"); memory != "" {
		text += ", " + memory + " of memory"
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		text += ", kernel " + strings.TrimSpace(string(kernel))
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		text += "; load at the start " + strings.Join(strings.Fields(string(load))[:3], " ")
	}
	return text
}

// field returns the value of the first line of a file that begins with name, "" where there is none.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if before, after, found := strings.Cut(line, ":"); found && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}
