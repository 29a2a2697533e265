package proxy

import (
	"net/http"
	"strings"
	"testing"
)

func TestS6S7S31TheGuardLetsRegistryClientsInAndNobodyElse(t *testing.T) {
	for _, test := range []struct {
		name    string
		line    string // request line, without the protocol
		headers []string
		status  string
	}{
		{"localhost", "GET /v2/", []string{"Host: localhost:5001"}, "200"},
		{"the IPv4 loopback address", "GET /v2/", []string{"Host: 127.0.0.1:5001"}, "200"},
		{"the IPv6 loopback address", "GET /v2/", []string{"Host: [::1]:5001"}, "200"},
		{"upper case", "GET /v2/", []string{"Host: LocalHost:5001"}, "200"},
		{"a typed address in a browser", "GET /v2/", []string{"Host: localhost:5001", "Sec-Fetch-Site: none"}, "200"},
		{"a rebound name", "GET /v2/", []string{"Host: evil.test:5001"}, "421"},
		{"a name that begins with ours", "GET /v2/", []string{"Host: localhost.evil.test:5001"}, "421"},
		{"a name that ends with ours", "GET /v2/", []string{"Host: evil.localhost:5001"}, "421"},
		{"another port", "GET /v2/", []string{"Host: localhost:5002"}, "421"},
		{"no port", "GET /v2/", []string{"Host: localhost"}, "421"},
		{"a trailing dot", "GET /v2/", []string{"Host: localhost.:5001"}, "421"},
		{"userinfo", "GET /v2/", []string{"Host: user@localhost:5001"}, "400 421"},
		{"a mapped address", "GET /v2/", []string{"Host: [::ffff:127.0.0.1]:5001"}, "421"},
		{"a mapped address in hexadecimal", "GET /v2/", []string{"Host: [::ffff:7f00:1]:5001"}, "421"},
		{"the unspecified address", "GET /v2/", []string{"Host: 0.0.0.0:5001"}, "421"},
		{"another loopback address", "GET /v2/", []string{"Host: 127.0.0.2:5001"}, "421"},
		{"an address as one number", "GET /v2/", []string{"Host: 2130706433:5001"}, "421"},
		{"an empty host", "GET /v2/", []string{"Host:"}, "421"},
		{"two hosts", "GET /v2/", []string{"Host: localhost:5001", "Host: evil.test"}, "400"},
		{"no host", "GET /v2/", nil, "400"},
		{"a whole URL elsewhere", "GET http://evil.test/v2/", []string{"Host: localhost:5001"}, "421"},
		{"a whole URL here", "GET http://localhost:5001/v2/", []string{"Host: localhost:5001"}, "421"},
		{"a whole URL with userinfo", "GET http://user@localhost:5001/v2/", []string{"Host: localhost:5001"}, "421"},
		{"a tunnel", "CONNECT localhost:5001", []string{"Host: localhost:5001"}, "421"},
		{"a form on a page", "POST " + app + "/blobs/uploads/", []string{"Host: localhost:5001", "Origin: https://evil.test"}, "403"},
		{"a page without an origin", "POST " + app + "/blobs/uploads/", []string{"Host: localhost:5001", "Origin: null"}, "403"},
		{"an empty origin", "GET /v2/", []string{"Host: localhost:5001", "Origin:"}, "403"},
		{"our own origin", "GET /v2/", []string{"Host: localhost:5001", "Origin: http://localhost:5001"}, "403"},
		{"an image on a page", "GET /v2/", []string{"Host: localhost:5001", "Sec-Fetch-Site: cross-site"}, "403"},
		{"a page of another port", "GET /v2/", []string{"Host: localhost:5001", "Sec-Fetch-Site: same-site"}, "403"},
		{"two sites", "GET /v2/", []string{"Host: localhost:5001", "Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"}, "403"},
		{"a preflight", "OPTIONS /v2/", []string{"Host: localhost:5001", "Origin: https://evil.test", "Access-Control-Request-Method: PUT"}, "403"},
		{"pushproxy itself", "GET /v2/", []string{"Host: localhost:5001", "Pushproxy-Hop: 1"}, "508"},
		{"paths outside the API", "GET /metrics", []string{"Host: localhost:5001"}, "404"},
		{"the debugger", "GET /debug/pprof/", []string{"Host: localhost:5001"}, "404"},
		{"registry version 1", "GET /v1/_ping", []string{"Host: localhost:5001"}, "404"},
		{"paths that climb", "GET /v2/../v2/a/manifests/b", []string{"Host: localhost:5001"}, "400"},
		{"two lengths", "PUT " + app + "/manifests/v1", []string{"Host: localhost:5001", "Content-Length: 3", "Content-Length: 4"}, "400"},
		{"a length and chunks", "POST /v2/", []string{"Host: localhost:5001", "Content-Length: 3", "Transfer-Encoding: chunked", "Connection: close"}, "400 405"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			got := r.raw(test.line + " HTTP/1.1\r\n" + strings.Join(append(test.headers, "", ""), "\r\n"))
			if _, rest, _ := strings.Cut(got, " "); !strings.Contains(test.status, rest[:3]) {
				t.Errorf("answered %q, want %s", got, test.status)
			}
			if seen := r.up.Requests(); len(seen) > 0 {
				t.Errorf("the upstream saw %q", seen)
			}
		})
	}
}

