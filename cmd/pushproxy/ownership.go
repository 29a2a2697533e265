package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// harden keeps what the process writes and holds to itself, and refuses what
// would lend it another user's rights.
func harden(c Config) error {
	restrictFiles()
	if err := keepSecrets(); err != nil {
		return err
	}
	return ownCredentials(c)
}

// ownCredentials refuses credential files of other users, and of root's service
// all that are not root's: to read them, and to run the helpers that they name,
// would lend one user's rights to another (trust.md S4).
func ownCredentials(c Config) error {
	uid := os.Geteuid()
	for _, path := range credentialFiles(c) {
		info, err := os.Stat(path)
		if err != nil {
			// Whoever needs it says so then.
			continue
		}
		owner, _ := ownerOf(info)
		if owner == uid || owner == 0 {
			continue
		}
		if uid == 0 {
			return fmt.Errorf("credentials: %s belongs to user %d, and pushproxy runs as root: a system service does not read people's files nor run their helpers; "+
				"let each person run their own pushproxy (pushproxy serve, as that user), or give the service credentials of its own (credentials and principals in the configuration, in files of root)", path, owner)
		}
		return fmt.Errorf("credentials: %s belongs to user %d, and pushproxy runs as user %d: whoever can write it chooses the helpers that run as you; use a file of your own", path, owner, uid)
	}
	return nil
}

// credentialFiles lists the files that sources would read.
func credentialFiles(c Config) (files []string) {
	for _, s := range append([]CredentialsConfig{c.Credentials}, principalCredentials(c)...) {
		for _, r := range s.References {
			for _, ref := range []string{r.Username, r.Password, r.IdentityToken} {
				if path, ok := strings.CutPrefix(expandReference(ref), "file:"); ok {
					files = append(files, path)
				}
			}
		}
		if s.DockerConfig != "" {
			files = append(files, s.DockerConfig, filepath.Join(s.DockerConfig, "config.json"))
		}
		if s.PodmanAuth != "" {
			files = append(files, s.PodmanAuth)
		}
	}
	return append(files, defaultFiles(c.Credentials)...)
}

func principalCredentials(c Config) (all []CredentialsConfig) {
	for _, p := range c.Principals {
		all = append(all, p.Credentials)
	}
	return all
}

// privateDir refuses a directory that others could read, or have chosen: what
// lies in it says who pushes what, and it is relied on.
func privateDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory, or a symbolic link to one; name the directory itself", dir)
	case ok && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d and pushproxy runs as user %d; run it as that user or choose another directory", dir, st.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users (mode %04o); run: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

// loadConfig reads the configuration of the user who runs this.
func loadConfig(flags *pflag.FlagSet) (Config, error) { return readConfig(flags, ownConfig) }

// loadConfigFor reads it where root may act for the user whose data directory it
// names (setup, ca install): that user may have written it, too, since nothing is
// done then with anybody's credentials.
func loadConfigFor(flags *pflag.FlagSet) (Config, error) {
	var file string
	var refused error
	c, err := readConfig(flags, func(f string) error {
		file, refused = f, ownConfig(f)
		return nil
	})
	if err != nil || refused == nil {
		return c, err
	}
	info, err := os.Stat(file)
	if err != nil || os.Geteuid() != 0 || info.Mode().Perm()&0o022 != 0 {
		return Config{}, refused
	}
	owner, _ := ownerOf(info)
	if info, err := os.Stat(c.DataDir); err == nil {
		if uid, _ := ownerOf(info); uid == owner {
			return c, nil
		}
	}
	return Config{}, fmt.Errorf("%w; if you set this up for that user, %s must be theirs: they run `pushproxy serve` once", refused, c.DataDir)
}

// ownConfig refuses a configuration file that somebody else can write.
func ownConfig(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		// Whoever reads it says so.
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("configuration file %s belongs to user %d, who could send your credentials anywhere; use one of your own", file, st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("configuration file %s can be written by other users (mode %04o); run: chmod go-w %s", file, info.Mode().Perm(), file)
	}
	return nil
}
