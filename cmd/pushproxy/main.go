// Command pushproxy takes pushes of container images on localhost and forwards
// them to the registries that its user is logged in to, with credentials that
// the pushing client never holds.
//
// The rooms, from the bottom up: oci is the vocabulary; authinject finds and
// injects credentials; blobcache keeps blobs by digest and metadata keeps facts
// about them; upstream speaks to one other registry; forward makes a repository
// hold a manifest; proxy answers clients. This package reads the configuration,
// wires the rooms together and offers the commands. It is the only one that
// knows viper and cobra.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	backMappings()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; a second one is not waited for.
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(localized{os.Stderr}, "pushproxy:", printableLines(err.Error()))
		}
		os.Exit(1)
	}
}

// errReported ends the program with a failure that has been shown already.
var errReported = errors.New("reported")

// run is the program: its arguments without the name, and where it writes.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:   "pushproxy",
		Short: "A local push proxy for container images that finds your registry credentials itself",
		Long: "A local push proxy for container images that finds your registry credentials itself.\n\n" +
			"Begin with pushproxy serve, then push to localhost:5001/<registry>/<repository>:<tag>, and see it on\n" +
			"http://127.0.0.1:5003. For pushes by the images' real names see pushproxy setup.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	addFlags(root.PersistentFlags())
	root.AddCommand(serveCommand(), configCommand(), doctorCommand(), setupCommand(), caCommand(),
		statusCommand(), topCommand(), queueCommand(), waitCommand(), gcCommand(), fsckCommand(),
		tokenCommand(), loginCommand(), logoutCommand(), secretCommand(), versionCommand())
	explain(root)
	root.Version = version()
	root.SetVersionTemplate(versionLine())
	root.SetUsageTemplate(shortened(root.UsageTemplate()))
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// group makes a command of its parts: alone it shows its help, and an error says
// which parts there are.
func group(c *cobra.Command, parts ...*cobra.Command) *cobra.Command {
	var names []string
	for _, part := range parts {
		names = append(names, part.Name())
	}
	slices.Sort(names)
	c.AddCommand(parts...)
	c.DisableFlagsInUseLine = true
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("there is no %s %s: it is one of %s", c.CommandPath(), args[0], strings.Join(names, ", "))
		}
		return nil
	}
	c.RunE = func(*cobra.Command, []string) error { return c.Help() }
	return c
}

// explain makes the errors about arguments and flags say what goes there, of a
// command and all its parts.
func explain(c *cobra.Command) {
	if check := c.Args; check != nil && !c.HasSubCommands() {
		c.Args = func(_ *cobra.Command, args []string) error {
			switch err := check(c, args); {
			case err != nil && len(args) == 0:
				return fmt.Errorf("something is missing: it is written %s", c.UseLine())
			case err != nil:
				return fmt.Errorf("%s does not fit: it is written %s", strings.Join(args, " "), c.UseLine())
			}
			return nil
		}
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) && kinds[invalid.GetFlag().Value.Type()] != "" {
			err = fmt.Errorf("--%s: %q is not %s", invalid.GetFlag().Name, invalid.GetValue(), kinds[invalid.GetFlag().Value.Type()])
		}
		return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
	})
	for _, part := range c.Commands() {
		explain(part)
	}
}

// shortened takes the flags of all keys out of the help of all commands but the
// one that they are about, and says where they are.
func shortened(template string) string {
	const all = "{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}"
	return strings.Replace(template, all, `{{if eq .Name "serve"}}`+all+`{{else}}      --config file          file to read (default $PUSHPROXY_CONFIG or ~/.config/pushproxy/config.yaml, if there is one)
      --data-dir directory   directory of the cache and what is known of upstreams (default ~/.local/share/pushproxy)
      …                      one for each other key of the configuration: see pushproxy serve --help{{end}}`, 1)
}

// configured is what a command runs that needs the configuration.
func configured(do func(cmd *cobra.Command, c Config, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := loadConfig(cmd.Flags())
		if err != nil {
			return err
		}
		return do(cmd, c, args)
	}
}
