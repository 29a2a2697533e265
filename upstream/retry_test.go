package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

func TestWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	again := map[int]bool{408: true, 425: true, 429: true, 500: true, 502: true, 503: true, 504: true}
	for _, status := range []int{300, 304, 400, 401, 403, 404, 405, 408, 409, 411, 413, 416, 425, 429, 451, 500, 501, 502, 503, 504, 505, 507} {
		synctest.Test(t, func(t *testing.T) {
			r := &upstreamtest.Registry{}
			r.Inject(upstreamtest.Fault{Status: status})
			b, d := blobOf(10)
			r.AddBlob("acme/app", b)
			_, found, err := newClient(r).HeadBlob(t.Context(), app, d)
			if again[status] != found || (err == nil) != (found || status == 404) {
				t.Errorf("after %d: found %v, %v", status, found, err)
			}
		})
	}
}

func TestDelaysGrowAndAreJittered(t *testing.T) {
	t.Parallel()
	var seen []time.Duration
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			r := &upstreamtest.Registry{}
			r.Inject(upstreamtest.Fault{Status: 503, Times: -1})
			c := newClient(r)
			c.Attempts = 9
			var retries []Retry
			c.Notify = func(_ context.Context, r Retry) { retries = append(retries, r) }
			start := time.Now()
			_, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x"))
			if !errors.Is(err, oci.ErrUpstream) {
				t.Fatal(err)
			}
			var sum time.Duration
			for i, retry := range retries {
				if retry.Delay < firstDelay || retry.Delay > longestDelay {
					t.Errorf("delay %d is %s", i, retry.Delay)
				}
				if retry.Attempt != i+1 || retry.Of != 9 || retry.Repo != app || !strings.Contains(retry.Why, "503") || !strings.Contains(retry.What, "look for blob") {
					t.Errorf("retry %+v", retry)
				}
				sum += retry.Delay
			}
			if len(retries) != 8 || len(r.Requests()) != 9 || time.Since(start) != sum {
				t.Errorf("%d retries in %s, told %s", len(retries), time.Since(start), sum)
			}
			seen = append(seen, retries[0].Delay, retries[7].Delay)
		})
	}
	same, grown := 0, 0
	for i := 2; i < len(seen); i += 2 {
		if seen[i] == seen[0] {
			same++
		}
		if seen[i+1] > 3*firstDelay {
			grown++
		}
	}
	if same > 2 || grown < 10 {
		t.Errorf("%d first delays alike, %d last ones grown: %v", same, grown, seen)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{"7": 7 * time.Second, "299": 299 * time.Second, "DATE": 40 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := &upstreamtest.Registry{}
			if header == "DATE" {
				header = time.Now().Add(want).UTC().Format(http.TimeFormat)
			}
			r.Inject(upstreamtest.Fault{Status: 429, RetryAfter: header})
			start := time.Now()
			_, _, err := newClient(r).HeadBlob(t.Context(), app, digest.FromString("x"))
			noError(t, err)
			if waited := time.Since(start); waited != want {
				t.Errorf("Retry-After %s: waited %s, want %s", header, waited, want)
			}
		})
	}
}

func TestALongRetryAfterIsTheCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Status: 429, RetryAfter: "3600", Times: -1})
		start := time.Now()
		_, _, err := newClient(r).HeadBlob(t.Context(), app, digest.FromString("x"))
		if e := oci.AsError(err); !errors.Is(err, oci.ErrTooManyRequests) || e.After != time.Hour {
			t.Errorf("error %v after %s, want TOOMANYREQUESTS with an hour", err, e.After)
		}
		if time.Since(start) != 0 || len(r.Requests()) != 1 {
			t.Errorf("%d requests in %s", len(r.Requests()), time.Since(start))
		}
	})
}

func TestA429HoldsEveryRequestBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Path: "/blobs/", Status: 429, RetryAfter: "20"})
		c := newClient(r)
		done := make(chan error)
		go func() {
			_, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x"))
			done <- err
		}()
		synctest.Wait()
		start := time.Now()
		noError(t, c.Ping(t.Context()))
		if waited := time.Since(start); waited != 20*time.Second {
			t.Errorf("another request waited %s, want 20s", waited)
		}
		noError(t, <-done)
	})
}

func TestAContextThatEndsNamesTheLastCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Status: 503, RetryAfter: "100", Times: -1})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := newClient(r).HeadBlob(ctx, app, digest.FromString("x"))
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, oci.ErrUpstream) || !strings.Contains(err.Error(), "503") {
			t.Errorf("error %v, want the deadline and the 503", err)
		}
		if time.Since(start) != 10*time.Second {
			t.Errorf("it took %s", time.Since(start))
		}
	})
}

func TestS32AnUpstreamThatNeverAnswers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(*Client) error
		want time.Duration
	}{
		"a small request ends after half a minute": {func(c *Client) error { return second(c.single(context.Background())) }, quickAnswer},
		"a commit after ten": {func(c *Client) error {
			_, err := c.PutManifest(context.Background(), app, "v1", "x", []byte("{}"), nil)
			return err
		}, slowAnswer},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(upstreamtest.Fault{Delay: 24 * time.Hour, Times: -1})
				c := newClient(r)
				c.Attempts = 1
				start := time.Now()
				err := test.do(c)
				if !errors.Is(err, oci.ErrUpstream) || !errors.Is(err, errStalled) {
					t.Errorf("error %v, want ErrUpstream for a stall", err)
				}
				if d := time.Since(start); d != test.want {
					t.Errorf("it took %s, want %s", d, test.want)
				}
			})
		})
	}
}

func (c *Client) single(ctx context.Context) (bool, error) {
	_, found, err := c.HeadBlob(ctx, app, digest.FromString("x"))
	return found, err
}

func TestASlowCommitIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Method: "PUT", Delay: 5 * time.Minute, Times: 1})
		b, d := blobOf(1000)
		noError(t, push(t, newClient(r), b, d))
		sawRequests(t, r, d, post, put1)
	})
}

func TestErrorsSayWhatHappenedAndWhatToDo(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	tests := map[string]struct {
		host   string
		status int
		body   string
		want   []string
		not    []string
	}{
		"a refusal": {"registry.test", 403, `{"errors":[{"code":"DENIED","message":"no push for bob"}]}`,
			[]string{"registry.test", "registry.test/acme/app", "no push for bob", "helper docker-credential-x", "docker login registry.test"}, nil},
		"a hint for the registry":        {"ghcr.io", 403, "", []string{"write:packages"}, nil},
		"HTML is stripped":               {"registry.test", 500, "<html><head><title>t</title></head><body><h1>Bad\x1b[31m day</h1>", []string{`"Bad`, "try again"}, []string{"<", "\x1b"}},
		"long text is cut":               {"registry.test", 500, long, []string{"xxx…"}, []string{long[:maxShown+1]}},
		"text of several lines is one":   {"registry.test", 418, "one\r\ntwo", []string{`"one two"`}, []string{"\n"}},
		"Docker Hub's plain text at 429": {"docker.io", 429, "Too Many Requests (HAP429).\n", []string{"Too Many Requests (HAP429)", "per account"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(&upstreamtest.Registry{})
				c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(test.status)
					_, _ = w.Write([]byte(test.body))
				}))
				c.Host, c.Describe = test.host, func(context.Context, oci.Repo) string { return "helper docker-credential-x" }
				_, _, err := c.StartUpload(t.Context(), app, digest.FromString("x"), "")
				message := oci.AsError(err).Message
				for _, want := range test.want {
					if !strings.Contains(message, want) {
						t.Errorf("%q lacks %q", message, want)
					}
				}
				for _, not := range test.not {
					if strings.Contains(message, not) {
						t.Errorf("%q has %q", message, not)
					}
				}
			})
		})
	}
}

func TestAStopEndsTheWaitForAnUpstream(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]upstreamtest.Fault{
		"that fails":          {Status: 503, Times: 9},
		"that wants to rest":  {Status: 429, RetryAfter: "60", Times: 9},
		"that is not reached": {Reset: true, Times: 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(fault)
				c := newClient(r)
				quit := make(chan struct{})
				c.Quit = quit
				began := time.Now()
				time.AfterFunc(100*time.Millisecond, func() { close(quit) })
				for range 2 {
					if _, _, err := c.HeadBlob(t.Context(), app, digest.FromString("x")); !errors.Is(err, oci.ErrUpstream) {
						t.Errorf("got %v", err)
					}
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}
