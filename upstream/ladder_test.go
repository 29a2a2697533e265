package upstream

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestWhatIsRefusedIsSentAnotherWay(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1 << 20)
	half := []string{patch2, patch2, put2}
	tests := map[string]struct {
		registry *upstreamtest.Registry
		want     []string
		next     []string // the requests of the same push again
	}{
		"a PUT with a body: stream, and remember": {&upstreamtest.Registry{RefusePut: 404},
			[]string{post, put1, end1, post, patch2, put2}, []string{post, "PATCH …/blobs/uploads/u3", "PUT …/blobs/uploads/u3?digest"}},
		"by 501": {&upstreamtest.Registry{RefusePut: 501}, []string{post, put1, end1, post, patch2, put2}, nil},
		"bodies that are too large: chunks": {&upstreamtest.Registry{MaxBody: 600_000},
			append([]string{post, put1, end1, post}, half...), []string{post, "PATCH …/blobs/uploads/u3", "PATCH …/blobs/uploads/u3", "PUT …/blobs/uploads/u3?digest"}},
		"chunks that are too large: halved": {&upstreamtest.Registry{MaxBody: 600_000, MaxChunk: 300_000},
			[]string{post, put1, end1, post, patch2, "DELETE …/blobs/uploads/u2", post, "PATCH …/blobs/uploads/u3", "PATCH …/blobs/uploads/u3",
				"PATCH …/blobs/uploads/u3", "PATCH …/blobs/uploads/u3", "PUT …/blobs/uploads/u3?digest"}, nil},
		"an upstream with chunks of its own size": {&upstreamtest.Registry{MaxBody: 1<<20 - 1, MinChunk: 700_000},
			append([]string{post, put1, end1, post}, half...), nil},
		"state in the location is echoed": {&upstreamtest.Registry{RefusePut: 405, State: true},
			[]string{post, "PUT …/blobs/uploads/u1?_state&digest", "DELETE …/blobs/uploads/u1?_state", post, "PATCH …/blobs/uploads/u2?_state",
				"PUT …/blobs/uploads/u2?_state&digest"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.registry
			c := newClient(r)
			noError(t, push(t, c, b, d))
			stored(t, r, b, d)
			sawRequests(t, r, d, test.want...)
			if test.next != nil {
				r.Reset()
				noError(t, push(t, c, b, d))
				sawRequests(t, r, d, test.next...)
			}
		})
	}
}

func TestWhatWasLearnedIsForgottenAfterAnHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, d := blobOf(1000)
		r := &upstreamtest.Registry{RefusePut: 404}
		c := newClient(r)
		noError(t, push(t, c, b, d))
		<-time.After(61 * time.Minute)
		r.RefusePut = 0
		r.Reset()
		noError(t, push(t, c, b, d))
		sawRequests(t, r, d, post, "PUT …/blobs/uploads/u3?digest")
	})
}

func TestASmallBlobStillGoesWholeWhereALargeOneIsCut(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{MaxBody: 600_000}
	c := newClient(r)
	b, d := blobOf(1 << 20)
	noError(t, push(t, c, b, d))
	r.Reset()
	small, smallDigest := blobOf(1000)
	noError(t, push(t, c, small, smallDigest))
	sawRequests(t, r, smallDigest, post, "PUT …/blobs/uploads/u3?digest")
}

func TestRegistryFamiliesThatDiffer(t *testing.T) {
	t.Parallel()
	b, d := blobOf(12 << 20)
	t.Run("Google takes no chunks, so a cut upload starts again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := &upstreamtest.Registry{}
			r.Inject(upstreamtest.Fault{Method: "PUT", Reset: true, ResetAt: 1000})
			c := newClient(r)
			c.Host = "europe-docker.pkg.dev"
			noError(t, push(t, c, b, d))
			sawRequests(t, r, d, post, put1, get1, head, end1, post, put2)
		})
	})
	t.Run("ECR wants its last chunk with the PUT", func(t *testing.T) {
		r := &upstreamtest.Registry{MaxBody: 12<<20 - 1}
		c := newClient(r)
		c.Host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
		noError(t, push(t, c, b, d))
		stored(t, r, b, d)
		sawRequests(t, r, d, post, put1, end1, post, patch2, put2)
	})
	t.Run("GitHub takes 4 MiB at most and cancels nothing", func(t *testing.T) {
		r := &upstreamtest.Registry{MaxBody: 12<<20 - 1, MaxChunk: 4 << 20}
		c := newClient(r)
		c.Host = "ghcr.io"
		noError(t, push(t, c, b, d))
		sawRequests(t, r, d, post, put1, post, patch2, patch2, patch2, put2)
	})
}

