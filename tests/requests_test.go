package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// The list of requests that the upstream sees is the contract of these tests.

// traced is a rig whose upstream writes down what it is asked.
type traced struct {
	*rig
	rec *recorder
	reg *parts.Registry
}

func startTraced(t *testing.T) traced {
	t.Helper()
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	rec := startRecorder(t, reg.URL, nil)
	return traced{startRig(t, rec.URL, nil), rec, reg}
}

// image is a small layout with one image, tagged v1.
type image struct {
	dir, digest string
	blobs       map[string]int64 // layers and configuration: digest → size
}

// newImage makes an image with one layer per seed; equal seeds are equal layers.
func newImage(t *testing.T, seeds ...byte) image {
	t.Helper()
	l := newLayout(t, t.TempDir())
	var layers []desc
	for _, seed := range seeds {
		layers = append(layers, l.layer(seed, 200_000+int(seed)))
	}
	d := l.tag("v1", l.image("amd64", layers...))
	img := image{l.dir, d.Digest, map[string]int64{}}
	var m manifest
	readBlob(t, sample{dir: l.dir}, d.Digest, &m)
	for _, blob := range append(m.Layers, *m.Config) {
		img.blobs[blob.Digest] = blob.Size
	}
	return img
}

func (i image) bytes() (sum int64) {
	for _, size := range i.blobs {
		sum += size
	}
	return sum
}

// cranePush and skopeoPush push with clients that ask for the tag's digest before (crane) and that do not (skopeo).
func cranePush(t *testing.T, i image, ref string) {
	t.Helper()
	command{env: cleanEnv(t.TempDir())}.run(t, tool(t, "crane"), "push", "--insecure", i.dir, ref)
}

func skopeoPush(t *testing.T, i image, ref string) {
	t.Helper()
	command{env: cleanEnv(t.TempDir())}.run(t, system(t, "skopeo"), "--insecure-policy", "copy", "--preserve-digests",
		"--dest-tls-verify=false", "oci:"+i.dir+":v1", "docker://"+ref)
}

func TestAFirstPushSendsEveryByteOnce(t *testing.T) {
	t.Parallel()
	p, img := startTraced(t), newImage(t, 10, 11, 12)
	cranePush(t, img, p.ref("acme/app", "v1"))
	got := p.rec.reset()
	if n := got.bodies().sum(); n != img.bytes() {
		t.Errorf("%d bytes of blobs went upstream, the image has %d", n, img.bytes())
	}
	if n := len(got.mounts()); n != 0 {
		t.Errorf("%d mounts were tried with nothing to mount from", n)
	}
	if n := len(got.manifestPuts()); n != 1 {
		t.Errorf("%d manifests were stored, want one", n)
	}
	for digest := range img.blobs {
		if heads := got.heads(digest); len(heads) > 2 {
			t.Errorf("blob %s was asked for %d times", digest, len(heads))
		}
	}
	if last := got.writes(); len(last) > 0 && !strings.Contains(last[len(last)-1].Path, "/manifests/") {
		t.Errorf("after the manifest came %s", last[len(last)-1])
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(p.reg).pull(t, "acme/app", "v1"), img.digest)
}

func TestARepeatedPushWritesNothing(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*testing.T, image, string){
		"by a client that asks for the tag first": cranePush,
		"by a client that does not":               skopeoPush,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, img := startTraced(t), newImage(t, 13, 14)
			again(t, img, p.ref("acme/app", "v1"))
			p.rec.reset()
			again(t, img, p.ref("acme/app", "v1"))
			if got := p.rec.reset(); len(got.writes()) > 0 {
				t.Errorf("nothing had changed, and yet the upstream was sent\n%s", got.writes())
			}
		})
	}
}

