package upstream

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pushproxy/oci"
)

func TestS12WhichAddressesMayBeDialled(t *testing.T) {
	t.Parallel()
	const none, named, private, public = -1, TrustNamed, TrustPrivate, TrustPublic
	// The least trust that reaches the address; more trust reaches it too.
	tests := map[string]Trust{
		"93.184.215.14": public, "1.1.1.1": public, "2606:4700::1111": public, "2a00:1450::1": public,
		"10.0.0.1": private, "172.16.0.1": private, "172.31.255.255": private, "192.168.1.1": private, "100.64.0.1": private,
		"fd12::1": private, "fc00::1": private, "172.32.0.1": public, "11.0.0.1": public,
		"127.0.0.1": named, "127.255.0.1": named, "::1": named, "169.254.1.1": named, "169.254.169.254": named, "fe80::1": named, "fe80::1%eth0": named,
		"fd00:ec2::254": named, "100.100.100.200": named, "192.0.0.192": named, "198.18.0.1": named, "192.0.2.1": named, "203.0.113.9": named,
		"2001:db8::1": named, "2001::1": named, "240.0.0.1": named, "0.1.2.3": named, "fec0::1": named, "64:ff9b:1::1": named, "::7f00:1": named,
		"::ffff:127.0.0.1": named, "::ffff:10.0.0.1": private, "::ffff:1.1.1.1": public,
		"64:ff9b::7f00:1": named, "64:ff9b::a9fe:a9fe": named, "64:ff9b::a00:1": private, "64:ff9b::101:101": public,
		"2002:7f00:1::": named, "2002:a00:1::1": private, "2002:101:101::1": public,
		"0.0.0.0": none, "::": none, "224.0.0.1": none, "ff02::1": none, "255.255.255.255": none, "::ffff:0.0.0.0": none, "64:ff9b::": none,
	}
	for address, least := range tests {
		for _, trust := range []Trust{public, private, named} {
			if got, want := trust.allows(netip.MustParseAddr(address)), least != none && trust >= least; got != want {
				t.Errorf("%s under trust %d: %v, want %v", address, trust, got, want)
			}
		}
	}
	if TrustNamed.allows(netip.Addr{}) {
		t.Error("no address is allowed")
	}
}

func TestS12TheDialerJudgesTheResolvedAddress(t *testing.T) {
	t.Parallel()
	accepted := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { accepted++ }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"} {
		for _, trust := range []Trust{TrustPublic, TrustPrivate} {
			transport := NewTransport(TransportOptions{Trust: func(string) Trust { return trust }})
			c := &Client{Host: "evil.test", URLs: []*url.URL{mustURL("http://" + host + ":" + port)}, HTTP: &http.Client{Transport: transport}}
			err := c.Ping(t.Context())
			if !errors.Is(err, oci.ErrDenied) {
				t.Fatalf("%s: %v, want ErrDenied", host, err)
			}
			message := oci.AsError(err).Message
			for _, want := range []string{strings.Trim(host, "[]"), port, "config"} {
				if !strings.Contains(message, want) {
					t.Errorf("%q does not name %s", message, want)
				}
			}
		}
	}
	if accepted != 0 {
		t.Fatalf("%d connections", accepted)
	}
	var asked []string
	transport := NewTransport(TransportOptions{Trust: func(authority string) Trust { asked = append(asked, authority); return TrustNamed }})
	c := &Client{Host: "named.test", URLs: []*url.URL{mustURL("http://LOCALHOST:" + port)}, HTTP: &http.Client{Transport: transport}}
	noError(t, c.Ping(t.Context()))
	if accepted != 1 || len(asked) != 1 || asked[0] != "localhost:"+port {
		t.Errorf("%d connections, asked about %v", accepted, asked)
	}
}

func TestS12ARedirectToThisMachineIsNotFollowed(t *testing.T) {
	t.Parallel()
	reached := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer inside.Close()
	outside := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusFound))
	defer outside.Close()
	transport := NewTransport(TransportOptions{Trust: func(authority string) Trust {
		if authority == outside.Listener.Addr().String() {
			return TrustNamed
		}
		return TrustPublic
	}})
	c := &Client{Host: "outside.test", URLs: []*url.URL{mustURL(outside.URL)}, HTTP: &http.Client{Transport: transport}}
	if err := c.Ping(t.Context()); !errors.Is(err, oci.ErrDenied) || reached {
		t.Errorf("reached %v, %v; want ErrDenied", reached, err)
	}
}

func TestS12TheEnvironmentsProxyIsNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	req := httptest.NewRequest("GET", "https://registry.test/v2/", nil)
	if proxy, err := NewTransport(TransportOptions{}).Proxy(req); proxy != nil || err != nil {
		t.Errorf("proxy %v, %v; want none", proxy, err)
	}
	o := TransportOptions{Proxy: mustURL("http://127.0.0.1:3128")}
	transport := NewTransport(o)
	if proxy, err := transport.Proxy(req); err != nil || proxy.String() != "http://127.0.0.1:3128" {
		t.Errorf("proxy %v, %v; want the configured one", proxy, err)
	}
	for _, target := range []string{"http://169.254.169.254/", "http://[::1]:80/", "http://127.0.0.1/"} {
		if _, err := transport.Proxy(httptest.NewRequest("GET", target, nil)); !errors.Is(err, oci.ErrDenied) {
			t.Errorf("%s through the proxy: %v, want ErrDenied", target, err)
		}
	}
	if o.trust("127.0.0.1:3128") != TrustNamed || o.trust("registry.test:443") != TrustPublic {
		t.Error("the proxy's own address must be allowed, and nothing else")
	}
}

