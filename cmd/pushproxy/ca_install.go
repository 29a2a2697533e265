package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// trustStore is where a system keeps what its administrator trusts, and what
// makes it notice that something came or went.
type trustStore struct{ dir, came, went string }

var trustStores = []trustStore{
	// Without --fresh, Debian leaves links to what is gone.
	{"/usr/local/share/ca-certificates", "update-ca-certificates", "update-ca-certificates --fresh"},
	{"/etc/pki/ca-trust/source/anchors", "update-ca-trust", "update-ca-trust"},
	{"/etc/ca-certificates/trust-source/anchors", "trust extract-compat", "trust extract-compat"},
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
	made, store, err := p.planTrust()
	if err != nil {
		return err
	}
	j, err := openJournal(p.journal())
	if err != nil {
		return err
	}
	steps, err := j.apply(made, systemTrust, root)
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "setup "+systemTrust+" --apply", "ca install"))
	}
	for _, s := range steps {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", s.verb(), s.at)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "Undo it with: pushproxy ca uninstall")
	return p.noticed(store.came)
}

func uninstallCA(cmd *cobra.Command, root string) error {
	p, err := newPlace(cmd, systemTrust, root, false)
	if err != nil {
		return err
	}
	j, err := openJournal(p.journal())
	if err != nil {
		return err
	}
	if !slices.Contains(j.clients(), systemTrust) {
		fmt.Fprintln(cmd.OutOrStdout(), "This machine's programs were not made to trust the CA: there is nothing to take out.")
		return nil
	}
	if err := undoSetup(cmd.OutOrStdout(), j, systemTrust); err != nil {
		return err
	}
	_, store, err := p.planTrust()
	if err != nil {
		return err
	}
	return p.noticed(store.went)
}

// planTrust writes each root as a file of its own, as the stores want it.
func (p *place) planTrust() (made plan, store trustStore, err error) {
	for _, store = range trustStores {
		if !p.has(store.dir) {
			continue
		}
		for i, block := range strings.SplitAfter(p.roots, "-----END CERTIFICATE-----\n") {
			if block != "" {
				made.write(filepath.Join(store.dir, fmt.Sprintf("pushproxy-%d.crt", i+1)), "a root of pushproxy's CA", block)
			}
		}
		return made, store, nil
	}
	if runtime.GOOS == "darwin" {
		return made, store, fmt.Errorf("macOS asks you itself: security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db %s (and remove-trusted-cert to undo it)", p.bundle)
	}
	return made, store, fmt.Errorf("this system keeps its trusted roots at a place that is not known here: add %s to them by hand", p.bundle)
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
