package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"/v2/x/blobs/uploads/u1?_state=a", "u1", "https://r.test:443/u", "http://r.test/u", "//evil.test/u", "https://evil.test@r.test/",
		"https://r.test:99999/", "https://[::1]/", "\\\\evil.test", "https:r.test", "?x", "#x", "%zz", "https://r.test\r\nX: y"} {
		f.Add(s)
	}
	c := &Client{Host: "r.test", URLs: []*url.URL{mustURL("https://r.test")}, UploadHosts: []string{"s3.test"}}
	from := mustURL("https://r.test/v2/x/blobs/uploads/")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := c.locate(from, s)
		if err != nil {
			return
		}
		if u.Scheme != "https" || u.User != nil || u.Host != "r.test" && u.Hostname() != "s3.test" {
			t.Errorf("%q leads to %s", s, u)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-99", "bytes=0--1", "bytes 0-5", "0-", "-5", "1-5", "0-99999999999999999999", "0-0x5", " 0-7 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseRange(s); n < 0 || n > 1<<62 || !ok && n != 0 {
			t.Errorf("%q = %d, %v", s, n, ok)
		}
	})
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0-0": 0, "0-1": 2, "0-99": 100, "bytes=0--1": 0, "bytes=0-41": 42, "bytes 0-9": 10, "": -1, "1-5": -1, "0-": -1, "0-x": -1, "0--2": -1, "41": -1, "-1": -1, "0": -1} {
		got, ok := parseRange(s)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q = %d, %v; want %d", s, got, ok, want)
		}
	}
}

func FuzzLink(f *testing.F) {
	for _, s := range []string{`</v2/x/tags/list?n=2&last=b>; rel="next"`, `<a>; rel=prev, <b?last=c>; rel=next`, `<x?a,b>; t="a,b"; rel="first next"`, "<", "<>", ",,,", `<?n=1>;rel=next`, `<%zz>; rel=next`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		next := nextPage(http.Header{"Link": {s}})
		if _, err := url.ParseQuery(next); err != nil || strings.ContainsAny(next, "<>\"\r\n ") {
			t.Errorf("%q gives %q", s, next)
		}
	})
}

func TestNextPage(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		`</v2/x/tags/list?n=2&last=b>; rel="next"`:               "last=b&n=2",
		`<https://internal.test/secret?last=b&token=t>;rel=next`: "last=b",
		`<a?last=1>; rel=prev, <b?last=2>; rel=next`:             "last=2",
		`<b?last=a,b>; title="x,y"; rel="first next"`:            "last=a%2Cb",
		`<b?last=2>; rel=prev`:                                   "",
		`<b?last=2>; title="next"`:                               "",
		`<b?last=2`:                                              "",
		`b?last=2>; rel=next`:                                    "",
		`garbage`:                                                "",
	} {
		if got := nextPage(http.Header{"Link": {s}}); got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
}

func FuzzErrorBody(f *testing.F) {
	for _, s := range []string{`{"errors":[{"code":"DENIED","message":"no"}]}`, `{"errors":[{"code":1,"message":[]}]}`, `{"errors":null}`, "<html><script>x</script>hi", "\x1b[31m", "\xff\xfe", "{"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		said := words(text)
		if strings.ContainsAny(said, "\r\n\x1b\x00") || !utf8.ValidString(said) || len(said) > 12*maxShown {
			t.Errorf("%q gives %q", text, said)
		}
		for _, code := range codes(text) {
			if !codeExp.MatchString(code) {
				t.Errorf("%q gives code %q", text, code)
			}
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"5", "-1", "99999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", "soon", " 7 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s, time.Unix(0, 0)); d < 0 {
			t.Errorf("%q = %s", s, d)
		}
	})
}
