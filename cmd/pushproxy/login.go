package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pushproxy/authinject"
	"pushproxy/proxy"
)

// loginToken is the name of the token that login makes.
const loginToken = "login"

func loginCommand() *cobra.Command {
	var stdin bool
	command := &cobra.Command{
		Use:   "login",
		Short: "Log docker and podman in to pushproxy, with a token",
		Long: "Write a token into docker's config and podman's auth file, so that docker (whose daemon is another user),\n" +
			"podman, buildah and skopeo may push to localhost:5001. Whoever runs pushproxy needs no token from anybody; other\n" +
			"users get one from them (pushproxy token create) and give it here with --token-stdin.",
		Args: cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			names := clientNames(c)
			var secret authinject.Secret
			var err error
			if stdin {
				secret, err = readToken(cmd, names)
			} else {
				secret, err = ownToken(cmd.Context(), c, names[0])
			}
			if err != nil {
				return err
			}
			for _, file := range loginFiles(c) {
				if err := editAuths(file, names, secret); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "logged in to", strings.Join(names, ", "), "in", file)
			}
			return nil
		}),
	}
	command.Flags().BoolVar(&stdin, "token-stdin", false, "read the token from the standard input instead of making one")
	return command
}

func logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Take the login to pushproxy out of docker's and podman's files, and end its token",
		Args:  cobra.NoArgs,
		RunE: configured(func(cmd *cobra.Command, c Config, _ []string) error {
			for _, file := range loginFiles(c) {
				if err := editAuths(file, clientNames(c), ""); err != nil {
					return err
				}
			}
			// A user of somebody else's pushproxy has no token file of their own.
			if _, err := tokens(c).Revoke(loginToken); err != nil && !errors.Is(err, proxy.ErrToken) && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "logged out")
			return nil
		}),
	}
}

// ownToken makes the token of whoever runs pushproxy, in place of an earlier one.
// Whether it is running at name does not matter, but that it is this one.
func ownToken(ctx context.Context, c Config, name string) (authinject.Secret, error) {
	store, err := openTokens(c)
	if err != nil {
		return "", err
	}
	if _, err := store.Revoke(loginToken); err != nil && !errors.Is(err, proxy.ErrToken) {
		return "", err
	}
	_, secret, err := store.Create(loginToken, proxy.Local, 0, proxy.Scope{})
	if err != nil {
		return "", err
	}
	if status, err := taken(ctx, name, secret); err == nil && status == http.StatusUnauthorized {
		_, err := store.Revoke(loginToken)
		return "", errors.Join(fmt.Errorf("the pushproxy at %s takes no token of data_dir %s: it is another one; name its configuration with --config, or get a token from who runs it and give it here with --token-stdin", name, c.DataDir), err)
	}
	return secret, nil
}

// taken asks what answers at name whether it takes a token. The status is 0 where
// it is no pushproxy.
func taken(ctx context.Context, name string, secret authinject.Secret) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+"/v2/", nil)
	if err != nil {
		return 0, err
	}
	request.SetBasicAuth("pushproxy", secret.Reveal())
	client := &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	_ = response.Body.Close()
	if response.Header.Get("Server") != proxy.ServerName {
		return 0, nil
	}
	return response.StatusCode, nil
}

// readToken reads a token and asks the running pushproxy whether it is one.
func readToken(cmd *cobra.Command, names []string) (authinject.Secret, error) {
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("--token-stdin: %w", err)
	}
	secret := authinject.Secret(strings.TrimSpace(line))
	if secret == "" {
		return "", errors.New("--token-stdin: the standard input has no token; one is made by pushproxy token create")
	}
	switch status, err := taken(cmd.Context(), names[0], secret); {
	case err != nil:
		return "", fmt.Errorf("no pushproxy answers at %s; is it running? %w", names[0], err)
	case status == 0:
		return "", fmt.Errorf("what answers at %s is no pushproxy; name its configuration with --config", names[0])
	case status != http.StatusOK:
		return "", fmt.Errorf("%s does not take the token (status %d); ask for a new one", names[0], status)
	}
	return secret, nil
}

// clientNames are the names that clients on this machine call the registry door
// by.
func clientNames(c Config) (names []string) {
	for _, address := range c.Listen {
		host, port, err := net.SplitHostPort(address)
		if err != nil || strings.HasPrefix(address, "unix:") || !onLoopback(host) {
			continue
		}
		for _, name := range []string{net.JoinHostPort("localhost", port), net.JoinHostPort("127.0.0.1", port)} {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		names = []string{"localhost:5001"}
	}
	return names
}

// loginFiles are the files that docker, and podman and its kin, read logins from.
func loginFiles(c Config) []string {
	docker := dockerConfig(c.Credentials)
	if info, err := os.Stat(docker); err != nil && !strings.HasSuffix(docker, ".json") || err == nil && info.IsDir() {
		docker += "/config.json"
	}
	return []string{docker, podmanFiles(c.Credentials)[0]}
}