func TestChunksAreHalvedAsFarAsTheyHelp(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1 << 20)
	t.Run("chunks that are too large, as whole bodies are", func(t *testing.T) {
		r := &upstreamtest.Registry{MaxBody: 200_000}
		c := newClient(r)
		noError(t, push(t, c, b, d))
		stored(t, r, b, d)
		// And what was learned is where the next one begins.
		r.Reset()
		noError(t, push(t, c, b, d))
		if log := r.Log(); len(log) != 10 || log[1].Method != "PATCH" {
			t.Errorf("%q, want eight chunks", r.Requests())
		}
	})
	t.Run("an upstream that takes no byte at once", func(t *testing.T) {
		r := &upstreamtest.Registry{MaxBody: 1}
		if err := push(t, newClient(r), b, d); !errors.Is(err, &oci.Error{Status: 413, Code: "UNKNOWN"}) || len(r.Requests()) > 30 {
			t.Errorf("%v after %d requests", err, len(r.Requests()))
		}
	})
	t.Run("chunks that are refused for what they are", func(t *testing.T) {
		r := &upstreamtest.Registry{RefusePut: 405, RefusePatch: 405}
		if err := push(t, newClient(r), b, d); !errors.Is(err, oci.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
		sawRequests(t, r, d, post, put1, end1, post, patch2, "DELETE …/blobs/uploads/u2", post, "PATCH …/blobs/uploads/u3")
	})
	t.Run("a body without a length that is refused goes in chunks, and that is remembered", func(t *testing.T) {
		r := &upstreamtest.Registry{RefusePut: 405}
		r.Fail = func(req *http.Request) int {
			if req.Method == http.MethodPatch && req.Header.Get("Content-Range") == "" {
				return http.StatusMethodNotAllowed
			}
			return 0
		}
		c := newClient(r)
		noError(t, push(t, c, b, d))
		stored(t, r, b, d)
		r.Reset()
		noError(t, push(t, c, b, d))
		for _, q := range r.Log() {
			if q.Method == http.MethodPatch && q.Header.Get("Content-Range") == "" {
				t.Errorf("%s was tried again", q)
			}
		}
	})
}

func TestASmallBlobDoesNotMakeTheChunksOfALargeOneSmall(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*upstreamtest.Registry{"sent in chunks": {MaxBody: 600_000}, "streamed because it was refused": {RefusePut: 404, MaxBody: 600_000}} {
		c := newClient(r)
		c.MaxBody = 600_000
		size := 700_000
		if r.RefusePut != 0 {
			size = 1000
		}
		small, e := blobOf(size)
		noError(t, push(t, c, small, e))
		r.Reset()
		b, d := blobOf(1_200_000)
		noError(t, push(t, c, b, d))
		if got := len(r.Requests()); got != 4 {
			t.Errorf("%s: %q, want two chunks", name, r.Requests())
		}
	}
}

func TestWhatMayBeStreamed(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{MaxBody: 600_000}
	c := newClient(r)
	if !c.Streams() {
		t.Error("nothing is known, and it does not")
	}
	b, d := blobOf(1 << 20)
	noError(t, push(t, c, b, d))
	if c.Streams() {
		t.Error("bodies can be too large, and it does")
	}
	if c = newClient(r); c.Streams() {
		c.MaxBody = 1
	}
	if c.Streams() {
		t.Error("the config sets a limit, and it does")
	}
}

func TestWhatAnUpstreamIsSaidToBeLike(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		host    string
		learned learned
		want    []string
	}{
		"one that is as the specification says": {"registry.test", learned{}, nil},
		"one whose chunks have bounds": {"1.dkr.ecr.eu-west-1.amazonaws.com", learned{}, []string{
			"known as Amazon ECR", "the last chunk goes with the closing PUT", "chunks of at least 5 MiB", "chunks of at most 20 MiB", "lists at most 1000 tags at once"}},
		"one whose answers have taught": {"registry.test", learned{way: chunks, body: 100 << 20, chunk: 1 << 20, noTags: true}, []string{
			"learned: takes blobs in chunks alone", "learned: refuses bodies of 100 MiB", "learned: takes chunks of at most 1 MiB", "learned: ignores further tags of a manifest"}},
		"one that takes streams": {"registry.test", learned{way: stream}, []string{"learned: takes blobs as one PATCH, not with the PUT"}},
	} {
		c := &Client{Host: test.host}
		c.learn(func(l *learned) { test.learned.until = l.until; *l = test.learned })
		if got := c.Traits(); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
