package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/proxy"
)

func tokenCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens: logins for other users, containers and CI jobs",
		Long: "Make, list and revoke tokens. A token is a password for localhost:5001 that works until it expires or is\n" +
			"revoked, at once, without a restart. One with a scope reaches what the scope says and nothing else.",
	}
	return group(command, tokenCreate(), tokenList(), tokenRevoke())
}

func tokenCreate() *cobra.Command {
	var scope proxy.Scope
	var verbs []string
	var principal string
	var life time.Duration
	command := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it, this one time",
		Example: "  pushproxy token create ci --upstream ghcr.io --repository acme/app --verb push --expires 24h\n" +
			"  pushproxy token create ci … | docker login localhost:5001 -u ci --password-stdin",
		Args: cobra.ExactArgs(1),
		RunE: configured(func(cmd *cobra.Command, c Config, args []string) error {
			if err := c.knows(principal); err != nil {
				return fmt.Errorf("--principal: %w", err)
			}
			store, err := openTokens(c)
			if err != nil {
				return err
			}
			for _, v := range verbs {
				scope.Verbs = append(scope.Verbs, proxy.Verb(v))
			}
			t, secret, err := store.Create(args[0], principal, life, scope)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "token %s (%s) of %s, expires: %s, may: %s. It is shown this once; log in with any user name and it as password.\n",
				t.Name, t.ID, t.Principal, expiry(t), scopeText(t.Scope))
			fmt.Fprintln(cmd.OutOrStdout(), secret.Reveal())
			return nil
		}),
	}
	flags := command.Flags()
	flags.StringVar(&principal, "principal", proxy.Local, "whose `name` it acts under, and with whose credentials: local is you")
	flags.DurationVar(&life, "expires", 0, "how long it is valid, such as 24h (default for ever)")
	flags.StringArrayVar(&scope.Upstreams, "upstream", nil, "`host` of a registry that it may reach (repeatable; default all)")
	flags.StringArrayVar(&scope.Repositories, "repository", nil, "`pattern` of repositories that it may reach, such as acme/* or acme/** (repeatable; default all)")
	flags.StringArrayVar(&verbs, "verb", nil, "what it may do, a `verb`: pull, push or delete (repeatable; default all)")
	return command
}

func tokenList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens there are, without their secrets",
		Args:  cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			all, err := tokens(c).List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tID\tPRINCIPAL\tCREATED\tEXPIRES\tMAY")
			for _, t := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, t.ID, t.Principal, t.Created.Format(time.DateOnly), expiry(t), scopeText(t.Scope))
			}
			return w.Flush()
		}),
	}
}

func tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "End a token, by its name or id",
		Args:  cobra.ExactArgs(1),
		RunE: configured(func(cmd *cobra.Command, c Config, args []string) error {
			store, err := openTokens(c)
			if err != nil {
				return err
			}
			t, err := store.Revoke(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "token %s (%s) of %s is revoked\n", t.Name, t.ID, t.Principal)
			return nil
		}),
	}
}

// knows returns an error unless the configuration has the principal; accounts of
// an htpasswd file are principals that it does not list.
func (c Config) knows(principal string) error {
	names := []string{proxy.Local}
	for _, p := range c.Principals {
		names = append(names, p.Name)
	}
	if c.Auth == string(proxy.AuthHtpasswd) || slices.Contains(names, principal) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s; `principals` in the configuration lists more", principal, strings.Join(names, ", "))
}

// openTokens makes the directory that the tokens are in where it is missing.
func openTokens(c Config) (*proxy.Tokens, error) {
	restrictFiles()
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w; choose a directory that you can write to", err)
	}
	if err := privateDir(c.DataDir); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return tokens(c), nil
}

func expiry(t proxy.Token) string {
	switch {
	case t.Expires.IsZero():
		return "never"
	case t.Expired(time.Now()):
		return t.Expires.Format(time.RFC3339) + " (over)"
	}
	return t.Expires.Format(time.RFC3339)
}

func scopeText(s proxy.Scope) string {
	var verbs []string
	for _, v := range s.Verbs {
		verbs = append(verbs, string(v))
	}
	list := func(items []string, all string) string { return cmp.Or(strings.Join(items, ","), all) }
	return list(verbs, "everything") + " in " + list(s.Repositories, "every repository") + " of " + list(s.Upstreams, "every registry")
}
