package proxy

import (
	"context"
	"errors"
	"strings"
	"testing"

	"pushproxy/oci"
)

func testRoutes(defaultUpstream string) *Routes {
	return &Routes{
		Upstreams: []Upstream{
			{Host: "registry.test"},
			{Host: "corp.test:8443", Aliases: []string{"corp", "c"}, Prefix: "team/sub"},
			{Host: "mirror.test", Prefix: "hub"},
		},
		Default: defaultUpstream,
		Known: func(_ context.Context, host string) (bool, error) {
			if host == "broken.test" {
				return false, oci.ErrDenied.With("the helper failed")
			}
			return host == "docker.io" || host == "ghcr.io" || host == "localhost" || host == "[fd00::1]:5000", nil
		},
		Hosts: func(context.Context) []string { return []string{"docker.io", "ghcr.io"} },
	}
}

// routed are names as clients write them and what they mean.
var routed = []struct {
	name                string
	def, namespace, ask string
	want                string // "" for NAME_UNKNOWN
}{
	{"a configured host", "", "", "registry.test/acme/app", "registry.test/acme/app"},
	{"a host that the user is logged in to", "", "", "ghcr.io/acme/app", "ghcr.io/acme/app"},
	{"localhost is a host", "", "", "localhost/app", "localhost/app"},
	{"an alias with the upstream's prefix", "", "", "corp/app", "corp.test:8443/team/sub/app"},
	{"another alias", "", "", "c/a/b", "corp.test:8443/team/sub/a/b"},
	{"an alias alone is no repository", "", "", "corp", ""},
	{"an alias alone belongs to the default", "registry.test", "", "corp", "registry.test/corp"},
	{"a registry's own name gets no prefix", "", "", "mirror.test/app", "mirror.test/app"},
	{"the default with its prefix", "mirror.test", "", "app", "mirror.test/hub/app"},
	{"the default", "registry.test", "", "acme/app", "registry.test/acme/app"},
	{"one component and the default", "registry.test", "", "app", "registry.test/app"},
	{"the default by another spelling", "index.docker.io", "", "alpine", "docker.io/library/alpine"},
	{"a host goes before the default", "registry.test", "", "ghcr.io/acme/app", "ghcr.io/acme/app"},
	{"an unknown host does not become a repository of the default", "registry.test", "", "evil.test/app", ""},
	{"docker.io's official images", "", "", "docker.io/alpine", "docker.io/library/alpine"},
	{"docker.io's other images", "", "", "docker.io/acme/app", "docker.io/acme/app"},
	{"docker.io's old name", "", "", "index.docker.io/alpine", "docker.io/library/alpine"},
	{"docker.io's server", "", "", "registry-1.docker.io/alpine", "docker.io/library/alpine"},
	{"a name beside the path", "", "ghcr.io", "acme/app", "ghcr.io/acme/app"},
	{"a name beside the path in upper case", "", "GHCR.io", "acme/app", "ghcr.io/acme/app"},
	{"a name beside the path with a dot at its end", "", "ghcr.io.", "acme/app", "ghcr.io/acme/app"},
	{"a name beside and in the path", "", "ghcr.io", "ghcr.io/acme/app", "ghcr.io/acme/app"},
	{"another name beside than in the path", "", "ghcr.io", "registry.test/acme/app", "ghcr.io/registry.test/acme/app"},
	{"the name beside goes before an alias", "", "ghcr.io", "corp/app", "ghcr.io/corp/app"},
	{"the name beside goes before the default", "registry.test", "docker.io", "alpine", "docker.io/library/alpine"},
	{"a name beside with a port", "", "corp.test:8443", "app", "corp.test:8443/app"},
	{"an address beside", "", "[fd00::1]:5000", "app", "[fd00::1]:5000/app"},
	{"an unknown name beside", "registry.test", "evil.test", "acme/app", ""},
	{"an alias is no name beside", "", "corp", "app", ""},
	{"an unknown host", "", "", "evil.test/app", ""},
	{"the metadata service", "", "", "169.254.169.254/latest", ""},
	{"no host and no default", "", "", "acme/app", ""},
	{"userinfo beside", "", "user@ghcr.io", "acme/app", ""},
	{"a path beside", "", "ghcr.io/evil", "acme/app", ""},
	{"a scheme beside", "", "https://ghcr.io", "acme/app", ""},
	{"a zone beside", "", "[fe80::1%eth0]:5000", "acme/app", ""},
	{"two dots beside", "", "ghcr.io..", "acme/app", ""},
	{"a line beside", "", "ghcr.io\r\nX: y", "acme/app", ""},
}

