package tests

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// What can be told by the time that an answer takes.
//
// Two kinds of request are compared by the area under the ROC curve: how often a request of the one kind took longer than
// one of the other, ties counting half. 0.5 is no difference; trust.md asks for 0.45 to 0.55.
//
// A busy machine makes noise, but not to one side: the requests go in pairs, one of each kind, in an order that is drawn for
// each pair, on the same connection, so that whatever slows down a moment slows down both kinds alike. With n pairs the area
// of two equal kinds scatters by 0.41/√n: for 5,000 pairs a bound of 0.05 is eight times that. What remains is a burst
// that hits one kind by chance. So a result outside the bounds is measured once more, and only one that is outside on
// the same side twice counts: a true difference is there each time.

// area is the chance that one of a took longer than one of b.
func area(a, b []time.Duration) float64 {
	b = slices.Clone(b)
	slices.Sort(b)
	sum := 0.0
	for _, x := range a {
		less := sort.Search(len(b), func(i int) bool { return b[i] >= x })
		upTo := sort.Search(len(b), func(i int) bool { return b[i] > x })
		sum += float64(less) + float64(upTo-less)/2
	}
	return sum / float64(len(a)*len(b))
}

// wantAlike measures pairs of requests and checks that their kinds cannot be told apart. one and other send the i-th
// request of their kind and return how long the answer took.
func wantAlike(t *testing.T, what string, pairs int, one, other func(i int) time.Duration) {
	t.Helper()
	measure := func() float64 {
		var a, b []time.Duration
		for i := range pairs {
			if rand.IntN(2) == 0 {
				a, b = append(a, one(i)), append(b, other(i))
			} else {
				b, a = append(b, other(i)), append(a, one(i))
			}
		}
		return area(a, b)
	}
	first := measure()
	if first >= 0.45 && first <= 0.55 {
		t.Logf("%s: AUC %.3f over %d pairs", what, first, pairs)
		return
	}
	second := measure()
	if min(first, second) > 0.55 || max(first, second) < 0.45 {
		t.Errorf("%s can be told by the time: AUC %.3f, and again %.3f, over %d pairs", what, first, second, pairs)
		return
	}
	t.Logf("%s: AUC %.3f, and again %.3f, over %d pairs", what, first, second, pairs)
}

func TestTheAreaTellsWhatDiffers(t *testing.T) {
	t.Parallel()
	slow, fast := []time.Duration{3, 4, 5}, []time.Duration{1, 2, 3}
	if a := area(slow, fast); a < 0.9 {
		t.Errorf("AUC %v", a)
	}
	if a := area(fast, slow); a > 0.1 {
		t.Errorf("AUC %v", a)
	}
	if a := area(slow, slow); a != 0.5 {
		t.Errorf("AUC %v of the same", a)
	}
}

// timed sends a request on a connection that is kept, and returns how long the answer took.
func timed(t *testing.T, client *http.Client, status int, method, target string, user parts.User, body string, header ...string) time.Duration {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user.Name, user.Password)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	_ = resp.Body.Close()
	if resp.StatusCode != status {
		t.Fatalf("%s %s is answered %s, want %d", method, target, resp.Status, status)
	}
	return took
}

// One principal looks for the digests of another, and for digests that nobody has.
func TestS19TheTimeTellsNothing(t *testing.T) {
	pushproxyProgram(t, buildPlain)
	// The upstream answers at once and always the same, so that what is measured is pushproxy.
	upstream := startRawUpstream(t, quickRegistry)
	program, _ := buildPlain()
	r := startRig(t, upstream.URL, func(r *rig) {
		r.program = program
		r.config.Auth = "token"
		for _, name := range []string{"ann", "bob"} {
			r.config.Principals = append(r.config.Principals, parts.Principal{Name: name, Credentials: &parts.Credentials{
				DockerConfig: writeFile(t, r.home+"/"+name+"/config.json", dockerConfig(upstreamName, parts.User{Name: name, Password: name + "'s"}), 0o600),
			}})
		}
	})
	ann := api{url: r.URL, user: parts.User{Name: "x", Password: r.newToken(t, "ann", "--principal", "ann")}}
	bob := parts.User{Name: "x", Password: r.newToken(t, "bob", "--principal", "bob")}
	// As many of each, and each asked as often: what was absent is remembered for a while.
	var hers, nobodys []string
	for i := range 50 {
		hers = append(hers, ann.pushBlob(t, upstreamName+"/ann/secret", fmt.Appendf(nil, "%s %d %s", t.Name(), i, strings.Repeat("x", 100*i))).Digest)
		nobodys = append(nobodys, digestOf(fmt.Appendf(nil, "nobody has %d", i)))
	}
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	base := r.URL + "/v2/" + upstreamName + "/bob/app"
	for _, c := range []struct {
		what   string
		pairs  int
		status int
		send   func(digest string) time.Duration
	}{
		{"a look at another's blob", 5000, 404, func(d string) time.Duration {
			return timed(t, client, 404, "HEAD", base+"/blobs/"+d, bob, "")
		}},
		{"reading another's blob", 1000, 404, func(d string) time.Duration {
			return timed(t, client, 404, "GET", base+"/blobs/"+d, bob, "")
		}},
		{"a look at another's manifest", 1000, 404, func(d string) time.Duration {
			return timed(t, client, 404, "HEAD", base+"/manifests/"+d, bob, "")
		}},
		{"a manifest that names another's blob", 1000, 404, func(d string) time.Duration {
			return timed(t, client, 404, "PUT", base+"/manifests/v1", bob, string(artifactOf(t, desc{Digest: d, Size: 2})), "Content-Type", typeManifest)
		}},
	} {
		// What is learned at the first requests is learned before.
		for i := range 20 {
			c.send(hers[i])
			c.send(nobodys[i])
		}
		wantAlike(t, c.what, c.pairs, func(i int) time.Duration { return c.send(hers[i%len(hers)]) }, func(i int) time.Duration { return c.send(nobodys[i%len(nobodys)]) })
	}
}

// A wrong token that is nearly the right one takes as long as any other, and few are looked at.
func TestS1TenThousandGuesses(t *testing.T) {
	pushproxyProgram(t, buildPlain)
	program, _ := buildPlain()
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) {
		r.program = program
		r.config.Auth = "token"
	})
	right := r.newToken(t, "one")
	near, far := []byte(right), []byte(right)
	near[len(near)-1] ^= 1
	for i := strings.IndexByte(right, '_') + 1; i < len(far); i++ {
		far[i] ^= 1
	}
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	looked, begin := 0, time.Now()
	guess := func(token string) time.Duration {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("x", token)
		began := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusUnauthorized:
			looked++
		case http.StatusTooManyRequests:
		default:
			t.Fatalf("a wrong token is answered %s", resp.Status)
		}
		return took
	}
	// The first ones use up what may come together.
	for range 20 {
		guess(string(far))
	}
	wantAlike(t, "a wrong token that is nearly right", 5000, func(int) time.Duration { return guess(string(near)) }, func(int) time.Duration { return guess(string(far)) })
	if most := 10 + int(10*time.Since(begin).Seconds()) + 1; looked > most {
		t.Errorf("%d guesses were looked at in %s, want %d at most", looked, time.Since(begin), most)
	}
	// The right one is not slowed down by them.
	if status := (api{url: r.URL, user: parts.User{Name: "x", Password: right}}).do(t, "GET", "/v2/", nil).StatusCode; status != http.StatusOK {
		t.Errorf("the right token is answered %d", status)
	}
}
