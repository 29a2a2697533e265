package tests

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// nine is an image of nine blobs: eight layers of the sizes that a usual image has, scaled down, and its configuration. With
// an addition it has one small layer more.
func nine(t *testing.T, addition bool) image {
	t.Helper()
	l := newLayout(t, t.TempDir())
	var layers []desc
	for i, size := range []int{300_000, 300_000, 300_000, 1 << 20, 1 << 20, 3 << 20, 4 << 20, 6 << 20} {
		layers = append(layers, l.layer(byte(60+i), size))
	}
	if addition {
		layers = append(layers, l.layer(70, 64<<10))
	}
	d := l.tag("v1", l.image("amd64", layers...))
	return image{dir: l.dir, digest: d.Digest}
}

// pushOf returns how a client pushes an image to a reference.
func pushOf(t *testing.T, client string) func(image, string) {
	t.Helper()
	switch client {
	case "docker":
		d := newDocker(t, t.TempDir(), "").(docker)
		return func(i image, ref string) {
			d.load(t, sample{dir: i.dir}, desc{Digest: i.digest}, ref)
			d.pushLoaded(t, ref)
		}
	case "skopeo":
		return func(i image, ref string) { skopeoPush(t, i, ref) }
	}
	return func(i image, ref string) { cranePush(t, i, ref) }
}

// TestPushesCostFewRequests counts what the upstream is asked. crane asks for the tag before it pushes and gets the
// upstream's answer: one request on top of the others where something is pushed.
func TestPushesCostFewRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		client                            string
		first, again, another, repository int
	}{
		{"docker", 28, 1, 7, 10},
		{"skopeo", 28, 1, 7, 10},
		{"crane", 28, 1, 7, 10 + 1},
	} {
		t.Run(c.client, func(t *testing.T) {
			t.Parallel()
			p, push := startTraced(t), pushOf(t, c.client)
			push(newImage(t, 50), p.ref("acme/other", "v0"))
			p.rec.reset()
			for _, step := range []struct {
				what, repository string
				image            image
				most             int
				bytes            bool
			}{
				{"a first push", "acme/app", nine(t, false), c.first, true},
				{"the same again", "acme/app", nine(t, false), c.again, false},
				{"one new small layer", "acme/app", nine(t, true), c.another, true},
				{"another repository", "acme/second", nine(t, false), c.repository, false},
			} {
				push(step.image, p.ref(step.repository, "v1"))
				got := p.rec.reset()
				t.Logf("%s: %d requests", step.what, len(got))
				if len(got) > step.most {
					t.Errorf("%s cost %d requests, at most %d were wanted:\n%s", step.what, len(got), step.most, got)
				}
				if !step.bytes && len(got.bodies()) > 0 {
					t.Errorf("%s sent blobs:\n%s", step.what, got.bodies())
				}
			}
		})
	}
}

// TestAnUpstreamThatCollectedBlobsIsHealed has an upstream drop, between two pushes, what pushproxy believes to be there.
func TestAnUpstreamThatCollectedBlobsIsHealed(t *testing.T) {
	t.Parallel()
	p, img := startTraced(t), newImage(t, 51, 52)
	skopeoPush(t, img, p.ref("acme/app", "v1"))
	up := upstreamAPI(p.reg)
	up.want(t, http.StatusAccepted, http.MethodDelete, "/v2/acme/app/manifests/"+img.digest, nil)
	for digest := range img.blobs {
		up.want(t, http.StatusAccepted, http.MethodDelete, "/v2/acme/app/blobs/"+digest, nil)
	}
	p.rec.reset()
	skopeoPush(t, img, p.ref("acme/app", "v1"))
	if got := p.rec.reset().bodies().sum(); got != img.bytes() {
		t.Errorf("%d bytes of blobs were sent again, want %d", got, img.bytes())
	}
	wantEqual(t, "the upstream's digest", up.pull(t, "acme/app", "v1"), img.digest)
}

// TestOneBaseToManyRepositoriesIsOneUpload pushes images on one base to twelve repositories at once.
// PUSHPROXY_TESTS_LAYER=BYTES makes the base larger.
func TestOneBaseToManyRepositoriesIsOneUpload(t *testing.T) {
	t.Parallel()
	const repositories = 12
	base := fromEnvironment(t, "PUSHPROXY_TESTS_LAYER", 48<<20)
	p := startTraced(t)
	var images []image
	for i := range repositories {
		l := newLayout(t, t.TempDir())
		d := l.tag("v1", l.image("amd64", l.layer(80, base), l.layer(byte(100+i), 10_000)))
		images = append(images, image{dir: l.dir, digest: d.Digest})
	}
	var clients errgroup.Group
	for i, img := range images {
		clients.Go(func() error {
			cranePush(t, img, p.ref(fmt.Sprintf("acme/app%d", i), "v1"))
			return nil
		})
	}
	if err := clients.Wait(); err != nil {
		t.Fatal(err)
	}
	got := p.rec.reset()
	if n := got.bodies().sum(); n > int64(base+base/10) {
		t.Errorf("%d bytes of blobs went upstream for one base of %d:\n%s", n, base, got)
	}
	mounted := got.mounts().where(func(s seen) bool { return s.Status == http.StatusCreated })
	if len(mounted) < repositories-1 {
		t.Errorf("%d mounts, want %d:\n%s", len(mounted), repositories-1, got.mounts())
	}
	for i, img := range images {
		wantEqual(t, "the upstream's digest", upstreamAPI(p.reg).pull(t, fmt.Sprintf("acme/app%d", i), "v1"), img.digest)
	}
}

// TestOneBlobByAHundredClientsIsOneUpload sends one blob a hundred times at once.
func TestOneBlobByAHundredClientsIsOneUpload(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	p := startTraced(t)
	blob := string(randomBytes(81, size))
	digest := digestOf([]byte(blob))
	var clients errgroup.Group
	for range 100 {
		clients.Go(func() error {
			response, err := http.Post(p.URL+"/v2/"+upstreamName+"/acme/app/blobs/uploads/", "", nil)
			if err != nil {
				return err
			}
			response.Body.Close()
			put, err := http.NewRequest(http.MethodPut, p.URL+response.Header.Get("Location")+"?digest="+digest, strings.NewReader(blob))
			if err != nil {
				return err
			}
			response, err = http.DefaultClient.Do(put)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusCreated {
				text, _ := io.ReadAll(response.Body)
				return fmt.Errorf("%s: %s", response.Status, text)
			}
			return nil
		})
	}
	if err := clients.Wait(); err != nil {
		t.Fatal(err)
	}
	img := newImage(t, 82)
	cranePush(t, img, p.ref("acme/app", "v1"))
	if n := p.rec.reset().bodies().where(func(s seen) bool { return s.has("digest", digest) || s.Body >= size }).sum(); n != size {
		t.Errorf("%d bytes went upstream for one blob of %d", n, size)
	}
}
