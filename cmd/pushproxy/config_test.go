package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a configuration as the commands do: args are flags, yaml a file.
func load(t *testing.T, yaml string, args ...string) (Config, error) {
	t.Helper()
	if yaml != "" {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", file)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags)
}

// clean takes this machine's own configuration out of a test.
func clean(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "PUSHPROXY") || strings.HasPrefix(name, "XDG") || strings.HasPrefix(name, "DOCKER") || strings.HasPrefix(name, "OTEL") || name == "REGISTRY_AUTH_FILE" {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	t.Setenv("HOME", home)
	return home
}

func TestNoConfigurationAtAllIsTheDefaults(t *testing.T) {
	home := clean(t)
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Listen: []string{"127.0.0.1:5001", "[::1]:5001"}, TLS: "auto", ForwardProxy: ForwardProxyConfig{Listen: []string{"127.0.0.1:5002"}},
		StatusListen: []string{"127.0.0.1:5003"}, DataDir: filepath.Join(home, ".local/share/pushproxy"), Auth: "auto", Hosts: []string{}, Storage: "badger",
		Limits:      LimitsConfig{Connections: 512, Uploads: 256, Requests: 256},
		Credentials: CredentialsConfig{HelperTimeout: 10 * time.Second, HelperEnv: []string{}}, Log: LogConfig{Level: "info", Format: "text"},
		Tracing: TracingConfig{Sample: 1, Principals: []string{}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestTheExampleNamesEveryKeyWithItsDefault(t *testing.T) {
	clean(t)
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	example, err := load(t, string(text))
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	example.Upstreams, example.Credentials.References, example.Principals, example.statusChosen = nil, nil, nil, false
	if !reflect.DeepEqual(example, defaults) {
		t.Errorf("the example is %+v\nthe defaults %+v", example, defaults)
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			field := typ.Field(i)
			if key := field.Tag.Get("mapstructure"); key != "identity_token" && key != ",squash" && !strings.Contains(string(text), key+":") {
				t.Errorf("config.example.yaml does not have the key %s", key)
			}
			for field.Type.Kind() == reflect.Slice {
				field.Type = field.Type.Elem()
			}
			if field.Type.Kind() == reflect.Struct {
				walk(field.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestAFlagWinsOverAVariableAndAVariableOverTheFile(t *testing.T) {
	clean(t)
	const file = "log: {level: warn}\nlisten: [\"127.0.0.1:1\"]\n"
	t.Setenv("PUSHPROXY_LOG_LEVEL", "error")
	t.Setenv("PUSHPROXY_UPSTREAMS", `[{"host":"r.test","url":"http://127.0.0.1:5000","aliases":["r"]}]`)
	c, err := load(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "error" || c.Listen[0] != "127.0.0.1:1" || c.Upstreams[0].Aliases[0] != "r" {
		t.Errorf("variables and file: got %+v", c)
	}
	c, err = load(t, file, "--log-level", "debug", "--listen", "127.0.0.1:2", "--listen", "[::1]:2")
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || !reflect.DeepEqual(c.Listen, []string{"127.0.0.1:2", "[::1]:2"}) {
		t.Errorf("flags: got %+v", c)
	}
}

func TestABadConfigurationNamesTheKeyAndWhatItMayBe(t *testing.T) {
	clean(t)
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ says, yaml, want string }{
		{"an unknown key", "lisen: []", "lisen: "},
		{"an unknown key of an upstream", "upstreams: [{host: a.test, urll: x}]", "upstreams[0].urll: "},
		{"a value of the wrong kind", "listen: {a: b}", "listen[0]: a text goes here"},
		{"an unknown key, with those there are", "log: {lvl: x}", "in its place there are format, level"},
		{"two mistakes of one kind", "upstreams: [{hots: a}]\nlog: {lvl: x}", "upstreams[0].hots: "},
		{"a duration in days", "cache: {max_age: 7d}", `cache.max_age: "7d" is not a duration, such as 30s, 10m or 24h`},
		{"a duration without a unit", "cache: {max_age: 720}", `cache.max_age: "720" is not a duration, such as 30s, 10m or 24h`},
		{"a timeout without a unit", "credentials: {helper_timeout: 10}", `credentials.helper_timeout: "10" is not a duration`},
		{"a number in words", "limits: {uploads: many}", `limits.uploads: "many" is not a whole number`},
		{"a number below its least", "limits: {uploads: 0}", "limits.uploads: 0 is not 1 or more"},
		{"a bandwidth in words", "upstreams: [{host: a.test, bandwidth: fast}]", `upstreams[0].bandwidth: "fast" is not a size such as`},
		{"a text for a table", "log: debug", "log: "},
		{"a default upstream that is a URL", "default_upstream: 'https://a.test'", `default_upstream: "https://a.test" is not a registry's name`},
		{"a default upstream that is an alias", "default_upstream: x\nupstreams: [{host: a.test, aliases: [x]}]", "default_upstream: x is an alias of a.test: write that"},
		{"broken YAML", "a: [", "did not find expected node content"},
		{"an unknown auth", "auth: tokne", `auth: "tokne" is not one of auto, token, htpasswd, passthrough, none`},
		{"an unknown storage", "storage: s3", `storage: "s3" is not one of badger`},
		{"an unknown level", "log: {level: loud}", `log.level: "loud" is not one of debug, info, warn, error`},
		{"an unknown format", "log: {format: xml}", `log.format: "xml" is not one of text, json`},
		{"a listener for everybody", "listen: ['0.0.0.0:5001']", "is not a loopback address"},
		{"a listener on a name", "listen: ['example.com:5001']", "is not a loopback address"},
		{"a listener without a port", "listen: ['127.0.0.1']", "is not host:port"},
		{"no listener", "listen: []", "at least one address"},
		{"an unknown TLS", "tls: yes", `tls: "yes" is not one of auto, off`},
		{"a forward proxy for everybody", "forward_proxy: {listen: ['0.0.0.0:5002']}", "forward_proxy.listen: \"0.0.0.0:5002\" is not a loopback address"},
		{"a relative directory", "data_dir: data", `data_dir: "data" is not an absolute path`},
		{"an upstream without a host", "upstreams: [{url: 'https://a.test'}]", "upstreams[0].host"},
		{"an upstream URL of another scheme", "upstreams: [{host: a.test, url: 'ftp://a.test'}]", "is not a URL such as"},
		{"an upstream URL with a password", "upstreams: [{host: a.test, url: 'https://u:p@a.test'}]", "holds a user name or password"},
		{"an upstream URL with a path", "upstreams: [{host: a.test, url: 'https://a.test/v2'}]", "more than scheme, host and port"},
		{"a port without an alias", "upstreams: [{host: 'a.test:5000'}]", "give it an alias"},
		{"an alias that is a path", "upstreams: [{host: a.test, aliases: [a/b]}]", "is not one component"},
		{"a name that is taken", "upstreams: [{host: a.test, aliases: [x]}, {host: b.test, aliases: [x]}]", `upstreams[1]: the name "x" belongs to upstreams[0] already`},
		{"a mode that is not there", "upstreams: [{host: a.test, mode: later}]", `upstreams[0].mode: "later" is not one of sync, async`},
		{"a CA file that is missing", "upstreams: [{host: a.test, ca_file: /nowhere}]", "upstreams[0].ca_file: open /nowhere"},
		{"a CA file that is none", "upstreams: [{host: a.test, ca_file: " + notPEM + "}]", "no PEM certificate in it"},
		{"a secret in the file", "credentials: {references: [{for: a.test, username: u, password: hunter2}]}", "secrets are not written here"},
		{"a reference to nothing", "credentials: {references: [{for: a.test}]}", "exactly one of password and identity_token"},
		{"a timeout that is none", "credentials: {helper_timeout: 0s}", "credentials.helper_timeout"},
		{"a proxy that is none", "proxy: corp", "or write environment"},
	} {
		_, err := load(t, c.yaml)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want it to say %q", c.says, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret: %v", c.says, err)
		}
	}
}

func TestAConfigurationFileThatIsNamedMustBeThere(t *testing.T) {
	clean(t)
	if _, err := load(t, "", "--config", "/nowhere/config.yaml"); err == nil || !strings.Contains(err.Error(), "/nowhere/config.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestConfigCheckSaysWhatAFileComesTo(t *testing.T) {
	home := clean(t)
	if err := os.MkdirAll(filepath.Join(home, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".docker/config.json"), []byte(`{"auths":{"ghcr.io":{"auth":"dTpwYXNz"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PUSHPROXY_LISTN", "127.0.0.1:1")
	t.Setenv("PUSHPROXY_LOG_LEVEL", "info")
	var out bytes.Buffer
	if err := run(context.Background(), []string{"config", "check"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "logged in to: ghcr.io\nignored: $PUSHPROXY_LISTN is no key's variable\n") || strings.Contains(out.String(), "pass") || strings.Contains(out.String(), "LEVEL") {
		t.Errorf("got %s", &out)
	}
}
