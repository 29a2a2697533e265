package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func configCommand() *cobra.Command {
	return group(&cobra.Command{Use: "config", Short: "Look at the configuration"}, &cobra.Command{
		Use:   "check",
		Short: "Read the configuration and say what it comes to, or what is wrong with it",
		Args:  cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "listen: %s\ndata_dir: %s\nauth: %s\nstorage: %s\n", strings.Join(c.Listen, " "), c.DataDir, c.Auth, c.Storage)
			others := "other hosts are refused"
			if c.ForwardProxy.TunnelOthers {
				others = "port 443 of other hosts is passed through"
			}
			fmt.Fprintf(out, "tls: %s\nforward_proxy: %s (%s)\n", c.TLS, orNowhere(strings.Join(c.ForwardProxy.Listen, " ")), others)
			fmt.Fprintf(out, "status_listen: %s\n", orNowhere(strings.Join(c.StatusListen, " ")))
			if c.DefaultUpstream != "" {
				fmt.Fprintf(out, "default_upstream: %s\n", c.DefaultUpstream)
			}
			for _, u := range c.Upstreams {
				fmt.Fprintf(out, "upstream %s: %s", u.Host, u.URL)
				if len(u.FallbackURLs) > 0 {
					fmt.Fprintf(out, ", else %s", strings.Join(u.FallbackURLs, ", "))
				}
				if len(u.Aliases) > 0 {
					fmt.Fprintf(out, "; also called %s", strings.Join(u.Aliases, ", "))
				}
				fmt.Fprintln(out)
			}
			hosts, err := sources(c.Credentials).Hosts(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "logged in to: %s\n", orNone(strings.Join(hosts, " ")))
			for _, name := range strangeVariables() {
				fmt.Fprintf(out, "ignored: $%s is no key's variable\n", name)
			}
			return nil
		}),
	})
}

func orNone(s string) string {
	if s == "" {
		return "no registry"
	}
	return s
}

func orNowhere(s string) string {
	if s == "" {
		return "off"
	}
	return s
}