func TestHTTP10IsServedUnderTheSameRules(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for head, want := range map[string]string{
		"":                             "421",
		"Host: evil.test\r\n":          "421",
		"Host: localhost:5001\r\n":     "200",
		"Host: localhost:5001, evil\n": "421",
	} {
		if got := r.raw("GET /v2/ HTTP/1.0\r\n" + head + "\r\n"); !strings.Contains(got, want) && !strings.Contains(got, "400") {
			t.Errorf("%q: answered %q, want %s", head, got, want)
		}
	}
}

func TestRefusalsOfTheGuardSayWhatToDo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+doorHost+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.test:5001"
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for name := range resp.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("the answer has %s", name)
		}
	}
	code, message := r.code(r.want(http.StatusForbidden, "GET", "/v2/", nil, "Origin: https://evil.test"))
	if code != "DENIED" || !strings.Contains(message, "use a registry client") {
		t.Errorf("%s %s", code, message)
	}
	code, message = r.code(r.want(http.StatusLoopDetected, "GET", app+"/tags/list", nil, HopHeader+": 1"))
	if code != "DENIED" || !strings.Contains(message, "correct its url") {
		t.Errorf("%s %s", code, message)
	}
}

func TestS6AcceptedHostsFollowFromTheListeners(t *testing.T) {
	for _, test := range []struct {
		name, listen string
		accepted     []string
		refused      []string
	}{
		{"a loopback address", "127.0.0.1:5001", []string{"localhost:5001", "127.0.0.1:5001", "[::1]:5001"}, []string{"localhost", "localhost:80"}},
		{"another loopback address", "127.0.0.2:5001", []string{"127.0.0.2:5001", "localhost:5001"}, []string{"127.0.0.3:5001"}},
		{"every address", "0.0.0.0:5001", []string{"localhost:5001", "127.0.0.1:5001"}, []string{"0.0.0.0:5001"}},
		{"every address of both families", "[::]:5001", []string{"[::1]:5001"}, []string{"[::]:5001"}},
		{"no address", ":5001", []string{"localhost:5001"}, []string{":5001"}},
		{"another name", "Push.Test:5001", []string{"push.test:5001"}, []string{"localhost:5001"}},
		{"the port that clients leave out", "127.0.0.1:80", []string{"localhost", "localhost:80", "127.0.0.1", "[::1]"}, []string{"localhost:5001"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g, err := NewGuard([]string{test.listen})
			if err != nil {
				t.Fatal(err)
			}
			for _, host := range test.accepted {
				if !g.Hosts[host] {
					t.Errorf("%s is refused", host)
				}
			}
			for _, host := range test.refused {
				if g.Hosts[host] {
					t.Errorf("%s is accepted", host)
				}
			}
		})
	}
	if _, err := NewGuard([]string{"localhost"}); err == nil {
		t.Error("an address without a port is taken")
	}
}

func FuzzGuard(f *testing.F) {
	for _, host := range []string{"localhost:5001", "evil.test:5001", "LOCALHOST:5001", "[::ffff:7f00:1]:5001", "localhost:5001.", "a@localhost:5001", ""} {
		f.Add(host, "", "")
	}
	f.Add("localhost:5001", "null", "same-origin")
	g, err := NewGuard([]string{"127.0.0.1:5001"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, host, origin, site string) {
		r, err := http.NewRequest("GET", "/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if site != "" {
			r.Header.Set("Sec-Fetch-Site", site)
		}
		ours := strings.EqualFold(host, "localhost:5001") || host == "127.0.0.1:5001" || host == "[::1]:5001"
		fine := ours && origin == "" && (site == "" || site == "none" || site == "same-origin")
		if got := g.check(r) == nil; got != fine {
			t.Errorf("Host %q, Origin %q, Sec-Fetch-Site %q: accepted %t", host, origin, site, got)
		}
	})
}
