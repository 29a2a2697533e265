package authinject

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pushproxy/oci"
)

func TestAnOwnerIsOnePersonWithOneAccountOnOneHost(t *testing.T) {
	t.Parallel()
	base := Credential{Username: "AWS", Password: "p", Source: "docker config x"}
	minted := base
	minted.Minted = true
	rotated := minted
	rotated.Password = "q"
	if Owner("pepper", "ann", "h", minted) != Owner("pepper", "ann", "h", rotated) {
		t.Error("a minted secret that rotates makes another owner")
	}
	with := func(change func(*Credential)) Credential { c := base; change(&c); return c }
	seen := map[[32]byte]string{}
	for name, owner := range map[string][32]byte{
		"the owner":               Owner("pepper", "ann", "h", base),
		"another pepper":          Owner("other", "ann", "h", base),
		"another principal":       Owner("pepper", "bob", "h", base),
		"another host":            Owner("pepper", "ann", "i", base),
		"another password":        Owner("pepper", "ann", "h", with(func(c *Credential) { c.Password = "q" })),
		"another username":        Owner("pepper", "ann", "h", with(func(c *Credential) { c.Username = "A" })),
		"another source":          Owner("pepper", "ann", "h", with(func(c *Credential) { c.Source = "y" })),
		"the secret as identity":  Owner("pepper", "ann", "h", with(func(c *Credential) { c.Password, c.Identity = "", "p" })),
		"the secret as bearer":    Owner("pepper", "ann", "h", with(func(c *Credential) { c.Password, c.Bearer = "", "p" })),
		"minted":                  Owner("pepper", "ann", "h", minted),
		"minted for another user": Owner("pepper", "bob", "h", minted),
		"anonymous":               Owner("pepper", "ann", "h", Credential{}),
		"anonymous elsewhere":     Owner("pepper", "ann", "i", Credential{}),
		"anonymous as another":    Owner("pepper", "bob", "h", Credential{}),
		"shifted fields":          Owner("pepper", "annh", "", base),
		"shifted username":        Owner("pepper", "ann", "h", with(func(c *Credential) { c.Source, c.Username = "docker config xA", "WS" })),
	} {
		if other, ok := seen[owner]; ok {
			t.Errorf("%s and %s are one owner", name, other)
		}
		seen[owner] = name
	}
	if Owner("pepper", "ann", "h", Credential{Source: "docker config x"}) != Owner("pepper", "ann", "h", Credential{}) {
		t.Error("an anonymous owner depends on where nothing was found")
	}
}

// failing is a Source whose store is broken.
type failing struct{ err error }

func (f failing) Credential(context.Context, oci.Repo) (Credential, error) {
	return Credential{}, f.err
}
func (f failing) Hosts(context.Context) ([]string, error) { return nil, f.err }

// listed is a source that knows no host and fails all the same.
type listed struct{ failing }

func (listed) Hosts(context.Context) ([]string, error) { return nil, nil }

func TestOnlyACredentialOfNothingIsAnonymous(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Credential{"a name": {Username: "u"}, "a password": {Password: "p"}, "an identity": {Identity: "i"}, "a token": {Bearer: "b"}} {
		if c.Anonymous() {
			t.Errorf("%s is anonymous", name)
		}
	}
	if !(Credential{Source: "docker config x", Minted: true}).Anonymous() {
		t.Error("nothing is an account")
	}
	ann, eve := Credential{Username: "ann"}, Credential{Username: "eve"}
	if ctx := withRejected(t.Context(), ann); !isRejected(ctx, ann) || isRejected(ctx, eve) || isRejected(t.Context(), Credential{}) {
		t.Error("a refusal of one credential is not its own alone")
	}
}

