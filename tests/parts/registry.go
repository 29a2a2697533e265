package parts

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Registry is a running upstream registry.
type Registry struct {
	*Process
	URL  string // http(s)://127.0.0.1:PORT
	Host string // 127.0.0.1:PORT
}

// RegistryConfig says how a distribution registry is run. The zero value is an open registry over plain HTTP.
type RegistryConfig struct {
	Htpasswd          bool   // only Alice and Bob, by Basic authentication
	CertFile, KeyFile string // TLS, where set
	Token             *Token // Bearer tokens, where set
}

// Token tells a registry whose Bearer tokens it believes.
type Token struct {
	Realm, Service, Issuer string
	JWKSFile               string // the JSON Web Key Set of the issuer
}

// User is an account of a registry started with Htpasswd.
type User struct{ Name, Password, hash string }

// Hash is the bcrypt hash of the password.
func (u User) Hash() string { return u.hash }

// Alice is the first account of a registry with passwords.
func Alice() User {
	return User{"alice", "alice's word", "$2y$04$8CohbQUCeFKic9evE/hFHOgx1rS5O8AlEQHf7PikXIuYZbn1EjPF2"}
}

// Bob is the second account of a registry with passwords.
func Bob() User {
	return User{"bob", "bob's word", "$2y$04$lUH0AdjzEbAc54/SVqgJrue2uWlaGnVKsLgigPCI9yvzqdyfDO75O"}
}

// StartRegistry starts distribution with its storage and configuration below dir and returns when it answers.
func StartRegistry(ctx context.Context, dir string, c RegistryConfig) (*Registry, error) {
	tools, err := Tools(ctx)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	if c.Htpasswd {
		lines := Alice().Name + ":" + Alice().hash + "\n" + Bob().Name + ":" + Bob().hash + "\n"
		if err := os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(lines), 0o600); err != nil {
			return nil, err
		}
	}
	config, err := json.Marshal(c.distribution(dir, port)) // JSON is YAML
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(tools, "registry"), "serve", file)
	// distribution v3 sends traces to localhost:4318 unless told not to.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "OTEL_TRACES_EXPORTER=none"}
	scheme := "http"
	if c.CertFile != "" {
		scheme = "https"
	}
	return startRegistry(ctx, cmd, scheme, port)
}

// StartOlareg starts olareg with its storage in dir, every API on, and returns when it answers.
func StartOlareg(ctx context.Context, dir string) (*Registry, error) {
	tools, err := Tools(ctx)
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(tools, "olareg"), "serve", "--addr", "127.0.0.1", "--port", strconv.Itoa(port),
		"--dir", dir, "--api-delete", "--api-blob-delete")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	return startRegistry(ctx, cmd, "http", port)
}

func startRegistry(ctx context.Context, cmd *exec.Cmd, scheme string, port int) (*Registry, error) {
	p, err := Start(cmd)
	if err != nil {
		return nil, err
	}
	r := &Registry{Process: p, Host: "127.0.0.1:" + strconv.Itoa(port)}
	r.URL = scheme + "://" + r.Host
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	// Only readiness is asked here: whether the certificate is right is for the tests to find out.
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	if err := p.Ready(ctx, Answers(client, r.URL+"/v2/")); err != nil {
		p.Stop()
		return nil, err
	}
	return r, nil
}

func (c RegistryConfig) distribution(dir string, port int) map[string]any {
	listen := map[string]any{"addr": fmt.Sprintf("127.0.0.1:%d", port), "secret": "only for tests"}
	if c.CertFile != "" {
		listen["tls"] = map[string]any{"certificate": c.CertFile, "key": c.KeyFile}
	}
	config := map[string]any{
		"version": 0.1,
		"log":     map[string]any{"level": "warn"},
		"http":    listen,
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": filepath.Join(dir, "storage")},
			"delete":     map[string]any{"enabled": true},
		},
	}
	switch {
	case c.Htpasswd:
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "registry.test", "path": filepath.Join(dir, "htpasswd")}}
	case c.Token != nil:
		config["auth"] = map[string]any{"token": map[string]any{
			"realm": c.Token.Realm, "service": c.Token.Service, "issuer": c.Token.Issuer, "jwks": c.Token.JWKSFile,
		}}
	}
	return config
}
