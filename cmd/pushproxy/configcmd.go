package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
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
			fmt.Fprintf(out, "tls: %s\nforward_proxy: %s\n", c.TLS, c.ForwardProxy)
			fmt.Fprintf(out, "status_listen: %s\n", cmp.Or(strings.Join(c.StatusListen, " "), "off"))
			if c.DefaultUpstream != "" {
				fmt.Fprintf(out, "default_upstream: %s\n", c.DefaultUpstream)
			}
			for _, u := range c.Upstreams {
				fmt.Fprintf(out, "upstream %s: %s\n", u.Host, u)
			}
			hosts, err := sources(c.Credentials).Hosts(cmd.Context())
			if err != nil {
				return err
			}
			// The login to pushproxy itself is none to a registry.
			hosts = slices.DeleteFunc(hosts, func(host string) bool { return slices.Contains(clientNames(c), host) })
			fmt.Fprintf(out, "logged in to: %s\n", cmp.Or(strings.Join(hosts, " "), "no registry"))
			for _, name := range strangeVariables() {
				fmt.Fprintf(out, "ignored: $%s is no key's variable\n", name)
			}
			return nil
		}),
	})
}

// String says where the door is and whom it lets through.
func (c ForwardProxyConfig) String() string {
	at := strings.Join(c.Listen, " ")
	switch {
	case at == "":
		return "off"
	case c.TunnelOthers:
		return at + " (port 443 of other hosts is passed through)"
	}
	return at + " (other hosts are refused)"
}

// String says where an upstream is and what is special about it.
func (u UpstreamConfig) String() string {
	text := u.URL
	say := func(format string, value string) {
		if value != "" {
			text += fmt.Sprintf(format, value)
		}
	}
	say(", else %s", strings.Join(u.FallbackURLs, ", "))
	say("; also called %s", strings.Join(u.Aliases, ", "))
	say("; below %s", u.Prefix)
	if u.Mode != "sync" {
		say("; %s", u.Mode)
	}
	for _, r := range u.Sending.Routes {
		say("; %s", r.Match+" "+r.Mode)
	}
	if n := u.Sending.Concurrency; n > 0 {
		say("; %s uploads at once", strconv.Itoa(n))
	}
	say("; at most %s a second", u.Sending.Bandwidth)
	say("; nothing queued is sent %s", strings.Join(u.Sending.QuietHours, ", "))
	say("; chunks of %s", u.Sending.ChunkSize)
	say("; bodies up to %s", u.Sending.MaxBody)
	say("; trusts %s", u.CAFile)
	return text
}