func TestTheFirstSourceThatHasOneAnswers(t *testing.T) {
	t.Parallel()
	first, second := fixed{"acme/app": {Username: "first"}}, fixed{"": {Username: "second"}}
	broken := failing{oci.ErrDenied.With("broken")}
	app, other := oci.Repo{Host: "registry.test", Name: "acme/app"}, oci.Repo{Host: "registry.test", Name: "other"}
	for name, c := range map[string]struct {
		chain Chain
		repo  oci.Repo
		want  string
		err   error
	}{
		"the first that has it":                 {Chain{first, second}, app, "first", nil},
		"the second where the first has none":   {Chain{first, second}, other, "second", nil},
		"none":                                  {Chain{first}, other, "", ErrNone},
		"nobody to ask":                         {nil, app, "", ErrNone},
		"a failure stops the search":            {Chain{broken, second}, app, "", oci.ErrDenied},
		"a failure behind the answer is unseen": {Chain{second, broken}, app, "second", nil},
	} {
		got, err := c.chain.Credential(t.Context(), c.repo)
		if got.Username != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q and %v", name, got.Username, err)
		}
	}
	if known, err := (Chain{second, broken}).Knows(t.Context(), "registry.test"); !known || err != nil {
		t.Errorf("got %v and %v, want the first source's yes", known, err)
	}
	if _, err := (Chain{broken, second}).Knows(t.Context(), "registry.test"); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("got %v, want the failure", err)
	}
	if _, err := (Chain{first, broken}).Hosts(t.Context()); !errors.Is(err, oci.ErrDenied) {
		t.Errorf("got %v, want the failure", err)
	}
	// Its hosts can be listed, and it fails when it is asked for one.
	half := listed{failing{oci.ErrDenied.With("locked")}}
	if known, err := (Chain{half, second}).Knows(t.Context(), "registry.test"); known || !errors.Is(err, oci.ErrDenied) {
		t.Errorf("got %v and %v, want the failure", known, err)
	}
	for _, host := range []string{"", "registry.test/acme", "bob@registry.test", "registry.test/..", "ftp://registry.test", "other.test"} {
		if known, err := (Chain{second}).Knows(t.Context(), host); known || err != nil {
			t.Errorf("%q: got %v and %v, want a host that nobody is logged in to", host, known, err)
		}
	}
	if hosts, err := (Chain{first, second}).Hosts(t.Context()); err != nil || !slices.Equal(hosts, []string{"registry.test"}) {
		t.Errorf("got %q and %v", hosts, err)
	}
}

func TestS14TheTransportAsksForItsOwnHostOnly(t *testing.T) {
	t.Parallel()
	tr, _ := newTransport(nil, fixed{"": bob})
	for _, host := range []string{"registry.test", "other.test", ""} {
		got, err := tr.Credential(t.Context(), oci.Repo{Host: host, Name: "acme/app"})
		if err != nil || got != bob {
			t.Errorf("%q: got %q and %v, want bob of registry.test", host, got.Username, err)
		}
	}
	tr.Host = "other.test"
	if got, err := tr.Credential(t.Context(), oci.Repo{Host: "registry.test"}); err != nil || !got.Anonymous() {
		t.Errorf("got %q and %v, want nobody", got.Username, err)
	}
}

// envOf is the Source of a variable with a value.
func envOf(value string) *Env {
	return &Env{LookupEnv: func(name string) (string, bool) { return value, name == "DOCKER_AUTH_CONFIG" }}
}

func TestTheEnvironmentHoldsAccounts(t *testing.T) {
	t.Parallel()
	e := envOf(`{"credsStore":"never-run","credHelpers":{"helped.test":"never-run"},"auths":{"ghcr.io":{"auth":"` + b64("bob:pw") + `"},"ghcr.io/acme":{"auth":"` + b64("acme:pw") + `"},"empty.test":{}}}`)
	for repo, want := range map[string]string{"ghcr.io/x/y": "bob", "ghcr.io/acme/x": "acme", "empty.test/x": "", "helped.test/x": "", "bad host/x": ""} {
		got, err := e.Credential(t.Context(), repoOf(t, repo))
		if got.Username != want || (want == "") != errors.Is(err, ErrNone) || want != "" && got.Source != "env DOCKER_AUTH_CONFIG" {
			t.Errorf("%s: got %q from %q and %v, want %q", repo, got.Username, got.Source, err, want)
		}
	}
	if hosts, err := e.Hosts(t.Context()); err != nil || !slices.Equal(hosts, []string{"ghcr.io"}) {
		t.Errorf("got hosts %q and %v", hosts, err)
	}
	given := &Env{Value: Secret(`{"auths":{"ghcr.io":{"auth":"` + b64("given:pw") + `"}}}`)}
	if got, err := given.Credential(t.Context(), oci.Repo{Host: "ghcr.io"}); got.Username != "given" || err != nil {
		t.Errorf("given: got %q and %v", got.Username, err)
	}
	if _, err := envOf("").Credential(t.Context(), oci.Repo{Host: "ghcr.io"}); !errors.Is(err, ErrNone) {
		t.Errorf("unset: got %v, want ErrNone", err)
	}
	_, err := (&Env{Name: "MY_AUTH", LookupEnv: func(string) (string, bool) { return `{"auths":` + canary, true }}).Credential(t.Context(), oci.Repo{Host: "ghcr.io"})
	if !errors.Is(err, oci.ErrDenied) || !strings.Contains(err.Error(), "MY_AUTH") || leaks(err.Error()) {
		t.Errorf("broken: got %v, want an error that names the variable", err)
	}
}

