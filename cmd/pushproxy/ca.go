package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/forward"
	"pushproxy/proxy"
)

func caCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "ca",
		Short: "Look at, trust and renew the CA that signs for localhost and for registries inside tunnels",
		Long: "Every installation has a certificate authority of its own. Its root key was thrown away when it had\n" +
			"signed one intermediate, which can sign for your registries and localhost and for nothing else. No\n" +
			"program trusts it until `pushproxy setup CLIENT` or `pushproxy ca install` says so.",
	}
	var asPEM bool
	show := &cobra.Command{
		Use: "show", Short: "Say what the CA may sign for, until when, and where its file is", Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			var names []string
			if !c.foreign() {
				var err error
				if names, err = allowedNames(cmd, c); err != nil {
					return err
				}
			}
			return showCA(cmd.OutOrStdout(), c, names, asPEM, time.Now())
		}),
	}
	show.Flags().BoolVar(&asPEM, "pem", false, "print the roots in PEM form and nothing else")
	renew := &cobra.Command{
		Use: "renew", Short: "Make a new CA; clients trust it when their set-up has been applied again", Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			return renewCA(cmd, c)
		}),
	}
	return group(command, append(caInstallCommands(), show, renew)...)
}

// allowedNames are the names that the CA is to cover.
func allowedNames(cmd *cobra.Command, c Config) ([]string, error) {
	u, err := newUpstreams(c, "", forward.New(nil, nil))
	if err != nil {
		return nil, err
	}
	return caNames(u.names(cmd.Context())), nil
}

// openCA opens the CA and sees to it that it covers the names.
func openCA(c Config, names []string) (*proxy.CA, error) {
	ca, err := proxy.OpenCA(c.caDir())
	if err != nil {
		return nil, err
	}
	_, err = ca.Cover(names...)
	return ca, err
}

func showCA(out io.Writer, c Config, names []string, asPEM bool, now time.Time) error {
	ca, err := proxy.OpenCA(c.caDir())
	if err != nil {
		return err
	}
	issuers, err := ca.Issuers()
	if err != nil {
		return err
	}
	if asPEM {
		text, err := os.ReadFile(ca.Bundle())
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("there is no CA yet: `pushproxy serve` and `pushproxy setup CLIENT --apply` make it")
		}
		if err == nil {
			_, err = out.Write(text)
		}
		return err
	}
	if len(issuers) == 0 {
		fmt.Fprintln(out, "There is no CA yet: `pushproxy serve` and `pushproxy setup CLIENT --apply` make it.")
		return nil
	}
	var valid []*proxy.Issuer
	for _, i := range issuers {
		until := i.NotAfter().Format(time.DateOnly)
		if now.After(i.NotAfter()) {
			until += " (expired: `pushproxy ca renew`)"
		} else {
			valid = append(valid, i)
		}
		fmt.Fprintf(out, "root %d: %s\n  sha256 %x\n  signs for %s and loopback addresses\n  until %s\n", i.Number, i.Root.Subject.CommonName,
			sha256.Sum256(i.Root.Raw), strings.Join(i.Names(), " "), until)
	}
	fmt.Fprintf(out, "file: %s\n", ca.Bundle())
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(valid, func(i *proxy.Issuer) bool { return i.Covers(name) })
	})
	if len(missing) > 0 {
		fmt.Fprintf(out, "not covered yet: %s (the next start or set-up adds them)\n", strings.Join(missing, " "))
	}
	return nil
}

func renewCA(cmd *cobra.Command, c Config) error {
	if c.foreign() {
		return fmt.Errorf("%s belongs to another user, who renews the CA: run it as that user", c.DataDir)
	}
	names, err := allowedNames(cmd, c)
	if err != nil {
		return err
	}
	restrictFiles()
	// One that is damaged is the reason to be here: it is not read first.
	ca := proxy.NewCA(c.caDir())
	if err := ca.Renew(names...); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "A new CA for %s is in %s.\n", strings.Join(names, " "), ca.Bundle())
	fmt.Fprintln(out, "A running pushproxy uses it from now on. Clients that were set up need `pushproxy setup CLIENT --apply` again.")
	return nil
}
