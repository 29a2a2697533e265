package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

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

// Whoever left is answered at once, and nothing is tried again for them.
func TestWhatIsCalledOffEndsAtOnce(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	hang := func(f upstreamtest.Fault) []upstreamtest.Fault {
		f.Delay = time.Hour
		return []upstreamtest.Fault{f}
	}
	upload := func(ctx context.Context, c *Client) error {
		u, _, err := c.StartUpload(ctx, app, d, "")
		if err != nil {
			return err
		}
		return u.Send(ctx, 1000, opener(b))
	}
	for name, test := range map[string]struct {
		faults []upstreamtest.Fault
		do     func(context.Context, *Client) error
		told   int // of retries
	}{
		"a request": {hang(upstreamtest.Fault{}), func(ctx context.Context, c *Client) error {
			_, _, err := c.HeadBlob(ctx, app, d)
			return err
		}, 0},
		"a mount": {hang(upstreamtest.Fault{}), func(ctx context.Context, c *Client) error {
			_, _, err := c.StartUpload(ctx, app, d, "acme/base")
			return err
		}, 0},
		"a body that is read": {nil, func(ctx context.Context, c *Client) error {
			c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: &stalled{req: req}, ContentLength: -1}, nil
			})
			_, _, err := c.GetManifest(ctx, app, "v1", nil)
			return err
		}, 0},
		"an upload":                         {hang(upstreamtest.Fault{Method: "PUT"}), upload, 0},
		"the start of another":              {hang(upstreamtest.Fault{Method: "POST"}), upload, 0},
		"an upload that is being recovered": {append(hang(upstreamtest.Fault{Method: "GET"}), upstreamtest.Fault{Method: "PUT", Status: 503}), upload, 1},
		"one that goes on": {append(hang(upstreamtest.Fault{Method: "GET"}), upstreamtest.Fault{Method: "PUT", Status: 403}), func(ctx context.Context, c *Client) error {
			u, _, err := c.StartUpload(ctx, app, d, "")
			if err != nil {
				return err
			}
			if err := u.Send(ctx, 1000, opener(b)); !errors.Is(err, oci.ErrDenied) {
				return err
			}
			return u.Send(ctx, 1000, opener(b))
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(test.faults...)
				c, told := newClient(r), 0
				c.Notify = func(context.Context, Retry) { told++ }
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				time.AfterFunc(time.Minute/4, cancel)
				err := test.do(ctx, c)
				if !errors.Is(err, context.Canceled) || errors.Is(err, oci.ErrUpstream) != (test.told > 0) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took != time.Minute/4 || told != test.told {
					t.Errorf("it took %s, told of %d retries", took, told)
				}
			})
		})
	}
}

func TestAStopSendsNothingAgain(t *testing.T) {
	t.Parallel()
	b, d := blobOf(1000)
	for name, test := range map[string]struct {
		fault upstreamtest.Fault
		do    func(*Client) error
		want  []string
	}{
		"a request": {upstreamtest.Fault{Status: 503, Times: -1}, func(c *Client) error {
			_, _, err := c.HeadBlob(context.Background(), app, d)
			return err
		}, []string{head}},
		"a body that breaks off": {upstreamtest.Fault{Method: "GET", Cut: 1, Times: -1}, func(c *Client) error {
			_, _, err := c.Tags(context.Background(), app, nil)
			return err
		}, []string{"GET …/tags/list"}},
		"an upload": {upstreamtest.Fault{Method: "PUT", Status: 503, Times: -1}, func(c *Client) error {
			u, _, err := c.StartUpload(context.Background(), app, d, "")
			if err != nil {
				return err
			}
			return u.Send(context.Background(), 1000, opener(b))
		}, []string{post, put1}},
		"an upload that is held back": {upstreamtest.Fault{Method: "PUT", Status: 503, Times: -1}, func(c *Client) error {
			u, _, err := c.StartUpload(context.Background(), app, d, "")
			if err != nil {
				return err
			}
			c.pauseFor(time.Minute)
			return u.Send(context.Background(), 1000, opener(b))
		}, []string{post}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				r.Inject(test.fault)
				c, quit := newClient(r), make(chan struct{})
				c.Quit = quit
				time.AfterFunc(100*time.Millisecond, func() { close(quit) })
				if err := test.do(c); !errors.Is(err, errQuit) {
					t.Errorf("error %v", err)
				}
				sawRequests(t, r, d, test.want...)
			})
		})
	}
}

