package parts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// ErrNoProgram says that this checkout has no cmd/pushproxy to build.
var ErrNoProgram = errors.New("cmd/pushproxy is not in this checkout")

// Config is the part of pushproxy's configuration that checks use; config.example.yaml explains the keys.
type Config struct {
	Listen          []string     `json:"listen"`
	DataDir         string       `json:"data_dir"`
	DefaultUpstream string       `json:"default_upstream,omitempty"`
	Upstreams       []Upstream   `json:"upstreams,omitempty"`
	Storage         string       `json:"storage,omitempty"`
	Cache           *Cache       `json:"cache,omitempty"`
	Queue           *Queue       `json:"queue,omitempty"`
	Credentials     *Credentials `json:"credentials,omitempty"`
	Log             *Log         `json:"log,omitempty"`
	Auth            string       `json:"auth,omitempty"`
	Htpasswd        string       `json:"htpasswd,omitempty"`
	Hosts           []string     `json:"hosts,omitempty"`
	Principals      []Principal  `json:"principals,omitempty"`
	Certificate     *Certificate `json:"certificate,omitempty"`
	TLS             string       `json:"tls,omitempty"`
	ForwardProxy    ForwardProxy `json:"forward_proxy"`
	StatusListen    []string     `json:"status_listen"`
}

// Cache limits the cache.
type Cache struct {
	Quota  string `json:"quota,omitempty"`
	MaxAge string `json:"max_age,omitempty"`
}

// Queue is about queued pushes.
type Queue struct {
	Webhook string `json:"webhook,omitempty"`
}

// Principal is one entry of Config.Principals.
type Principal struct {
	Name        string       `json:"name"`
	Allow       *Scope       `json:"allow,omitempty"`
	Credentials *Credentials `json:"credentials,omitempty"`
}

// Scope limits a principal.
type Scope struct {
	Upstreams    []string `json:"upstreams,omitempty"`
	Repositories []string `json:"repositories,omitempty"`
	Verbs        []string `json:"verbs,omitempty"`
}

// Certificate is what listeners beyond loopback show.
type Certificate struct {
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
}

// ForwardProxy is the forward-proxy door; without an address there is none.
type ForwardProxy struct {
	Listen       []string `json:"listen"`
	TunnelOthers bool     `json:"tunnel_others,omitempty"`
}

// Upstream is one entry of Config.Upstreams.
type Upstream struct {
	Host           string   `json:"host"`
	URL            string   `json:"url,omitempty"`
	FallbackURLs   []string `json:"fallback_urls,omitempty"`
	Aliases        []string `json:"aliases,omitempty"`
	CAFile         string   `json:"ca_file,omitempty"`
	TrustedRealms  []string `json:"trusted_realms,omitempty"`
	RepositoryPath string   `json:"prefix,omitempty"`
	Mode           string   `json:"mode,omitempty"`
	Concurrency    int      `json:"concurrency,omitempty"`
	Bandwidth      string   `json:"bandwidth,omitempty"`
	QuietHours     []string `json:"quiet_hours,omitempty"`
	ChunkSize      string   `json:"chunk_size,omitempty"`
	MaxBody        string   `json:"max_body,omitempty"`
}

// Credentials says where pushproxy looks for credentials.
type Credentials struct {
	DockerConfig string      `json:"docker_config,omitempty"`
	PodmanAuth   string      `json:"podman_auth,omitempty"`
	References   []Reference `json:"references,omitempty"`
}

// Reference is a credential kept outside the configuration: Password is "file:PATH" or "env:NAME".
type Reference struct {
	For      string `json:"for"` // host[/path]
	Username string `json:"username"`
	Password string `json:"password"`
}

// Log is the log section of Config.
type Log struct {
	Level  string `json:"level,omitempty"`
	Format string `json:"format,omitempty"`
}

// Write stores the configuration at path, readable by this user only.
func (c Config) Write(path string) error {
	if c.ForwardProxy.Listen == nil {
		c.ForwardProxy.Listen = []string{} // not the default, which many would share
	}
	if c.StatusListen == nil {
		c.StatusListen = []string{} // likewise
	}
	b, err := json.MarshalIndent(c, "", "  ") // JSON is YAML
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// BuildPushproxy builds this checkout's program into dir and returns its path; race adds the race detector, which needs a
// C compiler. The error is ErrNoProgram when the checkout has none.
func BuildPushproxy(ctx context.Context, dir string, race bool) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "pushproxy")); errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoProgram
	}
	args := []string{"build", "-o", filepath.Join(dir, "pushproxy")}
	if race {
		args = []string{"build", "-race", "-o", filepath.Join(dir, "pushproxy-race")}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/pushproxy")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/pushproxy: %w\n%s", err, tail(string(out)))
	}
	return args[len(args)-1], nil
}

// Pushproxy is a running pushproxy.
type Pushproxy struct {
	*Process
	Port int    // on 127.0.0.1
	URL  string // http://127.0.0.1:PORT
}

// StartPushproxy runs `pushproxy serve --config FILE` and returns when it answers. The configuration file must name
// 127.0.0.1:port among its listeners. env is its whole environment.
func StartPushproxy(ctx context.Context, program, file string, port int, env []string) (*Pushproxy, error) {
	cmd := exec.Command(program, "serve", "--config", file)
	cmd.Env = env
	cmd.Dir = filepath.Dir(file)
	p, err := Start(cmd)
	if err != nil {
		return nil, err
	}
	s := &Pushproxy{Process: p, Port: port, URL: "http://127.0.0.1:" + strconv.Itoa(port)}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	if err := p.Ready(ctx, Answers(client, s.URL+"/v2/")); err != nil {
		p.Stop()
		return nil, err
	}
	return s, nil
}
