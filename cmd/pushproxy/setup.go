package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pushproxy/forward"
	"pushproxy/proxy"
)

// setups is the one table of what can be set up: a client, what it is about,
// and what its set-up would do.
var setups = []struct {
	name  string
	about string
	plan  func(*place) (plan, error)
}{
	{"docker", "dockerd: real names through the forward-proxy door (as root), or Docker Desktop", planDocker},
	{"docker-desktop", "Docker Desktop, whose daemon is in a virtual machine", planDockerDesktop},
	{"colima", "Colima, whose daemon is in a virtual machine", planColima},
	{"podman", "podman: real names through the forward-proxy door, localhost with TLS", planPodman},
	{"podman-machine", "podman in a virtual machine", planPodmanMachine},
	{"buildah", "buildah: as podman", planPodman},
	{"skopeo", "skopeo: as podman", planPodman},
	{"containerd", "containerd and its ctr: real names to the registry door", planContainerd},
	{"nerdctl", "nerdctl: as containerd", planContainerd},
	{"buildkit", "buildkitd and docker buildx: real names through the forward-proxy door", planBuildkit},
	{"crane", "crane: real names through the forward-proxy door", planVariables},
	{"oras", "oras: as crane", planVariables},
	{"regctl", "regctl: as crane", planVariables},
	{"kubernetes", "clusters in docker (kind, k3d, minikube): the config map of KEP-1755", planKubernetes},
	{"systemd", "pushproxy itself, started by systemd when somebody connects", planSystemd},
	{"launchd", "pushproxy itself, started by launchd (macOS)", planLaunchd},
}

// userSuffix tells set-ups of root's own files from those of the machine's.
const userSuffix = " --user"

// place is where a set-up is made.
type place struct {
	Config
	home       string   // of the user, without root
	root       string   // put before every path; tests use it
	system     bool     // uid 0: the machine's own files
	registries []string // hosts that can be pushed to
	roots      string   // PEM of the CA's roots; "" when there is no CA yet
	bundle     string   // the file that holds them
	client     string   // as it is in the journal: the name and how it was meant
	tool       string   // the name alone
}

// has reports whether a path exists here.
func (p *place) has(path string) bool { return exists(filepath.Join(p.root, path)) }

// journal is where changes are written down; those below another root are but
// trials, and doctor looks at none of them.
func (p *place) journal() string {
	if p.root != "" {
		return filepath.Join(p.DataDir, "setup-trial.json")
	}
	return filepath.Join(p.DataDir, "setup.json")
}

func setupCommand() *cobra.Command {
	var names []string
	long := strings.Builder{}
	long.WriteString("Print what CLIENT needs to push through pushproxy, and why. With --apply it is done, after a journal of what\n" +
		"was there before is written; --undo puts that back byte for byte; --check says what is missing.\n\n")
	for _, s := range setups {
		names = append(names, s.name)
		fmt.Fprintf(&long, "  %-15s %s\n", s.name, s.about)
	}
	var how setupHow
	command := &cobra.Command{
		Use: "setup CLIENT", Short: "Let a client push through pushproxy: print, apply, check or undo it", Long: long.String(),
		ValidArgs: names, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return setUp(cmd, names, args, how)
		},
	}
	flags := command.Flags()
	flags.BoolVar(&how.apply, "apply", false, "make the changes")
	flags.BoolVar(&how.undo, "undo", false, "put back what was there before")
	flags.BoolVar(&how.check, "check", false, "say what is missing; the exit status is 1 when something is")
	flags.BoolVar(&how.user, "user", false, "write root's own files and not the machine's, when root runs this")
	flags.StringVar(&how.root, "root", "", "`directory` that stands for / (to try things out)")
	return command
}

// setupHow is what is to be done with a set-up; none of the first three: print it.
type setupHow struct {
	apply, undo, check, user bool
	root                     string
}

