package authinject

import (
	"bytes"
	"encoding"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"pushproxy/oci"
)

// printings returns v in every way that a program prints or encodes things.
func printings(t *testing.T, v any) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%10.3s"} {
		all[verb] = fmt.Sprintf(verb, v)
	}
	nested := map[string]any{"a": []any{v, struct{ Inner any }{v}}}
	all["nested"] = fmt.Sprintf("%v %+v %#v", nested, nested, nested)
	if j, err := json.Marshal(nested); err == nil {
		all["JSON"] = string(j)
	}
	if x, err := xml.Marshal(struct{ Inner any }{v}); err == nil {
		all["XML"] = string(x)
	}
	if m, ok := v.(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		all["text"] = string(text)
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).With("with", v).Error("message", "v", v, "nested", nested, slog.Group("g", "v", v), "pointer", &v)
	}
	all["slog"] = out.String()
	return all
}

func mustNotPrint(t *testing.T, name string, v any) {
	t.Helper()
	for how, text := range printings(t, v) {
		if leaks(text) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", canary)) {
			t.Errorf("%s printed with %s shows the secret: %s", name, how, text)
		}
	}
}

// opaque is a network that cannot be printed.
type opaque func(*http.Request) (*http.Response, error)

func (o opaque) RoundTrip(req *http.Request) (*http.Response, error) { return o(req) }

func TestASecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := Secret(canary)
	mustNotPrint(t, "a secret", s)
	mustNotPrint(t, "a pointer to a secret", &s)
	mustNotPrint(t, "a list", []Secret{s})
	mustNotPrint(t, "a map", map[string]Secret{"k": s})
	mustNotPrint(t, "a credential", Credential{Username: "bob", Password: s, Identity: s, Bearer: s, Source: "x"})
	mustNotPrint(t, "a pointer to a credential", &Credential{Password: s})
	if got := fmt.Sprintf("%s|%v|%q|%x", s, s, s, s); got != "***|***|***|***" {
		t.Errorf("got %s, want only asterisks", got)
	}
	if s.Reveal() != canary {
		t.Error("Reveal does not give the text")
	}
}

func TestNothingThatHoldsSecretsPrintsThemAfterUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	auths := `{"auths":{"registry.test":{"auth":"` + b64("bob:"+canary) + `"}}}`
	lookup := func(string) (string, bool) { return canary, true }
	for name, source := range map[string]Source{
		"docker config":      writeConfig(t, auths),
		"environment":        envOf(auths),
		"file reference":     &Reference{Key: "registry.test", Username: "bob", Password: "file:" + file},
		"variable reference": &Reference{Key: "registry.test", Username: "bob", Password: "env:X", LookupEnv: lookup},
		"identity token":     writeConfig(t, `{"auths":{"registry.test":{"auth":"`+b64("bob:"+canary)+`","identitytoken":"`+canary+`"}}}`),
	} {
		r := &registry{identity: canary}
		tr, w := newTransport(r, Chain{source})
		// What the network has seen is no part of the transport.
		tr.Base = opaque(w.RoundTrip)
		mustSend(t, tr, 201, "GET", manifest, "")
		mustNotPrint(t, name, source)
		mustNotPrint(t, name+" in a chain", Chain{source})
		mustNotPrint(t, "the transport of "+name, tr)
		// The registry itself says the secret in whatever it can.
		r.password, r.identity = "another", "another"
		r.challenge = `Bearer realm="https://registry.test/token?` + canary + `",service="s"`
		r.revoke()
		tr.state().tokens.held = map[tokenKey]*token{}
		_, err := send(t, tr, "GET", manifest, "")
		if !errors.Is(err, oci.ErrDenied) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
		mustNotPrint(t, "the refusal of "+name, err)
	}
}

func TestABaseThatFailsShowsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, w := newTransport(&registry{realm: "https://auth.registry.test/token"}, fixed{"": bob})
		_, err := send(t, tr, "GET", manifest, "")
		if !errors.Is(err, oci.ErrUpstream) || len(w.lines("https://auth.registry.test:443")) != exchangeAttempts {
			t.Errorf("got %v, want a token server that cannot be reached after %d attempts", err, exchangeAttempts)
		}
		mustNotPrint(t, "the error", err)
		mustNotPrint(t, "an error around it", fmt.Errorf("push: %w", err))
	})
}
