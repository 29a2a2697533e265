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
	"syscall"

	"github.com/spf13/cobra"
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
		Use:           "pushproxy",
		Short:         "A local push proxy for container images that finds your registry credentials itself",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	addFlags(root.PersistentFlags())
	root.AddCommand(serveCommand(), configCommand(), doctorCommand(), setupCommand(), caCommand(),
		statusCommand(), topCommand(), queueCommand(), waitCommand(), gcCommand(), fsckCommand(),
		tokenCommand(), loginCommand(), logoutCommand(), secretCommand(), versionCommand())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
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