func TestASecondRepositoryGetsMountsAndNoBytes(t *testing.T) {
	t.Parallel()
	p, img := startTraced(t), newImage(t, 15, 16)
	cranePush(t, img, p.ref("acme/app", "v1"))
	p.rec.reset()
	cranePush(t, img, p.ref("acme/second", "v1"))
	got := p.rec.reset()
	if len(got.bodies()) > 0 {
		t.Errorf("blobs that the upstream holds were sent again:\n%s", got.bodies())
	}
	for digest := range img.blobs {
		mounts := got.mounts().where(func(s seen) bool { return s.has("mount", digest) })
		if len(mounts) != 1 || mounts[0].Status != http.StatusCreated || !mounts[0].has("from", "acme/app") {
			t.Errorf("blob %s was mounted by\n%s", digest, mounts)
		}
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(p.reg).pull(t, "acme/second", "v1"), img.digest)
}

func TestASecondClientSendsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	p := startTraced(t)
	cranePush(t, newImage(t, 17, 18), p.ref("acme/base", "v1"))
	p.rec.reset()
	img := newImage(t, 17, 18, 19)
	skopeoPush(t, img, p.ref("acme/app", "v1"))
	got := p.rec.reset()
	shared := newImage(t, 17, 18)
	fresh := int64(0)
	for digest, size := range img.blobs {
		if _, isShared := shared.blobs[digest]; !isShared {
			fresh += size
		}
	}
	if n := got.bodies().sum(); n != fresh {
		t.Errorf("%d bytes went upstream, %d were new:\n%s", n, fresh, got.bodies())
	}
	wantEqual(t, "the upstream's digest", upstreamAPI(p.reg).pull(t, "acme/app", "v1"), img.digest)
}

func TestS22APushSucceedsWhateverTheUpstreamAnswersToMounts(t *testing.T) {
	t.Parallel()
	for _, status := range []int{202, 401, 403, 404, 405} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			p, img := startTraced(t), newImage(t, 20, 21)
			cranePush(t, img, p.ref("acme/app", "v1"))
			p.rec.reset()
			p.rec.setRule(refuseMounts(status))
			cranePush(t, img, p.ref("acme/second", "v1"))
			got := p.rec.reset()
			if n := got.bodies().sum(); n != img.bytes() {
				t.Errorf("%d bytes of blobs went upstream, the image has %d:\n%s", n, img.bytes(), got)
			}
			opened := got.where(func(s seen) bool { return s.Method == "POST" && s.Status == http.StatusAccepted })
			ended := got.where(func(s seen) bool {
				return uploadPath.MatchString(s.Path) && s.Status/100 == 2 && (s.Method == "DELETE" || s.Method == "PUT")
			})
			if len(opened) != len(ended) {
				t.Errorf("%d sessions were opened and %d finished or cancelled:\n%s", len(opened), len(ended), got)
			}
			wantEqual(t, "the upstream's digest", upstreamAPI(p.reg).pull(t, "acme/second", "v1"), img.digest)
		})
	}
}

// refuseMounts answers mounts with an error, or with 202 and a session, as registries do that do not mount.
func refuseMounts(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "POST" || r.URL.Query().Get("mount") == "" {
			return false
		}
		if status == http.StatusAccepted {
			r.URL.RawQuery = "" // what is left of it opens a session
			return false
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry.test"`)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"mounts are answered %d here"}]}`, status)
		return true
	}
}

func TestAPushIsToldInOneLogLine(t *testing.T) {
	t.Parallel()
	p, img := startTraced(t), newImage(t, 22, 23)
	cranePush(t, img, p.ref("acme/app", "v1"))
	lines := p.pushLines()
	if len(lines) != 1 {
		t.Fatalf("one push left %d lines:\n%s", len(lines), strings.Join(lines, ""))
	}
	for _, want := range []string{"acme/app", "v1", img.digest} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the line does not name %s: %s", want, lines[0])
		}
	}
}

func TestRulesOfTheRecorderReachTheUpstreamsAnswers(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v2/a/blobs/uploads/?mount=sha256:0&from=b", nil)
	if !refuseMounts(http.StatusForbidden)(w, r) || w.Code != http.StatusForbidden {
		t.Errorf("a refused mount is answered %d", w.Code)
	}
	if refuseMounts(http.StatusAccepted)(w, r) || r.URL.RawQuery != "" {
		t.Errorf("a mount answered 202 goes on as %s", r.URL)
	}
}