func TestS18TLSIsAlwaysVerified(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	everywhere := func(string) Trust { return TrustNamed }
	client := func(o TransportOptions) *Client {
		return &Client{Host: "tls.test", URLs: []*url.URL{mustURL(server.URL)}, HTTP: &http.Client{Transport: NewTransport(o)}, Attempts: 1}
	}
	if err := client(TransportOptions{Trust: everywhere}).Ping(t.Context()); !errors.Is(err, oci.ErrUpstream) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v, want ErrUpstream that says so", err)
	}
	c := client(TransportOptions{Trust: everywhere, CAs: []*x509.Certificate{server.Certificate()}})
	noError(t, c.Ping(context.Background()))
}

func TestParseCAs(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if list, err := ParseCAs(append([]byte("# two\n"), append(text, text...)...)); err != nil || len(list) != 2 {
		t.Errorf("two certificates: %d, %v", len(list), err)
	}
	for _, bad := range []string{"", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ParseCAs([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestS12AClientWithoutATransportReachesThePublicInternetOnly(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was reached") }))
	defer server.Close()
	for name, hc := range map[string]*http.Client{"without a client": nil, "with an empty one": {}} {
		c := &Client{Host: "a.test", URLs: []*url.URL{mustURL(server.URL)}, HTTP: hc}
		if err := c.Ping(t.Context()); !errors.Is(err, oci.ErrDenied) {
			t.Errorf("%s: %v, want ErrDenied", name, err)
		}
	}
}

func TestS12ThroughAProxyAddressesAreJudgedHere(t *testing.T) {
	t.Parallel()
	proxy := mustURL("http://proxy.corp:3128")
	o := TransportOptions{Proxy: proxy, Trust: func(authority string) Trust {
		if authority == "10.0.0.7:443" {
			return TrustNamed
		}
		return TrustPublic
	}}
	for address, want := range map[string]bool{
		"https://registry.test/": true, "https://1.1.1.1/": true, "https://10.0.0.7/": true, "https://10.0.0.8/": false,
		"https://127.0.0.1/": false, "https://[::1]/": false, "https://[2606:4700::1111]/": true, "http://169.254.169.254/": false,
	} {
		got, err := o.proxy(&http.Request{URL: mustURL(address)})
		if want && (err != nil || got != proxy) || !want && (!errors.Is(err, oci.ErrDenied) || got != nil) {
			t.Errorf("%s: %v, %v; want it sent %t", address, got, err, want)
		}
	}
	if got, err := (TransportOptions{}).proxy(&http.Request{URL: mustURL("https://10.0.0.8/")}); got != nil || err != nil {
		t.Errorf("without a proxy: %v, %v", got, err)
	}
	tr := NewTransport(o)
	if via := tr.via(&http.Request{URL: mustURL("https://registry.test/")}); via != "proxy.corp:3128" {
		t.Errorf("the way to a registry leads to %s", via)
	}
	if via := NewTransport(TransportOptions{}).via(&http.Request{URL: mustURL("https://Registry.test/")}); via != "registry.test:443" {
		t.Errorf("without a proxy it leads to %s", via)
	}
}

func TestOnlyCertificatesAreReadAsSuch(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("not a certificate")})
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if list, err := ParseCAs(append(key, text...)); err != nil || len(list) != 1 {
		t.Errorf("behind a key: %d, %v", len(list), err)
	}
	if _, err := ParseCAs(key); err == nil {
		t.Error("a key alone is no error")
	}
}

func TestWhatCannotBeReachedIsSaidWithoutSendingAnything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := NewTransport(TransportOptions{})
		p := tr.path("a.test:443")
		p.cut, p.back = &cutOff{err: errors.New("no way")}, make(chan struct{})
		body := &ender{}
		r, err := http.NewRequestWithContext(t.Context(), "PUT", "https://a.test/", body)
		noError(t, err)
		began := time.Now()
		if _, err := tr.RoundTrip(r); !isCutOff(err) || !body.over || time.Since(began) != admitFor {
			t.Errorf("%v after %s, body closed %v", err, time.Since(began), body.over)
		}
		r.Body = nil
		if _, err := tr.RoundTrip(r); !isCutOff(err) {
			t.Errorf("without a body: %v", err)
		}
		for i := range 3 * maxPaths {
			tr.path("h" + strconv.Itoa(i) + ":443")
			if len(tr.paths) > maxPaths {
				t.Fatalf("%d ways are remembered", len(tr.paths))
			}
		}
		if tr.path("a.test:443") != p {
			t.Error("that there is no way was forgotten")
		}
	})
}