// kept counts the answers' bodies that nobody closed.
type kept struct {
	next http.RoundTripper
	n    int
}

func (k *kept) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := k.next.RoundTrip(req)
	if err == nil {
		k.n++
		resp.Body = &keptBody{resp.Body, k}
	}
	return resp, err
}

type keptBody struct {
	io.ReadCloser
	k *kept
}

func (b *keptBody) Close() error {
	b.k.n--
	return b.ReadCloser.Close()
}

func TestEveryAnswersBodyIsClosed(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(r *upstreamtest.Registry){
		"of an upstream where nothing is":     func(*upstreamtest.Registry) {},
		"of one that refuses":                 func(r *upstreamtest.Registry) { r.Inject(upstreamtest.Fault{Status: 403, Times: -1}) },
		"of one that says 203":                func(r *upstreamtest.Registry) { r.Inject(upstreamtest.Fault{Status: 203, Times: -1}) },
		"of one that fails":                   func(r *upstreamtest.Registry) { r.Inject(upstreamtest.Fault{Status: 503, Times: -1}) },
		"of one that names another digest":    func(r *upstreamtest.Registry) { r.Digest = digest.FromString("another").String() },
		"of one that encodes what it answers": func(r *upstreamtest.Registry) { r.Header = http.Header{"Content-Encoding": {"gzip"}} },
		"of one that has it all": func(r *upstreamtest.Registry) {
			b, _ := blobOf(10)
			r.AddBlob("acme/app", b)
			r.AddManifest("acme/app", "v1", "x", []byte("{}"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &upstreamtest.Registry{}
				prepare(r)
				c := newClient(r)
				c.Attempts = 2
				k := &kept{next: r.Transport()}
				c.HTTP.Transport = k
				b, d := blobOf(10)
				if body, err := c.GetBlob(t.Context(), app, d, ""); err == nil {
					noError(t, body.Close())
				}
				if body, err := c.GetBlob(t.Context(), app, d, "bytes=50-"); err == nil {
					noError(t, body.Close())
				}
				_ = c.Ping(t.Context())
				_, _, _ = c.HeadBlob(t.Context(), app, d)
				_, _, _ = c.Tags(t.Context(), app, nil)
				_, _, _ = c.Referrers(t.Context(), app, d, nil)
				_, _, _ = c.HeadManifest(t.Context(), app, "v1", nil)
				_, _, _ = c.GetManifest(t.Context(), app, "v1", nil)
				_, _ = c.PutManifest(t.Context(), app, "v2", "x", []byte("{}"), nil)
				_ = push(t, c, b, d)
				if u, err := c.Reopen(app, d, "/v2/acme/app/blobs/uploads/u1"); err == nil {
					_, _ = u.Offset(t.Context())
					_ = u.Cancel(t.Context())
				}
				_ = c.DeleteManifest(t.Context(), app, "v1")
				_ = c.DeleteBlob(t.Context(), app, d)
				if k.n != 0 {
					t.Errorf("%d bodies are left open", k.n)
				}
			})
		})
	}
}

