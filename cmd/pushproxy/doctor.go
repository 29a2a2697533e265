package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/oci"
	"pushproxy/proxy"
)

// doctorFor bounds one check: a person is waiting.
const doctorFor = 30 * time.Second

// check is one link of the chain from here to a repository. Its text says what
// was found; an error says what is wrong and what to do.
type check struct {
	name string
	run  func(context.Context) (string, error)
}

func doctorCommand() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "doctor [UPSTREAM[/REPOSITORY]]...",
		Short: "Check every link of the chain from a client here to a registry that takes its push",
		Long: "Check this machine (is pushproxy listening, do the clients that were set up still have what they need,\n" +
			"is the CA good, is there disk) and then, for each registry that pushes can go to or for those named,\n" +
			"which credential is used, whether the clocks agree, whether the registry answers and takes the\n" +
			"credential, and whether its name works through the forward-proxy door. With a repository it also asks\n" +
			"for something to read there, and opens an upload and cancels it. The exit status is 1 when a check fails.",
		RunE: configured(func(cmd *cobra.Command, c Config, names []string) error {
			// Nothing is forwarded and nothing stored, so neither needs a secret.
			u, err := newUpstreams(c, "", forward.New(nil, nil))
			if err != nil {
				return err
			}
			report := &report{out: cmd.OutOrStdout(), quiet: asJSON}
			report.all(cmd.Context(), "this machine", machineChecks(cmd, c, u))
			if len(names) == 0 {
				names = u.names(cmd.Context())
			}
			for _, name := range names {
				report.chain(cmd.Context(), name, u.checks(name))
			}
			if asJSON {
				if err := report.json(); err != nil {
					return err
				}
			}
			switch {
			case len(names) == 0:
				return errors.New("there is no registry to check: log in to one (docker login REGISTRY) or name one in the configuration")
			case report.failed:
				return errReported
			}
			return nil
		}),
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return command
}

func (u *upstreams) checks(name string) []check {
	var repo oci.Repo
	var r *reach
	all := []check{
		{"route", func(ctx context.Context) (_ string, err error) {
			if repo, err = u.repo(ctx, name); err != nil {
				return "", err
			}
			if r, err = u.reach(proxy.Local, repo.Host, u.sources); err != nil {
				return "", err
			}
			how := "you are logged in to it"
			if r.listed {
				how = "configured"
			}
			return fmt.Sprintf("%s at %s (%s)", repo.Host, r.entry.URL, how), nil
		}},
		{"credential", func(ctx context.Context) (string, error) {
			c, err := r.transport.Credential(ctx, repo)
			if err != nil {
				return "", err
			}
			if c.Anonymous() && r.open(ctx) {
				return "none found, and the registry asks for none", nil
			}
			if c.Anonymous() {
				return "", fmt.Errorf("none found in %s: docker login %s", u.places(), repo.Host)
			}
			return describe(ctx, r.transport, repo), nil
		}},
		{"clock", func(ctx context.Context) (string, error) { return r.clock(ctx) }},
		{"registry", func(ctx context.Context) (string, error) {
			began := time.Now()
			if err := r.Client.Ping(ctx); err != nil {
				return "", err
			}
			return fmt.Sprintf("answered and took the credential after %s", time.Since(began).Round(time.Millisecond)), nil
		}},
	}
	if len(u.config.ForwardProxy.Listen) > 0 {
		all = append(all, check{"tunnel", func(ctx context.Context) (string, error) { return u.config.tunnelCheck(ctx, repo.Host) }})
	}
	if !strings.Contains(name, "/") {
		return all
	}
	all = append(all, check{"token-scope", func(ctx context.Context) (string, error) {
		if _, _, err := r.Client.HeadManifest(ctx, repo, "latest", nil); err != nil {
			return "", err
		}
		return "the credential may read " + repo.String(), nil
	}})
	return append(all, check{"push-permission", func(ctx context.Context) (string, error) {
		if err := r.Client.CanPush(ctx, repo); err != nil {
			return "", err
		}
		return "an upload to " + repo.String() + " was opened and cancelled", nil
	}})
}

// repo reads a registry, or a repository, as it is written in a push.
func (u *upstreams) repo(ctx context.Context, name string) (oci.Repo, error) {
	if strings.Contains(name, "/") {
		return u.routes().Route(ctx, "", name)
	}
	// Any name will do to find the host that a registry's name stands for.
	repo, err := u.routes().Route(ctx, "", name+"/x")
	return oci.Repo{Host: repo.Host}, err
}

// places lists where credentials were looked for.
func (u *upstreams) places() string {
	var places []string
	for _, s := range u.sources {
		switch s := s.(type) {
		case *authinject.DockerConfig:
			places = append(places, s.Path)
		case *authinject.Reference:
			places = append(places, "credentials.references for "+s.Key)
		case *authinject.Env:
			places = append(places, "$DOCKER_AUTH_CONFIG")
		}
	}
	return strings.Join(places, ", ")
}
