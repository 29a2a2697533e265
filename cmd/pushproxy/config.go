package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Config is the whole configuration. config.example.yaml is its manual; a test
// holds the two together.
type Config struct {
	Listen          []string           `mapstructure:"listen"`
	TLS             string             `mapstructure:"tls"`
	ForwardProxy    ForwardProxyConfig `mapstructure:"forward_proxy"`
	StatusListen    []string           `mapstructure:"status_listen"`
	DataDir         string             `mapstructure:"data_dir"`
	Auth            string             `mapstructure:"auth"`
	Htpasswd        string             `mapstructure:"htpasswd"`
	Hosts           []string           `mapstructure:"hosts"`
	Certificate     CertificateConfig  `mapstructure:"certificate"`
	Principals      []PrincipalConfig  `mapstructure:"principals"`
	Limits          LimitsConfig       `mapstructure:"limits"`
	DefaultUpstream string             `mapstructure:"default_upstream"`
	Upstreams       []UpstreamConfig   `mapstructure:"upstreams"`
	Storage         string             `mapstructure:"storage"`
	Credentials     CredentialsConfig  `mapstructure:"credentials"`
	Cache           CacheConfig        `mapstructure:"cache"`
	Queue           QueueConfig        `mapstructure:"queue"`
	Proxy           string             `mapstructure:"proxy"`
	Log             LogConfig          `mapstructure:"log"`
	Tracing         TracingConfig      `mapstructure:"tracing"`
	statusChosen    bool               // somebody wrote status_listen
}

// UpstreamConfig is one entry of upstreams.
type UpstreamConfig struct {
	Host          string        `mapstructure:"host"`
	URL           string        `mapstructure:"url"`
	FallbackURLs  []string      `mapstructure:"fallback_urls"`
	Aliases       []string      `mapstructure:"aliases"`
	Prefix        string        `mapstructure:"prefix"`
	Mode          string        `mapstructure:"mode"`
	Sending       SendingConfig `mapstructure:",squash"`
	CAFile        string        `mapstructure:"ca_file"`
	TrustedRealms []string      `mapstructure:"trusted_realms"`
	UploadHosts   []string      `mapstructure:"upload_hosts"`
}

// CredentialsConfig says where credentials are found. No key holds one.
type CredentialsConfig struct {
	DockerConfig  string            `mapstructure:"docker_config"`
	PodmanAuth    string            `mapstructure:"podman_auth"`
	References    []ReferenceConfig `mapstructure:"references"`
	HelperTimeout time.Duration     `mapstructure:"helper_timeout"`
	HelperEnv     []string          `mapstructure:"helper_env"`
}

// ReferenceConfig names one credential by where its secret is kept.
type ReferenceConfig struct {
	For           string `mapstructure:"for"`
	Username      string `mapstructure:"username"`
	Password      string `mapstructure:"password"`
	IdentityToken string `mapstructure:"identity_token"`
}

// LogConfig is how the program reports.
type LogConfig struct {
	Level  string `mapstructure:"level"`
	Format string `mapstructure:"format"`
}