func TestReferencesAreFollowedAnew(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pw")
	env := map[string]string{"USER_NAME": "bob", "TOKEN": "tok"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	r := &Reference{Key: "ghcr.io/acme", Username: "env:USER_NAME", Password: "file:" + file, LookupEnv: lookup}
	for _, pw := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(pw+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := r.Credential(t.Context(), oci.Repo{Host: "ghcr.io", Name: "acme/app"})
		if want := (Credential{Username: "bob", Password: Secret(pw), Source: "config reference file:" + file}); err != nil || got != want {
			t.Errorf("got %q %q from %q and %v", got.Username, got.Password.Reveal(), got.Source, err)
		}
	}
	for _, repo := range []string{"ghcr.io/acmecorp/app", "ghcr.io/x", "quay.io/acme/app", "ghcr.io"} {
		if _, err := r.Credential(t.Context(), repoOf(t, repo)); !errors.Is(err, ErrNone) {
			t.Errorf("%s: got %v, want ErrNone", repo, err)
		}
	}
	identity := &Reference{Key: "ghcr.io", Identity: "env:TOKEN", LookupEnv: lookup}
	if got, err := identity.Credential(t.Context(), oci.Repo{Host: "ghcr.io"}); err != nil || got.Identity != "tok" {
		t.Errorf("got %v and %v", got, err)
	}
}

func TestReferencesThatCannotBeFollowedAreErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, large, good := filepath.Join(dir, "empty"), filepath.Join(dir, "large"), filepath.Join(dir, "good")
	if err := errors.Join(os.WriteFile(good, []byte("pw"), 0o600), os.WriteFile(empty, []byte("\n"), 0o600), os.WriteFile(large, make([]byte, maxReferenced+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*Reference{
		"the secret itself":                   {Key: "ghcr.io", Password: canary},
		"no secret":                           {Key: "ghcr.io", Username: "bob"},
		"no registry":                         {Key: "a@b", Password: "env:X"},
		"a relative file":                     {Key: "ghcr.io", Password: "file:pw"},
		"an unnamed variable":                 {Key: "ghcr.io", Password: "env:"},
		"a missing file":                      {Key: "ghcr.io", Password: "file:" + filepath.Join(dir, "none")},
		"a directory":                         {Key: "ghcr.io", Password: "file:" + dir},
		"an empty file":                       {Key: "ghcr.io", Password: "file:" + empty},
		"a large file":                        {Key: "ghcr.io", Password: "file:" + large},
		"a variable not set":                  {Key: "ghcr.io", Bearer: "env:PUSHPROXY_TEST_NOT_SET"},
		"a username not there":                {Key: "ghcr.io", Username: "env:PUSHPROXY_TEST_NOT_SET", Password: "file:" + good},
		"a secret that begins as a path does": {Key: "ghcr.io", Password: "/" + canary},
		"a good one beside a secret itself":   {Key: "ghcr.io", Password: "file:" + good, Identity: canary},
	} {
		_, err := r.Credential(t.Context(), oci.Repo{Host: "ghcr.io"})
		if !errors.Is(err, oci.ErrDenied) || leaks(err.Error()) {
			t.Errorf("%s: got %v, want an error to be shown", name, err)
		}
	}
	for name, r := range map[string]*Reference{
		"no registry":         {Key: "a@b", Password: "env:X"},
		"a relative file":     {Key: "ghcr.io", Password: "file:pw"},
		"an unnamed variable": {Key: "ghcr.io", Password: "env:"},
		"a path alone":        {Key: "ghcr.io", Password: "/" + canary},
	} {
		if err := r.Validate(); err == nil || leaks(err.Error()) {
			t.Errorf("%s: Validate says %v", name, err)
		}
		if _, err := r.Hosts(t.Context()); !errors.Is(err, oci.ErrDenied) || leaks(err.Error()) {
			t.Errorf("%s: Hosts says %v", name, err)
		}
	}
	for says, file := range map[string]string{"does not exist": filepath.Join(dir, "none"), "not a regular file": dir, "is empty": empty, "larger than 64 KiB": large} {
		if _, err := (&Reference{Key: "ghcr.io", Password: "file:" + file}).Credential(t.Context(), oci.Repo{Host: "ghcr.io"}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
	if err := os.WriteFile(large, []byte(strings.Repeat("x", maxReferenced)), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := (&Reference{Key: "ghcr.io", Password: "file:" + large}).Credential(t.Context(), oci.Repo{Host: "ghcr.io"}); err != nil || len(c.Password) != maxReferenced {
		t.Errorf("as large as may be: %d bytes, %v", len(c.Password), err)
	}
	if _, err := (&Reference{Key: "ghcr.io", Password: "file:" + good}).Credential(t.Context(), oci.Repo{Host: "not a host"}); !errors.Is(err, ErrNone) {
		t.Errorf("a registry that is none: %v", err)
	}
}
