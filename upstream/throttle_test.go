package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestUploadsTogetherKeepToTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := &upstreamtest.Registry{}
		c := &Client{Host: "a.test", URLs: []*url.URL{{Scheme: "https", Host: "a.test"}},
			HTTP: &http.Client{Transport: Throttle{Base: reg.Transport(), Rate: &Rate{PerSecond: 1 << 20}}}}
		repo := oci.Repo{Host: "a.test", Name: "x"}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				blob := bytes.Repeat([]byte{byte(i)}, 5<<20)
				u, _, err := c.StartUpload(t.Context(), repo, digest.FromBytes(blob), "")
				if err == nil {
					err = u.Send(t.Context(), int64(len(blob)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took < 19*time.Second || took > 21*time.Second {
			t.Errorf("20 MiB at 1 MiB/s took %s", took)
		}
	})
}

// replays is a transport that reads a request's body, and then once more.
type replays struct{}

func (replays) RoundTrip(r *http.Request) (*http.Response, error) {
	_, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return nil, err
	}
	again, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, again)
	return &http.Response{StatusCode: http.StatusCreated, Body: http.NoBody}, err
}

func TestWhatIsSentAgainKeepsToTheRateToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", "https://a.test/", bytes.NewReader(make([]byte, 5<<20)))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := (Throttle{Base: replays{}, Rate: &Rate{PerSecond: 1 << 20}}).RoundTrip(r); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 9500*time.Millisecond || took > 10500*time.Millisecond {
			t.Errorf("5 MiB sent twice at 1 MiB/s took %s", took)
		}
	})
}

func TestChunksAndBodiesAreAsTheConfigurationSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		maxBody, chunkSize int64
		requests           []string
	}{
		"a body that is too large goes in chunks": {1 << 20, 0, []string{"POST", "PATCH", "PATCH", "PATCH", "PUT"}},
		"chunks of their size":                    {1 << 20, 500 << 10, []string{"POST", "PATCH", "PATCH", "PATCH", "PATCH", "PATCH", "PATCH", "PUT"}},
		"a body that is not":                      {100 << 20, 1 << 20, []string{"POST", "PUT"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := &upstreamtest.Registry{MaxBody: c.maxBody}
			client := &Client{Host: "a.test", URLs: []*url.URL{{Scheme: "https", Host: "a.test"}}, HTTP: &http.Client{Transport: reg.Transport()}, MaxBody: c.maxBody, ChunkSize: c.chunkSize}
			blob := bytes.Repeat([]byte("x"), 5<<19)
			u, _, err := client.StartUpload(t.Context(), oci.Repo{Host: "a.test", Name: "x"}, digest.FromBytes(blob), "")
			if err == nil {
				err = u.Send(t.Context(), int64(len(blob)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil })
			}
			if err != nil {
				t.Fatal(err)
			}
			log := reg.Log()
			if len(log) != len(c.requests) {
				t.Fatalf("the upstream saw %v", reg.Requests())
			}
			for i, want := range c.requests {
				if log[i].Method != want {
					t.Errorf("request %d is %s, want %s", i, log[i].Method, want)
				}
			}
		})
	}
}

// once is a transport that gives what it gets.
type once func(r *http.Request) error

func (f once) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := f(r); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func TestWhatIsThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		for _, body := range []io.Reader{nil, http.NoBody} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.test/", body)
			noError(t, err)
			throttle := Throttle{Rate: &Rate{PerSecond: 1}, Base: once(func(got *http.Request) error {
				if got != r {
					t.Error("a request without a body is another")
				}
				return nil
			})}
			noError(t, second(throttle.RoundTrip(r)))
		}
		r, err := http.NewRequestWithContext(t.Context(), "PUT", "https://a.test/", bytes.NewReader(make([]byte, 10)))
		noError(t, err)
		r.GetBody = func() (io.ReadCloser, error) { return nil, gone }
		if _, err := (Throttle{Rate: &Rate{PerSecond: 100}, Base: once(func(r *http.Request) error { return second(r.GetBody()) })}).RoundTrip(r); !errors.Is(err, gone) {
			t.Errorf("a body that cannot be opened again: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		rate := &Rate{PerSecond: 1}
		rate.pay(1000)
		r, err = http.NewRequestWithContext(ctx, "PUT", "https://a.test/", bytes.NewReader(make([]byte, 10)))
		noError(t, err)
		began := time.Now()
		if _, err := (Throttle{Rate: rate, Base: once(func(r *http.Request) error { return second(r.Body.Read(make([]byte, 10))) })}).RoundTrip(r); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
