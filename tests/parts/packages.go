package parts

import (
	"errors"
	"os"
	"os/exec"
)

// Package is a program of the system that checks use, and the Debian package that brings it.
type Package struct {
	Program string
	Debian  string
	For     string // what is left out without it
}

// Packages returns every program of the system that the checks can use.
func Packages() []Package {
	return []Package{
		{"dockerd", "docker.io", "pushes by docker"},
		{"podman", "podman", "pushes by podman"},
		{"buildah", "buildah", "pushes by buildah"},
		{"skopeo", "skopeo", "pushes by skopeo"},
		{"containerd", "containerd", "pushes by containerd's ctr"},
		{"openssl", "openssl", "the CA as OpenSSL sees it"},
		{"curl", "curl", "the CA as curl sees it"},
		{"gnutls-cli", "gnutls-bin", "the CA as GnuTLS sees it"},
		{"systemd-analyze", "systemd", "units as systemd reads them"},
		{"runc", "runc", "builds by BuildKit"},
		{"promtool", "prometheus", "alert rules as Prometheus reads them"},
		{"chromium", "chromium", "the status page in a browser"},
		{"tmux", "tmux", "what commands draw in a terminal"},
		{"gcc", "gcc", "the race detector"},
	}
}

// Missing returns the packages whose program is not installed.
func Missing() []Package {
	var missing []Package
	for _, p := range Packages() {
		if _, err := Find(p.Program); err != nil {
			missing = append(missing, p)
		}
	}
	return missing
}

// Find returns the path of a program of the system. It also looks in the sbin directories, where daemons live, and takes
// the packaged docker before another one on the path, because that is the one that matches the packaged dockerd.
func Find(program string) (string, error) {
	for _, dir := range []string{"/usr/bin/", "/usr/sbin/", "/usr/local/sbin/"} {
		if info, err := os.Stat(dir + program); err == nil && info.Mode()&0o111 != 0 {
			return dir + program, nil
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", errors.New(program + " is not installed")
	}
	return path, nil
}
