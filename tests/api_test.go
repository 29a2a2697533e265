package tests

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// api speaks to a registry as plainly as possible, so that tests say exactly what is sent.
type api struct {
	url    string // http://127.0.0.1:5001
	user   parts.User
	client *http.Client // default: follows no redirect, two minutes
}

// answer is a response whose body was read (at most 8 MiB of it).
type answer struct {
	*http.Response
	body []byte
}

func (a answer) String() string { return fmt.Sprintf("%s %s", a.Status, lastLines(string(a.body), 10)) }

// errorCode returns the code of the first error in the registry error format, or why there is none.
func (a answer) errorCode() string {
	code, _ := a.registryError()
	return code
}

func (a answer) registryError() (code, message string) {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &e); err != nil || len(e.Errors) == 0 {
		return "not in the registry error format: " + lastLines(string(a.body), 3), ""
	}
	return e.Errors[0].Code, e.Errors[0].Message
}

func (a api) http() *http.Client {
	if a.client != nil {
		return a.client
	}
	return &http.Client{
		Timeout:       2 * time.Minute,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send performs a request; target is a path or an absolute URL; header is a list of name, value.
func (a api) send(method, target string, body io.Reader, header ...string) (*http.Response, error) {
	if strings.HasPrefix(target, "/") {
		target = a.url + target
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	if a.user.Name != "" {
		req.SetBasicAuth(a.user.Name, a.user.Password)
	}
	return a.http().Do(req)
}

// do is send for requests that must be answered.
func (a api) do(t testing.TB, method, target string, body []byte, header ...string) answer {
	t.Helper()
	resp, err := a.send(method, target, bytes.NewReader(body), header...)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", method, target, err)
	}
	return answer{resp, b}
}

// want is do for requests with one right status.
func (a api) want(t testing.TB, status int, method, target string, body []byte, header ...string) answer {
	t.Helper()
	got := a.do(t, method, target, body, header...)
	if got.StatusCode != status {
		t.Fatalf("%s %s: %v, want %d", method, target, got, status)
	}
	return got
}

// begin opens an upload session and returns its Location.
func (a api) begin(t testing.TB, repo string) string {
	t.Helper()
	return a.want(t, http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", nil).Header.Get("Location")
}

// pushBlob uploads one blob with POST and PUT and returns its descriptor.
func (a api) pushBlob(t testing.TB, repo string, content []byte) desc {
	t.Helper()
	d := desc{MediaType: "application/octet-stream", Digest: digestOf(content), Size: int64(len(content))}
	a.want(t, http.StatusCreated, "PUT", withDigest(a.begin(t, repo), d.Digest), content, "Content-Type", "application/octet-stream")
	return d
}

// artifactOf returns a manifest over the given blobs.
func artifactOf(t testing.TB, config desc, layers ...desc) []byte {
	t.Helper()
	config.MediaType = typeEmpty
	b, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeManifest, ArtifactType: "application/vnd.test", Config: &config, Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pushManifest stores a manifest that must be accepted.
func (a api) pushManifest(t *testing.T, repo, ref string, content []byte) {
	t.Helper()
	a.want(t, http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+ref, content, "Content-Type", typeManifest)
}

func withDigest(location, digest string) string {
	if strings.Contains(location, "?") {
		return location + "&digest=" + digest
	}
	return location + "?digest=" + digest
}

// pull reads a manifest and all that it names, hashes every byte, and returns the digest of the manifest. It fails the
// test when something is missing or differs.
func (a api) pull(t *testing.T, repo, ref string) string {
	t.Helper()
	digest, err := a.tryPull(repo, ref)
	if err != nil {
		t.Fatalf("pull %s:%s from %s: %v", repo, ref, a.url, err)
	}
	return digest
}

func (a api) tryPull(repo, ref string) (string, error) {
	resp, err := a.send("GET", "/v2/"+repo+"/manifests/"+ref, nil, "Accept", strings.Join([]string{
		typeIndex, typeManifest, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	}, ", "))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("manifest %s: %s %s %w", ref, resp.Status, raw, err)
	}
	digest := digestOf(raw)
	if strings.HasPrefix(ref, "sha256:") && digest != ref {
		return "", fmt.Errorf("manifest %s has the digest %s", ref, digest)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", err
	}
	errs := []error{}
	for _, child := range m.Manifests {
		_, err := a.tryPull(repo, child.Digest)
		errs = append(errs, err)
	}
	for _, blob := range append(m.Layers, m.blobs()...) {
		errs = append(errs, a.checkBlob(repo, blob))
	}
	return digest, errors.Join(errs...)
}

func (m manifest) blobs() []desc {
	if m.Config == nil {
		return nil
	}
	return []desc{*m.Config}
}

func (a api) checkBlob(repo string, d desc) error {
	resp, err := a.send("GET", "/v2/"+repo+"/blobs/"+d.Digest, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, resp.Body)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); resp.StatusCode != http.StatusOK || got != d.Digest || n != d.Size {
		return fmt.Errorf("blob %s of %d bytes: %s with %d bytes of digest %s", d.Digest, d.Size, resp.Status, n, got)
	}
	return nil
}
