package authinject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
)

const manifest = home + "/v2/acme/app/manifests/1"

func TestTokensAreUsedForFourFifthsOfTheirLife(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		used   time.Duration
	}{
		"a life of five seconds is honoured":           {`{"token":"a","expires_in":5}`, 4 * time.Second},
		"five minutes":                                 {`{"token":"a","expires_in":300}`, 240 * time.Second},
		"no word of its life means a minute":           {`{"token":"a"}`, 48 * time.Second},
		"a life of zero means a minute":                {`{"token":"a","expires_in":0}`, 48 * time.Second},
		"a negative life means a minute":               {`{"token":"a","expires_in":-5}`, 48 * time.Second},
		"nonsense means a minute":                      {`{"token":"a","expires_in":[1]}`, 48 * time.Second},
		"a year is cut to twelve hours":                {`{"token":"a","expires_in":31536000}`, 12 * time.Hour * 4 / 5},
		"what no number can be is cut, too":            {`{"token":"a","expires_in":1e999}`, 12 * time.Hour * 4 / 5},
		"what is not a number means a minute":          {`{"token":"a","expires_in":"NaN"}`, 48 * time.Second},
		"an issue date that is none does not count":    {`{"token":"a","expires_in":100,"issued_at":"yesterday"}`, 80 * time.Second},
		"infinity is cut to twelve hours":              {`{"token":"a","expires_in":1e300}`, 12 * time.Hour * 4 / 5},
		"a life in quotes counts":                      {`{"token":"a","expires_in":"10"}`, 8 * time.Second},
		"access_token is as good as token":             {`{"access_token":"a","expires_in":10}`, 8 * time.Second},
		"a token from stock is as old as it says":      {`{"token":"a","expires_in":100,"issued_at":"2026-11-21T11:59:10Z"}`, 40 * time.Second},
		"an issue date in the future does not count":   {`{"token":"a","expires_in":100,"issued_at":"2026-11-21T13:00:00Z"}`, 80 * time.Second},
		"an issue date before its life does not count": {`{"token":"a","expires_in":100,"issued_at":"2020-11-21T13:00:00Z"}`, 80 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exchanges := 0
				tr, _ := newTransport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == "/token":
						exchanges++
						w.Header().Set("Date", "Sat, 21 Nov 2026 12:00:00 GMT")
						_, _ = w.Write([]byte(c.answer))
					case r.Header.Get("Authorization") != "Bearer a":
						(&registry{}).ServeHTTP(w, r)
					}
				}), fixed{"": bob})
				mustSend(t, tr, 200, "GET", manifest, "")
				time.Sleep(c.used - time.Millisecond)
				mustSend(t, tr, 200, "GET", manifest, "")
				if exchanges != 1 {
					t.Errorf("%d exchanges just before %v, want 1", exchanges, c.used)
				}
				time.Sleep(time.Millisecond)
				mustSend(t, tr, 200, "GET", manifest, "")
				if exchanges != 2 {
					t.Errorf("%d exchanges at %v, want 2", exchanges, c.used)
				}
			})
		})
	}
}

func TestATokenServerThatMovedIsFoundAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{realm: "https://old.registry.test/token"}
		tr, w := newTransport(r, fixed{"": bob})
		w.hosts["https://old.registry.test:443"] = r
		mustSend(t, tr, 201, "GET", manifest, "")
		time.Sleep(time.Hour)
		r.realm = ""
		delete(w.hosts, "https://old.registry.test:443")
		if _, err := send(t, tr, "GET", manifest, ""); !errors.Is(err, oci.ErrUpstream) {
			t.Errorf("got %v, want the old token server to be missed", err)
		}
		mustSend(t, tr, 201, "GET", manifest, "")
	})
}

func TestATokenThatExpiresUnderwayIsHealed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The server says nothing, so that a minute is assumed.
		r := &registry{life: 5 * time.Second}
		tr, _ := newTransport(r, fixed{"": bob})
		for range 20 {
			mustSend(t, tr, 201, "PATCH", home+"/v2/acme/app/blobs/uploads/1", "chunk")
			time.Sleep(3 * time.Second)
		}
	})
}

func TestAHundredRequestsFetchOneToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		tr, w := newTransport(r, fixed{"": bob})
		w.slowTokens(time.Second)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if code, err := send(t, tr, "HEAD", manifest, ""); code != 201 || err != nil {
					t.Errorf("got %d %v", code, err)
				}
			})
		}
		wg.Wait()
		if r.exchanges() != 1 {
			t.Errorf("%d exchanges for 100 requests, want 1", r.exchanges())
		}
	})
}

func TestAFollowerIsNotCancelledWithTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		tr, w := newTransport(r, fixed{"": bob})
		w.slowTokens(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		leader := make(chan error)
		go func() { leader <- tr.Warm(ctx, oci.Repo{Name: "acme/app"}, false) }()
		synctest.Wait()
		follower := make(chan error)
		go func() { follower <- tr.Warm(t.Context(), oci.Repo{Name: "acme/app"}, false) }()
		synctest.Wait()
		cancel()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Errorf("the leader got %v, want its cancellation at once", err)
		}
		if err := <-follower; err != nil || r.exchanges() != 1 {
			t.Errorf("the follower got %v after %d exchanges, want success after 1", err, r.exchanges())
		}
	})
}

func TestARefusalIsRememberedForTenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		tr, _ := newTransport(&registry{refuse: func([]string) int { asked++; return 403 }}, fixed{"": bob})
		for range 5 {
			_, err := send(t, tr, "GET", manifest, "")
			if !errors.Is(err, oci.ErrDenied) {
				t.Fatalf("got %v, want the refusal", err)
			}
			for _, part := range []string{"https://registry.test/token", "registry.test", bob.Source, "docker login registry.test", "403"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not name %s: %v", part, err)
				}
			}
		}
		if asked != 1 {
			t.Errorf("the token server was asked %d times, want once", asked)
		}
		time.Sleep(refusalLife)
		if _, err := send(t, tr, "GET", manifest, ""); !errors.Is(err, oci.ErrDenied) || asked != 2 {
			t.Errorf("after %v: asked %d times, want again", refusalLife, asked)
		}
	})
}

func TestAnAilingTokenServerIsAskedAgainAndThenReported(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"overloaded": 503, "too many requests": 429, "too slow": 408, "a redirect": 302, "gone": 410} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fail := 2
				r := &registry{}
				tr, w := newTransport(r, fixed{"": bob})
				w.hosts[homeAt] = http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
					if fail > 0 && req.URL.Path == "/token" {
						fail--
						rw.Header().Set("Location", "https://evil.example/token")
						rw.WriteHeader(status)
						_, _ = rw.Write([]byte(`{"token":"a"}`))
						return
					}
					r.ServeHTTP(rw, req)
				})
				_, err := send(t, tr, "GET", manifest, "")
				if heals := status == 503 || status == 429 || status == 408; heals != (err == nil) {
					t.Errorf("after two answers of %d: got %v", status, err)
				}
				fail = 100
				r.revoke()
				if _, err := send(t, tr, "PUT", manifest, "{}"); !errors.Is(err, oci.ErrUpstream) {
					t.Errorf("for good: got %v, want oci.ErrUpstream", err)
				}
				if n := len(w.lines("https://evil.example:443")); n != 0 {
					t.Errorf("a redirect of the token server was followed %d times", n)
				}
				w.mustHoldSecretOnlyAt(t, homeAt)
			})
		})
	}
}

func TestAnswersThatAreNoTokenAreErrorsThatQuoteNothing(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"not JSON":                "<html>" + canary,
		"no token":                `{"secret":"` + canary + `"}`,
		"a token with line break": `{"token":"` + canary + `\r\nX-Evil: 1"}`,
		"a token beyond ASCII":    `{"token":"` + canary + `é"}`,
		"an empty token":          `{"token":"","access_token":""}`,
		"a token of spaces":       `{"token":"a ` + canary + `"}`,
		"more than 64 KiB":        `{"token":"` + strings.Repeat(canary, 6000) + `"}`,
		"64 KiB of blanks":        `{"token":"a"}` + strings.Repeat(" ", maxTokenAnswer),
		"a token of wrong type":   `{"token":{"a":"` + canary + `"}}`,
	} {
		tr, _ := newTransport(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				_, _ = w.Write([]byte(body))
				return
			}
			(&registry{}).ServeHTTP(w, r)
		}), fixed{"": bob})
		_, err := send(t, tr, "GET", manifest, "")
		if !errors.Is(err, oci.ErrUpstream) || leaks(fmt.Sprint(err)) {
			t.Errorf("%s: got %v, want an error without the body", name, err)
		}
	}
}

