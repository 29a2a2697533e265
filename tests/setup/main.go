// Command setup brings what the whole-program checks need: packages of the system where it may install them (as root on
// Debian and its kin), and the programs of tests/tools. What it cannot bring it names, with what is left out; the tests that
// need it skip themselves, or fail where CI=true lets nothing be left out.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"pushproxy/tests/parts"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := setup(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1)
	}
}

func setup(ctx context.Context) error {
	missing := parts.Missing()
	if len(missing) > 0 && os.Geteuid() == 0 {
		if apt, err := exec.LookPath("apt-get"); err == nil {
			if err := install(ctx, apt, missing); err != nil {
				fmt.Fprintln(os.Stderr, "setup: apt-get:", err)
			}
			missing = parts.Missing()
		}
	}
	for _, p := range missing {
		fmt.Printf("setup: %s is not installed (Debian package %s); left out: %s\n", p.Program, p.Debian, p.For)
	}
	start := time.Now()
	dir, err := parts.Tools(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("setup: test programs in %s (%s)\n", dir, time.Since(start).Round(time.Second))
	if _, err := parts.Conformance(ctx); err != nil {
		fmt.Printf("setup: left out: the distribution-spec conformance suite: %v\n", err)
	}
	if _, err := parts.BrowserDriver(ctx); err != nil {
		fmt.Printf("setup: left out: the status page in a browser: %v\n", err)
	}
	for _, program := range parts.Newer() {
		if _, err := program.Build(ctx); err != nil {
			fmt.Printf("setup: left out: what needs %s: %v\n", program.Name, err)
		}
	}
	return nil
}

func install(ctx context.Context, apt string, missing []parts.Package) error {
	args := []string{"install", "-y", "--no-install-recommends"}
	for _, p := range missing {
		args = append(args, p.Debian)
		if p.Program == "gcc" {
			args = append(args, "libc6-dev")
		}
	}
	for _, line := range [][]string{{"update", "-q"}, args} {
		cmd := exec.CommandContext(ctx, apt, line...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w", line, err)
		}
	}
	return nil
}