// keys are the scalar keys with their defaults and the text of their flags; the
// lists of entries have none but take JSON from their variables.
var keys = []struct {
	key   string
	value any
	flag  string
	usage string
}{
	{"listen", []string{"127.0.0.1:5001", "[::1]:5001"}, "listen", "`address` of the registry door, host:port or unix:/path (repeatable)"},
	{"tls", "auto", "tls", "TLS on the registry door beside plain HTTP, from pushproxy's own CA: auto or off"},
	{"forward_proxy.listen", []string{"127.0.0.1:5002"}, "forward-proxy-listen", "`address` of the forward-proxy door, loopback only (repeatable)"},
	{"forward_proxy.tunnel_others", false, "tunnel-others", "pass port 443 of other hosts through the forward-proxy door, untouched"},
	{"status_listen", []string{"127.0.0.1:5003"}, "status-listen", "`address` of the status page and its API, loopback only (repeatable)"},
	{"data_dir", "", "data-dir", "`directory` of the cache and what is known of upstreams (default ~/.local/share/pushproxy)"},
	{"auth", "auto", "auth", "who may call: auto, token, htpasswd, passthrough or none (everybody who can connect is you)"},
	{"htpasswd", "", "htpasswd", "`file` of user names and bcrypt hashes, for --auth htpasswd"},
	{"hosts", []string{}, "host", "further `name` that clients may reach the registry door by (repeatable)"},
	{"certificate.cert_file", "", "cert-file", "`file` with the certificate for listeners beyond loopback"},
	{"certificate.key_file", "", "key-file", "`file` with its private key"},
	{"principals", nil, "", ""},
	{"limits.connections", 512, "limit-connections", "how many connections a user of this machine, an address, or a principal may have (0: no limit but 1024 in all)"},
	{"limits.uploads", 256, "limit-uploads", "how many uploads a principal may have open"},
	{"limits.requests", 256, "limit-requests", "how many requests of a principal are answered at a time"},
	{"limits.bytes", 0, "limit-bytes", "how many bytes a principal may store in the cache (0: no limit)"},
	{"default_upstream", "", "default-upstream", "`host` where names without a registry go"},
	{"upstreams", nil, "", ""},
	{"storage", "badger", "storage", "where bodies over 64 KiB live: badger or files"},
	{"credentials.docker_config", "", "docker-config", "`path` of docker's config.json or its directory (default $DOCKER_CONFIG or ~/.docker)"},
	{"credentials.podman_auth", "", "podman-auth", "`path` of podman's auth.json (default its standard places)"},
	{"credentials.references", nil, "", ""},
	{"credentials.helper_timeout", 10 * time.Second, "helper-timeout", "how long a credential helper may take"},
	{"credentials.helper_env", []string{}, "helper-env", "`name` of a variable that credential helpers may see (repeatable)"},
	{"cache.quota", "", "cache-quota", "`size` that cached blobs may have, such as 50GiB (default any)"},
	{"cache.max_age", time.Duration(0), "cache-max-age", "how long a cached blob may go unused (default for ever)"},
	{"queue.webhook", "", "queue-webhook", "`URL` that is told of queued pushes that are done or need a person"},
	{"proxy", "", "proxy", "`URL` of an HTTP proxy for upstreams, or environment to use $HTTPS_PROXY and its kind (default none)"},
	{"log.level", "info", "log-level", "debug, info, warn or error"},
	{"log.format", "text", "log-format", "text or json"},
	{"tracing.endpoint", "", "tracing-endpoint", "`URL` of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of each push (default $OTEL_EXPORTER_OTLP_ENDPOINT, else none)"},
	{"tracing.sample", 1.0, "tracing-sample", "which part of the pushes is traced, from 0 to 1"},
	{"tracing.principals", []string{}, "tracing-principal", "`name` of a principal whose clients' own traces are taken up (repeatable)"},
}

// addFlags gives every scalar key its flag.
func addFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "`file` to read (default $PUSHPROXY_CONFIG or ~/.config/pushproxy/config.yaml, if there is one)")
	for _, k := range keys {
		switch value := k.value.(type) {
		case string:
			flags.String(k.flag, value, k.usage)
		case []string:
			flags.StringSlice(k.flag, value, k.usage)
		case int:
			flags.Int(k.flag, value, k.usage)
		case bool:
			flags.Bool(k.flag, value, k.usage)
		case float64:
			flags.Float64(k.flag, value, k.usage)
		case time.Duration:
			flags.Duration(k.flag, value, k.usage)
		}
	}
}

// readConfig reads the configuration: flags over PUSHPROXY_… variables over the
// file, if it may be read, over defaults. The error names each bad key and what it
// may be.
func readConfig(flags *pflag.FlagSet, may func(file string) error) (Config, error) {
	v := viper.New()
	v.SetEnvPrefix("PUSHPROXY")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	for _, k := range keys {
		v.SetDefault(k.key, k.value)
		if err := v.BindEnv(k.key); err != nil {
			return Config{}, err
		}
		if flag := flags.Lookup(k.flag); flag != nil && k.flag != "" {
			if err := v.BindPFlag(k.key, flag); err != nil {
				return Config{}, err
			}
		}
	}
	file, required := configFile(flags)
	if file != "" {
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		err := v.ReadInConfig()
		if err != nil && (required || !errors.Is(err, fs.ErrNotExist)) {
			return Config{}, fmt.Errorf("configuration file %s: %w", file, err)
		}
		if err := may(file); err != nil {
			return Config{}, err
		}
	}
	var c Config
	var read mapstructure.Metadata
	hooks := mapstructure.ComposeDecodeHookFunc(jsonLists, durations, mapstructure.StringToSliceHookFunc(","))
	err := v.Unmarshal(&c, viper.DecodeHook(hooks), func(d *mapstructure.DecoderConfig) { d.Metadata = &read })
	problems := append(misfits(err), strangers(read.Unused, file)...)
	c.statusChosen = v.InConfig("status_listen") || chosenStatus(flags)
	if len(problems) == 0 {
		c.fill()
		problems = c.check()
	}
	if len(problems) > 0 {
		return Config{}, fmt.Errorf("configuration:\n  %s", strings.Join(problems, "\n  "))
	}
	return c, nil
}