func TestWhatAnAnswerMeans(t *testing.T) {
	t.Parallel()
	get := func(c *Client) error { return second2(c.GetManifest(context.Background(), app, "v1", nil)) }
	start := func(c *Client) error { return second2(c.StartUpload(context.Background(), app, "", "")) }
	for name, test := range map[string]struct {
		do     func(*Client) error
		status int
		body   string
		want   error
		says   []string
		not    string
	}{
		"a refusal to read says why":                       {get, 403, `{"errors":[{"code":"DENIED","message":"not for bob"}]}`, oci.ErrDenied, []string{"not for bob", "docker login registry.test"}, ""},
		"one that says nothing is not quoted":              {get, 403, "", oci.ErrDenied, []string{"(403 Forbidden)"}, `""`},
		"404 to a read is the manifest":                    {get, 404, "", oci.ErrManifestUnknown, []string{"could not fetch manifest v1", "not found there"}, "has no repository"},
		"404 that names the repository is that":            {get, 404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`, oci.ErrNameUnknown, []string{"has no repository acme/app", "create it there first"}, ""},
		"404 to an upload is the repository":               {start, 404, "", oci.ErrNameUnknown, []string{"has no repository acme/app"}, ""},
		"a status that leads elsewhere is not followed":    {get, 300, "", oci.ErrUpstream, []string{"answered 300", "not followed", "url of this upstream"}, ""},
		"a 2xx that is another is no confirmation":         {start, 200, "", oci.ErrUpstream, []string{"answered 200", "does not confirm it"}, ""},
		"413 has a code of its own":                        {start, 413, "", &oci.Error{Status: 413, Code: "SIZE_INVALID"}, []string{"413"}, ""},
		"any other 4xx keeps its status":                   {start, 418, "", &oci.Error{Status: 418, Code: "UNSUPPORTED"}, []string{"418"}, ""},
		"and a code that the upstream names":               {start, 413, `{"errors":[{"code":"QUOTA","message":"full"}]}`, &oci.Error{Status: 413, Code: "QUOTA"}, []string{"QUOTA full"}, ""},
		"text of no length that ends no rune is cut":       {get, 500, strings.Repeat("\x80", 1000), oci.ErrUpstream, []string{"…"}, ""},
		"text of many bytes to a letter is cut between":    {get, 500, strings.Repeat("ä", 1000) + "z", oci.ErrUpstream, []string{"ä…"}, "z"},
		"text of many bytes to a letter, and one more":     {get, 500, "x" + strings.Repeat("ä", 1000), oci.ErrUpstream, []string{"ä…"}, "\ufffd"},
		"a script is not shown":                            {get, 500, "<script>evil()</script>down", oci.ErrUpstream, []string{`"down"`}, "evil"},
		"a code that is none is not shown as the answer's": {start, 418, `{"errors":[{"code":"x y","message":"m"}]}`, &oci.Error{Status: 418, Code: "UNKNOWN"}, []string{"UNKNOWN m"}, "x y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newClient(&upstreamtest.Registry{})
				c.HTTP.Transport = upstreamtest.Transport(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(test.status)
					_, _ = w.Write([]byte(test.body))
				}))
				err := test.do(c)
				message := oci.AsError(err).Message
				if !errors.Is(err, test.want) || test.not != "" && strings.Contains(message, test.not) || !utf8.ValidString(message) {
					t.Errorf("%v, want %v without %q", err, test.want, test.not)
				}
				for _, says := range test.says {
					if !strings.Contains(message, says) {
						t.Errorf("%q lacks %q", message, says)
					}
				}
			})
		})
	}
}

func second2[A, B any](_ A, _ B, err error) error { return err }

func TestAFaultOfTheTransportIsToldInOneLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(&upstreamtest.Registry{})
		c.HTTP.Transport, c.Attempts = brokenDial{errors.New("one\r\ntwo\x1b[31m")}, 1
		err := c.Ping(t.Context())
		if message := oci.AsError(err).Message; !strings.Contains(message, "one  two [31m") || strings.ContainsAny(message, "\r\n\x1b") {
			t.Errorf("%q", message)
		}
		// What is for people already is passed on as it is.
		c.HTTP.Transport = brokenDial{oci.ErrDenied.With("no credential for you")}
		if err := c.Ping(t.Context()); Unreachable(err) || oci.AsError(err).Message != "no credential for you" {
			t.Errorf("%v", err)
		}
	})
}

func TestAShortRestDoesNotEndALongOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(&upstreamtest.Registry{})
		c.pauseFor(20 * time.Second)
		c.pauseFor(5 * time.Second)
		began := time.Now()
		noError(t, c.Ping(t.Context()))
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("it waited %s", took)
		}
	})
}
