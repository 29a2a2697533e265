package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	return &cobra.Command{
		Use:   "doctor [UPSTREAM[/REPOSITORY]]...",
		Short: "Check which credential answers for a registry, and whether it may push",
		Long: "Check, for each registry that pushes can go to or for those named, whether it answers, which\n" +
			"credential is used for it and whether the registry takes that. With a repository it also opens\n" +
			"an upload there, and cancels it, to see whether a push would be allowed.",
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := loadConfig(cmd.Flags())
			if err != nil {
				return err
			}
			// Nothing is forwarded and nothing stored, so neither needs a secret.
			u, err := newUpstreams(c, "", forward.New(nil, nil))
			if err != nil {
				return err
			}
			if len(names) == 0 {
				names = u.names(cmd.Context())
			}
			if len(names) == 0 {
				return errors.New("there is no registry to check: log in to one (docker login REGISTRY) or name one in the configuration")
			}
			healthy := true
			for _, name := range names {
				healthy = u.examine(cmd.Context(), cmd.OutOrStdout(), name) && healthy
			}
			if !healthy {
				return errReported
			}
			return nil
		},
	}
}

// examine runs the checks of one registry or repository in order, and stops at
// the first that fails: the later ones build on it.
func (u *upstreams) examine(ctx context.Context, out io.Writer, name string) bool {
	fmt.Fprintln(out, name)
	for _, c := range u.checks(name) {
		checkCtx, cancel := context.WithTimeout(ctx, doctorFor)
		text, err := c.run(checkCtx)
		cancel()
		if err != nil {
			fmt.Fprintf(out, "  FAIL %-16s %s\n", c.name, err)
			return false
		}
		fmt.Fprintf(out, "  ok   %-16s %s\n", c.name, text)
	}
	return true
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
			if c.Anonymous() {
				return "", fmt.Errorf("none found in %s: docker login %s", u.places(), repo.Host)
			}
			return describe(ctx, r.transport, repo), nil
		}},
		{"registry", func(ctx context.Context) (string, error) {
			began := time.Now()
			if err := r.Client.Ping(ctx); err != nil {
				return "", err
			}
			return fmt.Sprintf("answered and took the credential after %s", time.Since(began).Round(time.Millisecond)), nil
		}},
	}
	if !strings.Contains(name, "/") {
		return all
	}
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