// setUp does it with the one of the named clients that args say.
func setUp(cmd *cobra.Command, names, args []string, how setupHow) error {
	if len(args) == 0 {
		return fmt.Errorf("which client? There is a set-up for: %s", strings.Join(names, ", "))
	}
	if how.apply && how.undo || how.apply && how.check || how.undo && how.check {
		return errors.New("--apply, --undo and --check do not go together: one at a time")
	}
	i := slices.Index(names, args[0])
	if i < 0 {
		return fmt.Errorf("there is no set-up for %q; there is one for: %s", args[0], strings.Join(names, ", "))
	}
	p, err := newPlace(cmd, args[0], how.root, how.apply)
	if err != nil {
		return err
	}
	if how.user && p.system {
		p.system, p.client = false, p.client+userSuffix
	}
	j, err := openJournal(p.journal())
	if err != nil {
		return err
	}
	p.machineWide(j)
	if p.mistakenHome(cmd) {
		fmt.Fprintf(cmd.ErrOrStderr(), "This is about a pushproxy of root's own (%s). For the one that you run: sudo env HOME=\"$HOME\" \"$(command -v pushproxy)\" setup %s …\n", p.DataDir, args[0])
	}
	out := cmd.OutOrStdout()
	if how.undo {
		return undoSetup(out, j, p.client)
	}
	made, err := setups[i].plan(p)
	if err != nil {
		return err
	}
	switch {
	case how.apply:
		return applySetup(out, j, made, p)
	case how.check:
		return checkSetup(out, j, made, p)
	}
	return printSetup(out, j, made, p)
}

// newPlace finds out what there is here. The CA is made when it is needed, but
// not for looking.
func newPlace(cmd *cobra.Command, client, root string, make bool) (*place, error) {
	c, err := loadConfigFor(cmd.Flags())
	if err != nil {
		return nil, err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("setup: %w", err)
	}
	p := &place{Config: c, home: home, root: root, system: os.Geteuid() == 0, client: client, tool: client}
	names, err := p.names(cmd)
	if err != nil {
		return nil, err
	}
	ca, err := proxy.OpenCA(c.caDir())
	if err == nil && make && !p.foreign() {
		ca, err = openCA(c, names)
	}
	if err != nil {
		return nil, err
	}
	p.bundle = ca.Bundle()
	text, err := os.ReadFile(p.bundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if p.roots = string(text); p.roots == "" && make {
		return nil, fmt.Errorf("there is no CA in %s yet, and it must belong to the user who runs pushproxy: run `pushproxy serve` once as that user", c.caDir())
	}
	return p, nil
}

// mistakenHome reports whether sudo changed the home, and with it whose pushproxy
// this is about, without anybody having said so.
func (p *place) mistakenHome(cmd *cobra.Command) bool {
	person := os.Getenv("SUDO_UID")
	said := cmd.Flags().Changed("config") || cmd.Flags().Changed("data-dir") || os.Getenv("PUSHPROXY_CONFIG") != ""
	return os.Geteuid() == 0 && person != "" && person != "0" && !said && !p.foreign()
}

// machineWide makes the place the machine's where root set the client up for it,
// on behalf of the user whose journal this is.
func (p *place) machineWide(j *journal) {
	p.system = p.system || slices.ContainsFunc(j.Files, func(f *journalFile) bool {
		return slices.Contains(f.Clients, p.client) && strings.HasPrefix(f.Path, filepath.Join(p.root, "/etc")+"/")
	})
}

// foreign reports whether root acts on another user's data directory: then
// nothing of that user is run or read but what is public (trust.md S4).
func (c Config) foreign() bool {
	info, err := os.Stat(c.DataDir)
	if err != nil || os.Geteuid() != 0 {
		return false
	}
	uid, _ := ownerOf(info)
	return uid != 0
}

// names finds the registries and returns what the CA must cover.
func (p *place) names(cmd *cobra.Command) ([]string, error) {
	if !p.foreign() {
		u, err := newUpstreams(p.Config, "", forward.New(nil, nil))
		if err != nil {
			return nil, err
		}
		p.registries = u.names(cmd.Context())
		return caNames(p.registries), nil
	}
	ca, err := proxy.OpenCA(p.caDir())
	if err != nil {
		return nil, err
	}
	issuers, err := ca.Issuers()
	for _, i := range issuers {
		p.registries = append(p.registries, slices.DeleteFunc(i.Names(), func(n string) bool { return n == "localhost" })...)
	}
	return nil, err
}

// port is the port of the registry door, proxyURL the forward-proxy door.
func (p *place) port() string {
	_, port, err := net.SplitHostPort(p.Listen[0])
	if err != nil {
		return "5001"
	}
	return port
}

func (p *place) localhost() string { return net.JoinHostPort("localhost", p.port()) }

func (p *place) proxyURL() (string, error) {
	if len(p.ForwardProxy.Listen) == 0 {
		return "", fmt.Errorf("setup %s needs the forward-proxy door, which the configuration turns off (forward_proxy.listen)", p.client)
	}
	return "http://" + p.ForwardProxy.Listen[0], nil
}