// What others can make a proxy remember has an end, and what is still of use stays as
// long as there is something else to forget.
func TestHoweverManyAreAskedForFewAreRemembered(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ts := &tokens{now: func() time.Time { return now }, held: map[tokenKey]*token{}, renewed: map[tokenKey]*Secret{}}
	mine := &token{value: "mine", until: now.Add(time.Hour)}
	ts.keep("mine", mine)
	for i := range 2*maxTokens - 2 {
		ts.keep(tokenKey(fmt.Sprint(i)), &token{until: now.Add(-time.Second)})
	}
	if tok, ok := ts.cached("mine"); !ok || tok != mine || len(ts.held) > maxTokens {
		t.Errorf("a token that is good is forgotten for those that are not: %d are held", len(ts.held))
	}
	for i := range 3 * maxTokens {
		ts.keep(tokenKey(fmt.Sprint(i)), &token{until: now.Add(time.Hour)})
		if len(ts.held) > maxTokens {
			t.Fatalf("%d tokens are held", len(ts.held))
		}
	}
	h := &Helpers{}
	for i := range 3 * maxHelperAnswers {
		h.keep(fmt.Sprint(i), &helperAnswer{})
		if len(h.answers) > maxHelperAnswers {
			t.Fatalf("%d answers of helpers are held", len(h.answers))
		}
	}
}

func TestWhatATokenServersRefusalSays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cred    Credential
		address string
		status  int
		want    error
		says    []string
	}{
		"a bad request":                {bob, manifest, 400, oci.ErrDenied, []string{"refused the credential from " + bob.Source, "answered 400"}},
		"unauthorized":                 {bob, manifest, 401, oci.ErrDenied, []string{"refused the credential from " + bob.Source, `"repository:acme/app:pull"`}},
		"forbidden":                    {bob, manifest, 403, oci.ErrDenied, []string{"docker login registry.test again"}},
		"not there":                    {bob, manifest, 404, oci.ErrUpstream, []string{"answered 404"}},
		"not by this method":           {bob, manifest, 405, oci.ErrUpstream, []string{"answered 405"}},
		"unauthorized without a login": {Credential{}, manifest, 401, oci.ErrDenied, []string{"asks for a login and none was found", "run docker login registry.test"}},
		"the login itself":             {bob, home + "/v2/", 401, oci.ErrDenied, []string{"answered 401 to a login"}},
	} {
		tr, _ := newTransport(&registry{anonymous: true, refuse: func([]string) int { return test.status }}, fixed{"": test.cred})
		_, err := send(t, tr, "GET", test.address, "")
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		for _, says := range test.says {
			if !strings.Contains(fmt.Sprint(err), says) {
				t.Errorf("%s: %v does not say %q", name, err, says)
			}
		}
	}
	tr, _ := newTransport(&registry{realm: "https://registry.test/" + strings.Repeat("long", 200)}, fixed{"": {Username: "bob", Password: "wrong", Source: "x"}})
	if _, err := send(t, tr, "GET", manifest, ""); err == nil || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "…\"") {
		t.Errorf("a long address is shown in %d bytes: %v", len(fmt.Sprint(err)), err)
	}
}

// broken is a body that breaks off.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	if n, _ := b.Reader.Read(p); n > 0 {
		return n, nil
	}
	return 0, io.ErrUnexpectedEOF
}
func (broken) Close() error { return nil }

// busy is what a transport says that expects to do better soon.
type busy struct{ error }

func (busy) CutOff() bool { return false }

func TestATokenServerThatBreaksOffIsAskedAgain(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func() (*http.Response, error){
		"an answer that breaks off": func() (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: broken{strings.NewReader(`{"token":"a"`)}}, nil
		},
		"one that breaks off behind its end": func() (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: broken{strings.NewReader(`{"token":"a"}`)}}, nil
		},
		"a transport that knows of a way": func() (*http.Response, error) { return nil, busy{errors.New("not now")} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr, w := newTransport(&registry{}, fixed{"": bob})
				asked := 0
				tr.Base = opaque(func(r *http.Request) (*http.Response, error) {
					if r.URL.Path == "/token" {
						if asked++; asked == 1 {
							return first()
						}
					}
					return w.RoundTrip(r)
				})
				mustSend(t, tr, 201, "GET", manifest, "")
				if asked != 2 {
					t.Errorf("it was asked %d times", asked)
				}
			})
		})
	}
}
