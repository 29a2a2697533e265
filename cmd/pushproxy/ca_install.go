package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

// trustStores are where systems keep what their administrator trusts, and what
// makes them notice.
var trustStores = []struct{ dir, command string }{
	{"/usr/local/share/ca-certificates", "update-ca-certificates"},
	{"/etc/pki/ca-trust/source/anchors", "update-ca-trust"},
	{"/etc/ca-certificates/trust-source/anchors", "trust extract-compat"},
}

// systemTrust is the name of this set-up in the journal.
const systemTrust = "system-trust"

func caInstallCommands() []*cobra.Command {
	var root string
	install := &cobra.Command{
		Use: "install", Short: "Let every program of this machine trust the CA (as root); a client's own set-up is narrower", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return installCA(cmd, root) },
	}
	uninstall := &cobra.Command{
		Use: "uninstall", Short: "Take the CA out of the system's trust again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return uninstallCA(cmd, root) },
	}
	for _, c := range []*cobra.Command{install, uninstall} {
		c.Flags().StringVar(&root, "root", "", "`directory` that stands for / (to try things out)")
	}
	return []*cobra.Command{install, uninstall}
}

func installCA(cmd *cobra.Command, root string) error {
	p, err := newPlace(cmd, systemTrust, root, true)
	if err != nil {
		return err
	}
	made, command, err := p.planTrust()
	if err != nil {
		return err
	}
	j, err := openJournal(filepath.Join(p.DataDir, "setup.json"))
	if err != nil {
		return err
	}
	steps, err := j.apply(made, systemTrust, root)
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "pushproxy setup "+systemTrust+" --apply", "pushproxy ca install"))
	}
	for _, s := range steps {
		fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n", s.at)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "Undo it with: pushproxy ca uninstall")
	return p.noticed(command)
}

func uninstallCA(cmd *cobra.Command, root string) error {
	p, err := newPlace(cmd, systemTrust, root, false)
	if err != nil {
		return err
	}
	j, err := openJournal(filepath.Join(p.DataDir, "setup.json"))
	if err != nil {
		return err
	}
	if err := undoSetup(cmd.OutOrStdout(), j, systemTrust); err != nil {
		return err
	}
	_, command, err := p.planTrust()
	if err != nil {
		return err
	}
	return p.noticed(command)
}

// planTrust writes each root as a file of its own, as the stores want it.
func (p *place) planTrust() (made plan, command string, err error) {
	for _, store := range trustStores {
		if !p.has(store.dir) {
			continue
		}
		for i, block := range strings.SplitAfter(p.roots, "-----END CERTIFICATE-----\n") {
			if block != "" {
				made.write(filepath.Join(store.dir, fmt.Sprintf("pushproxy-%d.crt", i+1)), "a root of pushproxy's CA", block)
			}
		}
		return made, store.command, nil
	}
	if runtime.GOOS == "darwin" {
		return made, "", fmt.Errorf("macOS asks you itself: security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db %s (and remove-trusted-cert to undo it)", p.bundle)
	}
	return made, "", fmt.Errorf("this system keeps its trusted roots at a place that is not known here: add %s to them by hand", p.bundle)
}

// noticed runs the system's own command, unless this was but a trial.
func (p *place) noticed(command string) error {
	if p.root != "" {
		return nil
	}
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s; the files are in place, run it by hand", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}
