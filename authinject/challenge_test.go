package authinject

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestChallengesAreReadAsRegistriesWriteThem(t *testing.T) {
	t.Parallel()
	const bearer = "bearer https://a.test/token s"
	for name, c := range map[string]struct {
		headers []string
		want    string // scheme realm service
	}{
		"the usual":                           {[]string{`Bearer realm="https://a.test/token",service="s",scope="repository:a/b:pull,push"`}, bearer},
		"lower case and spaces":               {[]string{`bearer  realm = "https://a.test/token" , service = "s"`}, bearer},
		"upper case":                          {[]string{`BEARER REALM="https://a.test/token",SERVICE="s"`}, bearer},
		"unquoted":                            {[]string{`Bearer realm=https://a.test/token,service=s`}, bearer},
		"an unquoted scope with a comma":      {[]string{`Bearer realm=https://a.test/token,scope=repository:a/b:pull,push,service=s`}, bearer},
		"escapes":                             {[]string{`Bearer realm="https://a.test\/token",service="\s"`}, bearer},
		"an unterminated value":               {[]string{`Bearer service="s",realm="https://a.test/token`}, bearer},
		"Basic first, in one header":          {[]string{`Basic realm="r", Bearer realm="https://a.test/token",service="s"`}, bearer},
		"Bearer first, in one header":         {[]string{`Bearer realm="https://a.test/token",service="s", Basic realm="r"`}, bearer},
		"in two headers":                      {[]string{`Basic realm="r"`, `Bearer realm="https://a.test/token",service="s"`}, bearer},
		"beside Negotiate":                    {[]string{`Negotiate, Bearer realm="https://a.test/token",service="s"`}, bearer},
		"beside a token68":                    {[]string{`NTLM TlRMTVNTUAAB==, Bearer realm="https://a.test/token",service="s"`}, bearer},
		"beside an unknown scheme":            {[]string{`Hoba max-age="180", Bearer realm="https://a.test/token",service="s"`}, bearer},
		"the first of a repeated parameter":   {[]string{`Bearer realm="https://a.test/token",service="s",realm="https://evil.test/"`}, bearer},
		"no service":                          {[]string{`Bearer realm="https://a.test/token"`}, "bearer https://a.test/token "},
		"Bearer without realm yields Basic":   {[]string{`Bearer service="s", Basic realm="r"`}, "basic r "},
		"Bearer without realm alone":          {[]string{`Bearer service="s"`}, "bearer  s"},
		"Bearer bare":                         {[]string{`Bearer`}, "bearer  "},
		"Basic bare":                          {[]string{`Basic`}, "basic  "},
		"Basic with a charset":                {[]string{`Basic realm="r", charset="UTF-8"`}, "basic r "},
		"nothing":                             {nil, ""},
		"an unknown scheme":                   {[]string{`Digest realm="r",nonce="n"`}, ""},
		"rubbish":                             {[]string{`=",,="`, `"`, `= = =`}, ""},
		"parameters before any scheme":        {[]string{`realm="https://a.test/token"`}, ""},
		"more than 16 KiB is not looked at":   {[]string{strings.Repeat("x", maxChallengeBytes), `Basic realm="r"`}, ""},
		"a parameter does not cross a header": {[]string{`Bearer`, `realm="https://evil.test/"`}, "bearer  "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if best, ok := choose(parseChallenges(http.Header{"Www-Authenticate": c.headers})); ok {
				got = fmt.Sprintf("%s %s %s", best.scheme, best.params["realm"], best.params["service"])
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://a.test/token",service="s",scope="repository:a/b:pull,push"`,
		`Basic realm="r", Bearer realm=x,service`, `NTLM TlRM==, Negotiate`, `a="\`, `Bearer realm="`, `=,"`,
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		all := parseChallenges(http.Header{"Www-Authenticate": {a, b}})
		if len(all) > maxChallenges {
			t.Errorf("%d challenges, want at most %d", len(all), maxChallenges)
		}
		for _, c := range all {
			if c.scheme != strings.ToLower(c.scheme) || c.scheme == "" || len(c.params) > maxParams {
				t.Errorf("bad challenge %v", c)
			}
		}
		if best, ok := choose(all); ok && best.scheme != "basic" && best.scheme != "bearer" {
			t.Errorf("chose %q", best.scheme)
		}
		// A well-formed challenge after anything else that is a header of its
		// own is always found.
		if len(a) < 1000 {
			good := `Bearer realm="https://a.test/token"`
			best, ok := choose(parseChallenges(http.Header{"Www-Authenticate": {a, good}}))
			if !ok || best.scheme != "bearer" || best.params["realm"] == "" {
				t.Errorf("%q hides the challenge in the next header", a)
			}
		}
	})
}

// A server can make a proxy read, and keep, only so much of what it demands.
func TestS32AFloodOfChallengesIsCut(t *testing.T) {
	t.Parallel()
	var params strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&params, ",p%d=x", i)
	}
	for name, header := range map[string]http.Header{
		"many in one":       {"Www-Authenticate": {strings.Repeat("Basic realm=x,", 1000)}},
		"many headers":      {"Www-Authenticate": slices.Repeat([]string{"Basic realm=x"}, 1000)},
		"many parameters":   {"Www-Authenticate": {"Bearer realm=x" + params.String()}},
		"more than is read": {"Www-Authenticate": {strings.Repeat("x", maxChallengeBytes), "Basic realm=x"}},
	} {
		found := parseChallenges(header)
		if len(found) > maxChallenges {
			t.Errorf("%s: %d challenges are kept", name, len(found))
		}
		for _, c := range found {
			if len(c.params) > maxParams || name == "more than is read" && c.scheme == "basic" {
				t.Errorf("%s: %d parameters of %q are kept", name, len(c.params), c.scheme[:5])
			}
		}
	}
}
