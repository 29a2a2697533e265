package authinject

import (
	"net/url"
	"strings"
	"testing"
)

func TestKeysHaveOneCanonicalForm(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"https://index.docker.io/v1/": "docker.io ",
		"index.docker.io":             "docker.io ",
		"registry-1.docker.io":        "docker.io ",
		"docker.io/acme":              "docker.io acme",
		"https://ghcr.io":             "ghcr.io ",
		"https://ghcr.io/":            "ghcr.io ",
		"HTTPS://GHCR.io/v2/":         "ghcr.io ",
		"ghcr.io/acme":                "ghcr.io acme",
		"https://ghcr.io/acme/team/":  "ghcr.io acme/team",
		"GHCR.IO.":                    "ghcr.io ",
		"ghcr.io.:443":                "ghcr.io:443 ",
		"localhost:5000":              "localhost:5000 ",
		"http://127.0.0.1:5000/v1/":   "127.0.0.1:5000 ",
		"[::1]:5000":                  "[::1]:5000 ",
		"[0:0:0:0:0:0:0:1]":           "[::1] ",
		"my_registry:5000":            "my_registry:5000 ",
		"xn--bcher-kva.example":       "xn--bcher-kva.example ",
	} {
		host, path, ok := Canonical(key)
		if got := host + " " + path; !ok || got != want {
			t.Errorf("%s: got %q and ok=%v, want %q", key, got, ok, want)
		}
	}
}

func TestKeysThatNameNoRegistryAreRefused(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{
		"nothing":                        "",
		"a scheme alone":                 "https://",
		"user information":               "https://bob@ghcr.io",
		"user information and port":      "bob:pw@ghcr.io:443",
		"a per cent sign":                "ghcr%2eio",
		"a zone":                         "[fe80::1%eth0]:5000",
		"a zone without brackets":        "fe80::1%eth0",
		"IPv6 without brackets":          "::1",
		"double brackets":                "[[::1]]",
		"brackets around a name":         "[ghcr.io]",
		"a mapped zone":                  "[::1",
		"two trailing dots":              "ghcr.io..",
		"a dot alone":                    ".",
		"an empty label":                 "ghcr..io",
		"port zero":                      "ghcr.io:0",
		"a port beyond":                  "ghcr.io:65536",
		"a port with zeros":              "ghcr.io:0443",
		"a port with sign":               "ghcr.io:+443",
		"an empty port":                  "ghcr.io:",
		"another scheme":                 "ftp://ghcr.io",
		"a query":                        "ghcr.io?x",
		"a fragment":                     "ghcr.io#x",
		"a space":                        "ghcr.io x",
		"a line break":                   "ghcr.io\nx",
		"a backslash":                    `ghcr.io\x`,
		"letters beyond ASCII":           "bücher.example",
		"a path in upper case":           "ghcr.io/Acme",
		"a path that climbs":             "ghcr.io/../x",
		"an empty component":             "ghcr.io//acme",
		"docker's web session":           "https://index.docker.io/v1/access-token",
		"docker's web session's half":    "https://index.docker.io/v1/refresh-token",
		"longer than any key":            strings.Repeat("a", 2000),
		"longer than any key, by path":   "ghcr.io/" + strings.Repeat("a", 200) + strings.Repeat("/"+strings.Repeat("a", 200), 5),
		"a name longer than any":         strings.Repeat("abcdefg.", 32) + "example",
		"a label longer than any":        strings.Repeat("a", 64) + ".example",
		"a label that begins with -":     "-a.example",
		"a label that ends with -":       "a-.example",
		"IPv4 in brackets":               "[127.0.0.1]:5000",
		"a name in brackets":             "[ghcr.io]",
		"a bracket that stays open":      "[::1",
		"one before a port":              "[fe80::1:80",
		"a zone with its per cent":       "[fe80::1%eth0]",
		"a character before digits":      "a+b.example",
		"one between digits and letters": "a;b.example",
		"one behind the letters":         "a~b.example",
		"a port that is too large":       "a.example:65536",
		"a port with a sign":             "a.example:+80",
		"a port with a space":            "a.example:80 ",
		"user information before a port": "bob:pw@a.example:80",
		"something behind a bracket":     "[::1]x",
		"no host":                        "https:///acme",
		"another session of docker's":    "https://index.docker.io/v2/access-token",
	} {
		if host, path, ok := Canonical(key); ok {
			t.Errorf("%s: %q is read as %s and %s", name, key, host, path)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"https://index.docker.io/v1/", "ghcr.io/acme", "[::1]:5000", "GHCR.io.:443", "a@b", "127.1", "http://x/v2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		host, path, ok := Canonical(key)
		if !ok {
			return
		}
		again, none, ok := Canonical(host)
		if !ok || again != host || none != "" {
			t.Errorf("%q gives %q, which gives %q and %q", key, host, again, none)
		}
		if strings.ContainsAny(host, "@%/?# ") || host != strings.ToLower(host) {
			t.Errorf("%q gives host %q", key, host)
		}
		if path == "" {
			return
		}
		if h, p, ok := Canonical(host + "/" + path); !ok || h != host || p != path {
			t.Errorf("%q gives %q and %q, which give %q and %q", key, host, path, h, p)
		}
	})
}

func TestAnOriginIsSchemeHostAndPort(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://A.test/v2/":     "https://a.test:443",
		"http://a.test":          "http://a.test:80",
		"http://a.test:443":      "http://a.test:443",
		"https://[FD00::1]/":     "https://[fd00::1]:443",
		"https://a.test./":       "https://a.test.:443",
		"https:///v2/":           "",
		"https://:443/v2/":       "",
		"ftp://a.test/":          "",
		"//a.test/":              "",
		"https:a.test":           "",
		"https://u:p@a.test:1/x": "https://a.test:1",
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := originOf(u); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