func TestS13NamesFindTheirUpstream(t *testing.T) {
	for _, test := range routed {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := testRoutes(test.def).Route(t.Context(), test.namespace, test.ask)
			if test.want == "" {
				if !errors.Is(err, oci.ErrNameUnknown) {
					t.Fatalf("%v, %v, want NAME_UNKNOWN", got, err)
				}
				for _, route := range []string{"registry.test", "corp", "ghcr.io", "docker.io"} {
					if !strings.Contains(err.Error(), route) {
						t.Errorf("%q does not list %s", err, route)
					}
				}
				if strings.ContainsAny(err.Error(), "\r\n") {
					t.Errorf("%q has more than one line", err)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("%v, %v, want %s", got, err, test.want)
			}
		})
	}
}

func TestS14AFailingCredentialSourceIsAnErrorAndNoUnknownName(t *testing.T) {
	t.Parallel()
	if _, err := testRoutes("").Route(t.Context(), "", "broken.test/app"); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("%v, want the source's own error", err)
	}
}

func TestWithoutAnyRouteTheErrorSaysHowToGetOne(t *testing.T) {
	t.Parallel()
	_, err := (&Routes{}).Route(t.Context(), "", "acme/app")
	if err == nil || !strings.Contains(err.Error(), "log in to a registry or configure an upstream") {
		t.Errorf("%v", err)
	}
}

func TestS13NamesThatTheUpstreamCannotHaveAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", oci.MaxName-2)
	if _, err := testRoutes("mirror.test").Route(t.Context(), "", long); !errors.Is(err, oci.ErrNameInvalid) {
		t.Errorf("a name too long behind its prefix: %v", err)
	}
}

func FuzzRoute(f *testing.F) {
	for _, name := range []string{"registry.test/acme/app", "corp/app", "alpine", "docker.io/alpine", "evil.test/a", "a//b", "/", ""} {
		f.Add("", name)
		f.Add("ghcr.io", name)
	}
	f.Add("user@ghcr.io", "acme/app")
	f.Add("[::1%lo]:80", "acme/app")
	allowed := map[string]bool{"registry.test": true, "corp.test:8443": true, "mirror.test": true, "docker.io": true, "ghcr.io": true, "localhost": true, "[fd00::1]:5000": true}
	f.Fuzz(func(t *testing.T, namespace, name string) {
		for _, def := range []string{"", "registry.test"} {
			repo, err := testRoutes(def).Route(t.Context(), namespace, name)
			if err == nil && (!allowed[repo.Host] || !oci.ValidName(repo.Name)) {
				t.Errorf("ns %q, name %q: routed to %v", namespace, name, repo)
			}
		}
	})
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"0-9", "bytes 0-9/10", "bytes 5-9/*", "9-0", "-", "a-b", "0-", "18446744073709551615-1", "0-18446744073709551615", "0-9223372036854775807", " 0-1", "+1-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, err := parseContentRange(s)
		if err != nil {
			if e := oci.AsError(err); e.Status != 400 || e.Code != "BLOB_UPLOAD_INVALID" {
				t.Errorf("%q: %v", s, e)
			}
			return
		}
		if first < 0 || last < first || last-first+1 <= 0 {
			t.Errorf("%q: %d-%d", s, first, last)
		}
	})
}
