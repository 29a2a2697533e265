package authinject

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pushproxy/oci"
)

func TestS10HostileRealmsNeverSeeTheCredential(t *testing.T) {
	t.Parallel()
	for name, realm := range map[string]string{
		"another domain":                       "https://evil.example/token",
		"plain http":                           "http://registry.test/token",
		"plain http on the TLS port":           "http://registry.test:443/token",
		"a loopback address":                   "https://127.0.0.1/token",
		"a short loopback address":             "https://127.1/token",
		"a loopback address as a number":       "https://2130706433/token",
		"a loopback address in hexadecimal":    "https://0x7f000001/token",
		"localhost":                            "https://localhost/token",
		"a name below localhost":               "https://registry.localhost/token",
		"the unspecified address":              "https://[::]/token",
		"the mapped loopback address":          "https://[::ffff:127.0.0.1]/token",
		"a link-local address with a zone":     "https://[fe80::1%25eth0]/token",
		"the metadata service":                 "http://169.254.169.254/latest/meta-data",
		"the metadata service over https":      "https://169.254.169.254/token",
		"the metadata service by name":         "https://metadata.google.internal/token",
		"a name that resolves to it":           "https://169.254.169.254.nip.example/token",
		"user information":                     "https://bob@registry.test/token",
		"the registry as user information":     "https://registry.test@evil.example/token",
		"the registry as user and password":    "https://registry.test:443@evil.example/token",
		"a name that only ends like it":        "https://evilregistry.test/token",
		"a name that only starts like it":      "https://registry.test.evil.example/token",
		"the public suffix itself":             "https://test/token",
		"a trailing dot":                       "https://registry.test./token",
		"another scheme":                       "ftp://registry.test/token",
		"a file":                               "file:///etc/passwd",
		"no host":                              "https:///token",
		"an opaque address":                    "https:registry.test/token",
		"a scheme-relative foreign host":       "//evil.example/token",
		"a backslash":                          `https://evil.example\@registry.test/token`,
		"a per cent sign in the host":          "https://registry%2etest.evil.example/token",
		"a sibling whose name is none":         "https://a!.registry.test/token",
		"a full-width look-alike":              "https://ｒegistry.test/token",
		"a realm that redirects to a stranger": "https://registry.test/redirect",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for kind, cred := range map[string]Credential{"password": bob, "identity": {Identity: canary}, "anonymous": {}} {
				r := &registry{realm: strings.ReplaceAll(realm, `\`, `\\`)}
				tr, w := newTransport(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
					if req.URL.Path == "/redirect" {
						rw.Header().Set("Location", "https://evil.example/token")
						rw.WriteHeader(http.StatusTemporaryRedirect)
						return
					}
					r.ServeHTTP(rw, req)
				}), fixed{"": cred})
				_, err := send(t, tr, "GET", manifest, "")
				if err == nil || leaks(err.Error()) {
					t.Errorf("%s: got error %v, want a refusal without the secret", kind, err)
				}
				for _, s := range w.requests() {
					if s.origin != homeAt {
						t.Errorf("%s: a connection to %s was made", kind, s.origin)
					}
				}
				w.mustHoldSecretOnlyAt(t, homeAt)
			}
		})
	}
}

func TestRealmsThatBelongToTheRegistryAreAccepted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origin, realm string
		trusted       []string
	}{
		"the registry itself":              {"https://ghcr.io", "https://ghcr.io/token", nil},
		"its port written out":             {"https://ghcr.io", "https://ghcr.io:443/token", nil},
		"a path alone":                     {"https://ghcr.io", "/token", nil},
		"Docker Hub's":                     {"https://registry-1.docker.io", "https://auth.docker.io/token", nil},
		"GitLab's":                         {"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", nil},
		"a sibling below a suffix of two":  {"https://registry.acme.co.uk", "https://auth.acme.co.uk/token", nil},
		"an address, the same":             {"http://127.0.0.1:5000", "http://127.0.0.1:5000/token", nil},
		"localhost, its port written out":  {"http://localhost", "http://localhost:80/token", nil},
		"a trusted one behind nonsense":    {"https://ghcr.io", "https://auth.example.org/token", []string{"", "no host", "auth.example.org"}},
		"localhost, the same":              {"http://localhost:5000", "http://localhost:5000/token", nil},
		"an IPv6 address, the same":        {"http://[::1]:5000", "http://[::1]:5000/token", nil},
		"a trusted host":                   {"https://ghcr.io", "https://auth.example.org/token", []string{"auth.example.org"}},
		"a trusted host with its port":     {"https://ghcr.io", "https://auth.example.org:5001/token", []string{"auth.example.org:5001"}},
		"a trusted address":                {"http://localhost:5000", "http://127.0.0.1:5001/token", []string{"127.0.0.1:5001"}},
		"https where the registry is http": {"http://registry.acme.org", "https://auth.acme.org/token", nil},
		"upper case":                       {"https://ghcr.io", "https://GHCR.io/token", nil},
	} {
		origin, err := url.Parse(c.origin)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (realmPolicy{host: origin.Host, origin: origin, trusted: c.trusted}).check(c.realm); err != nil {
			t.Errorf("%s: got %v, want it accepted", name, err)
		}
	}
}

func TestS10RealmsOfNeighboursAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		origin, realm string
		trusted       []string
	}{
		"another customer below a suffix of two": {"https://registry.acme.co.uk", "https://auth.evil.co.uk/token", nil},
		"another customer of a host":             {"https://acme.github.io", "https://evil.github.io/token", nil},
		"another port of localhost":              {"http://localhost:5000", "http://localhost:5001/token", nil},
		"a name below one of localhost":          {"http://registry.localhost:5000", "http://auth.registry.localhost:5000/token", nil},
		"localhost by address":                   {"http://localhost:5000", "http://127.0.0.1:5000/token", nil},
		"another port of an address":             {"http://10.0.0.5:5000", "http://10.0.0.5:5001/token", nil},
		"a name that ends like the address":      {"http://10.0.0.5:5000", "http://evil.0.5/token", nil},
		"an old number at the end":               {"http://10.1.0x7f:5000", "http://evil.1.0x7f/token", nil},
		"a port at the end":                      {"http://a.1.2:5000", "http://evil.1.2/token", nil},
		"nonsense that is trusted":               {"https://ghcr.io", "https://auth.example.org/token", []string{"", "no host", "auth.example.org/x", "*"}},
		"an address of another family":           {"https://[fd00::1]:5000", "https://[fd00::2]:5000/token", nil},
		"an address close by":                    {"http://10.0.0.5:5000", "http://10.0.0.6:5000/token", nil},
		"a trusted host on another port":         {"https://ghcr.io", "https://auth.example.org:8443/token", []string{"auth.example.org"}},
		"a trusted host over http":               {"https://ghcr.io", "http://auth.example.org/token", []string{"auth.example.org"}},
		"below a trusted host":                   {"https://ghcr.io", "https://a.auth.example.org/token", []string{"auth.example.org"}},
		"a single name like another":             {"https://registry", "https://auth/token", nil},
	} {
		origin, err := url.Parse(c.origin)
		if err != nil {
			t.Fatal(err)
		}
		_, err = (realmPolicy{host: origin.Host, origin: origin, trusted: c.trusted}).check(c.realm)
		if !errors.Is(err, oci.ErrDenied) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func TestARefusedRealmNamesItsHostAndTheRemedy(t *testing.T) {
	t.Parallel()
	r := &registry{realm: "https://auth.example.org:8443/token?next=" + canary}
	tr, w := newTransport(r, fixed{"": bob})
	_, err := send(t, tr, "GET", manifest, "")
	if !errors.Is(err, oci.ErrDenied) {
		t.Fatalf("got %v, want a refusal", err)
	}
	for _, part := range []string{`"auth.example.org:8443"`, "registry.test", "trusted_realms"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), canary) {
		t.Error("the realm's query is in the error")
	}
	if got := w.lines(homeAt); len(got) != 1 {
		t.Errorf("the registry saw %q, want one request", got)
	}
	// Once the registry is corrected, the next request goes through.
	r.realm = ""
	mustSend(t, tr, 201, "GET", manifest, "")
}

func TestS10ARealmsOwnQueryCannotWidenTheRequest(t *testing.T) {
	t.Parallel()
	r := &registry{realm: "https://registry.test/token?scope=repository:secret/app:pull&service=other&account=root&keep=1"}
	tr, w := newTransport(r, fixed{"": bob})
	mustSend(t, tr, 201, "GET", manifest, "")
	want := "GET /token?account=bob&client_id=pushproxy&keep=1&scope=repository%3Aacme%2Fapp%3Apull&service=registry.test"
	if got := w.lines(homeAt)[1]; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