func configFile(flags *pflag.FlagSet) (file string, required bool) {
	if file, _ := flags.GetString("config"); file != "" {
		return expand(file), true
	}
	if file := os.Getenv("PUSHPROXY_CONFIG"); file != "" {
		return expand(file), true
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", false
	}
	return filepath.Join(dir, "pushproxy", "config.yaml"), false
}

// jsonLists lets a variable hold a list of entries, as JSON.
func jsonLists(from, to reflect.Type, data any) (any, error) {
	text, ok := data.(string)
	if !ok || to.Kind() != reflect.Slice || to.Elem().Kind() != reflect.Struct || from.Kind() != reflect.String {
		return data, nil
	}
	var list []map[string]any
	if text == "" {
		return list, nil
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("a JSON list of objects goes here: %w", err)
	}
	return list, nil
}

func (c *Config) fill() {
	if c.DataDir == "" {
		base := os.Getenv("XDG_DATA_HOME")
		if base == "" {
			base = "~/.local/share"
		}
		c.DataDir = filepath.Join(base, "pushproxy")
	}
	c.DataDir = expand(c.DataDir)
	c.Credentials.expand()
	c.fillIdentity()
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		u.Host = strings.ToLower(u.Host)
		u.CAFile = expand(u.CAFile)
		u.Prefix = strings.Trim(u.Prefix, "/")
		if u.Mode == "" {
			u.Mode = "sync"
		}
		if u.URL == "" {
			u.URL = defaultURL(u.Host)
		}
	}
	c.DefaultUpstream = strings.ToLower(c.DefaultUpstream)
}

func (c *Config) check() (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			say("%s: %q is not one of %s", key, value, strings.Join(allowed, ", "))
		}
	}
	oneOf("tls", c.TLS, "auto", "off")
	oneOf("storage", c.Storage, "badger", "files")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	c.Tracing.check(say)
	c.checkIdentity(say, oneOf)
	c.ForwardProxy.check(say)
	c.checkStatus(say)
	if !filepath.IsAbs(c.DataDir) {
		say("data_dir: %q is not an absolute path", c.DataDir)
	}
	if c.Credentials.HelperTimeout <= 0 {
		say("credentials.helper_timeout: %s is not a positive duration, such as 10s", c.Credentials.HelperTimeout)
	}
	if c.Proxy != "" && c.Proxy != "environment" {
		if why := webURL(c.Proxy, "http://proxy.example.com:3128"); why != "" {
			say("proxy: %q %s; or write environment", c.Proxy, why)
		}
	}
	if c.DefaultUpstream != "" && !hostExp.MatchString(c.DefaultUpstream) {
		say("default_upstream: %q is not a registry's name, such as ghcr.io", c.DefaultUpstream)
	}
	c.Cache.check(say)
	c.Queue.check(say)
	names := map[string]string{}
	for i, u := range c.Upstreams {
		key := fmt.Sprintf("upstreams[%d]", i)
		u.check(key, say, oneOf)
		if slices.Contains(u.Aliases, c.DefaultUpstream) {
			say("default_upstream: %s is an alias of %s: write that", c.DefaultUpstream, u.Host)
		}
		for _, name := range append([]string{u.Host}, u.Aliases...) {
			if other, taken := names[name]; taken && name != "" {
				say("%s: the name %q belongs to %s already", key, name, other)
			}
			names[name] = key
		}
	}
	for i, r := range c.Credentials.References {
		r.check(fmt.Sprintf("credentials.references[%d]", i), say)
	}
	return problems
}
