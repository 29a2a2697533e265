package tests

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// Where pushproxy connects to, whatever DNS, redirects and token servers say.

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// A host that the user is logged in to, and that the configuration does not name, resolves to this machine.
func TestS12ANameThatLeadsToThisMachineIsNotDialled(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	dns := startResolver(t)
	here := someLoopback()
	bell := startDoorbell(t, net.JoinHostPort(here, "443"))
	private := outside(t)
	for name, answers := range map[string][][]netip.Addr{
		"loopback":        {addrs(here)},
		"mapped":          {addrs("::ffff:" + here)},
		"mixed":           {addrs("::1", here, "169.254.169.254")},
		"nat64":           {addrs("64:ff9b::7f00:1", here)},
		"metadata":        {addrs("169.254.169.254", "fd00:ec2::254", "fe80::1")},
		"unspecified":     {addrs("0.0.0.0", "::")},
		"first-elsewhere": {addrs(private), addrs(here)},
	} {
		dns.set(name+".evil.test", answers...)
	}
	hosts := []string{"loopback", "mapped", "mixed", "nat64", "metadata", "unspecified", "first-elsewhere"}
	accounts := map[string]parts.User{}
	for i := range hosts {
		hosts[i] += ".evil.test"
		accounts[hosts[i]] = parts.Alice()
	}
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) {
		dns.asks(t, r)
		writeFile(t, r.config.Credentials.DockerConfig, dockerConfigOf(accounts), 0o600)
	})
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			got := r.api().do(t, "GET", "/v2/"+host+"/acme/app/tags/list", nil)
			if got.StatusCode/100 == 2 || !strings.Contains(string(got.body), host) {
				t.Errorf("answered %v", got)
			}
		})
	}
	t.Cleanup(func() {
		if n := bell.rang(); n > 0 {
			t.Errorf("%d connections were made to %s", n, bell.Addr())
		}
		if len(dns.queries()) < len(hosts) {
			t.Errorf("only %q was asked for, so little was shown", dns.queries())
		}
	})
}

// What an upstream names is dialled only where it is public.
func TestS10S11S12WhatAnUpstreamNamesIsNotDialledHere(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	dns := startResolver(t)
	bell := startDoorbell(t, net.JoinHostPort(someLoopback(), "0"))
	host, _, _ := net.SplitHostPort(bell.Addr().String())
	for _, name := range []string{"auth.evil.test", "registry.evil.test.", "evil.test", "b.github.io", "flip.evil.test"} {
		dns.set(strings.TrimSuffix(name, "."), addrs(host))
	}
	dns.set("metadata.evil.test", addrs("169.254.169.254"))
	for _, c := range []struct{ name, upstream, realm, location string }{
		{"a token server of the same site at a loopback address", "registry.evil.test", "http://auth.evil.test:PORT/token", ""},
		{"a token server of the same site at the metadata address", "registry.evil.test", "http://metadata.evil.test/token", ""},
		{"the registry's own name with a trailing dot", "registry.evil.test", "http://registry.evil.test.:PORT/token", ""},
		{"a neighbour below a public suffix", "a.github.io", "http://b.github.io:PORT/token", ""},
		{"the suffix itself", "registry.evil.test", "http://test:PORT/token", ""},
		{"a name that begins as the registry's", "registry.evil.test", "http://registry.evil.test.example.com:PORT/token", ""},
		{"an address behind a user name", "registry.evil.test", "http://registry.evil.test@" + host + ":PORT/token", ""},
		{"an address in decimal", "registry.evil.test", "http://2130706433:PORT/token", ""},
		{"a mapped address", "registry.evil.test", "http://[::ffff:" + host + "]:PORT/token", ""},
		{"an address with a zone", "registry.evil.test", "http://[fe80::1%25lo]:PORT/token", ""},
		{"a name with an escape", "registry.evil.test", "http://auth%2eevil.test:PORT/token", ""},
		{"a redirect to the same site", "registry.evil.test", "", "http://auth.evil.test:PORT/blob"},
		{"a redirect to a loopback address", "registry.evil.test", "", "http://" + host + ":PORT/blob"},
		{"a redirect that leaves out the scheme", "registry.evil.test", "", "//" + host + ":PORT/blob"},
		{"a redirect to the metadata address", "registry.evil.test", "", "http://metadata.evil.test/latest/meta-data/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fill := strings.NewReplacer("PORT", bell.port())
			hostile := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.realm != "" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="x"`, fill.Replace(c.realm)))
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				w.Header().Set("Location", fill.Replace(c.location))
				w.WriteHeader(http.StatusTemporaryRedirect)
			}))
			t.Cleanup(hostile.Close)
			// Of a name that the configuration spells out, any address is right.
			dns.set(c.upstream, addrs("127.0.0.1"))
			_, port, _ := net.SplitHostPort(hostile.Listener.Addr().String())
			r := startRig(t, "http://"+net.JoinHostPort(c.upstream, port), func(r *rig) { dns.asks(t, r) })
			begin := time.Now()
			got := r.api().do(t, "GET", "/v2/"+killRepo+"/blobs/"+digestOf([]byte("any")), nil)
			if _, message := got.registryError(); got.StatusCode/100 == 2 || !strings.Contains(message, "config") && !strings.Contains(message, upstreamName) {
				t.Errorf("answered %v", got)
			}
			if took := time.Since(begin); took > 40*time.Second {
				t.Errorf("the answer took %s", took)
			}
		})
	}
	t.Cleanup(func() {
		if n := bell.rang(); n > 0 {
			t.Errorf("%d connections were made to %s", n, bell.Addr())
		}
	})
}

func TestS13OnlyConfiguredUpstreamsAreReached(t *testing.T) {
	t.Parallel()
	pushproxyProgram(t, buildRace)
	dns := startResolver(t)
	bell := startDoorbell(t, net.JoinHostPort(someLoopback(), "443"))
	host, _, _ := net.SplitHostPort(bell.Addr().String())
	dns.set("evil.test", addrs(host))
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) { dns.asks(t, r) })
	fastest := time.Minute
	for _, name := range []string{"evil.test/app", "169.254.169.254/latest", host + "/app", "localhost/app", "2130706433/app", "0x7f.1/app", "registry.test.evil.test/app", "evil.test./app"} {
		begin := time.Now()
		got := r.api().do(t, "GET", "/v2/"+name+"/tags/list", nil)
		fastest = min(fastest, time.Since(begin))
		if got.StatusCode != http.StatusNotFound && got.StatusCode != http.StatusBadRequest || got.StatusCode == http.StatusNotFound && got.errorCode() != "NAME_UNKNOWN" {
			t.Errorf("%s is answered %v", name, got)
		}
	}
	for _, path := range []string{"/v2/acme/app/tags/list?ns=evil.test", "/v2/acme/app/tags/list?ns=" + host, "/v2/acme/app/tags/list?ns=registry.test@evil.test", "/v2/acme/app/tags/list?ns=evil.test:443"} {
		if got := r.api().do(t, "GET", path, nil); got.StatusCode != http.StatusNotFound {
			t.Errorf("%s is answered %v", path, got)
		}
	}
	if fastest > time.Second { // nothing is looked up and nobody is dialed
		t.Errorf("the fastest answer about an unknown host took %s", fastest)
	}
	if got := dns.queries(); len(got) > 0 {
		t.Errorf("DNS was asked for %q", got)
	}
	if bell.rang() > 0 {
		t.Error("a host that is not configured was reached")
	}
}

// A layer that names other places to fetch it from is not fetched from there.
func TestS13TheURLsOfALayerAreNotFetched(t *testing.T) {
	t.Parallel()
	p, bell := startTraced(t), startDoorbell(t, "127.0.0.1:0")
	layer := []byte("a foreign layer of " + t.Name())
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":%q,"size":%d,"urls":["http://%s/layer"]}]}`,
		typeManifest, typeEmpty, p.api().pushBlob(t, killRepo, []byte("{}")).Digest, digestOf(layer), len(layer), bell.Addr())
	p.api().do(t, "PUT", "/v2/"+killRepo+"/manifests/foreign", []byte(m), "Content-Type", typeManifest)
	p.api().do(t, "GET", "/v2/"+killRepo+"/blobs/"+digestOf(layer), nil)
	if bell.rang() > 0 {
		t.Error("a layer's urls were followed")
	}
}

func TestS13AnUpstreamThatIsPushproxyItselfIsNoticedAtTheFirstHop(t *testing.T) {
	t.Parallel()
	r := startRig(t, "http://127.0.0.1:1", func(r *rig) {
		r.config.Upstreams[0].URL = fmt.Sprintf("http://127.0.0.1:%d", r.Port)
		r.config.Log = &parts.Log{Level: "debug"}
	})
	got := r.api().do(t, "GET", "/v2/"+killRepo+"/tags/list", nil)
	if got.StatusCode/100 == 2 || !strings.Contains(string(got.body), "itself") {
		t.Errorf("answered %v", got)
	}
	hops := 0
	for line := range strings.Lines(readFile(t, r.config.DataDir+"/audit.log")) {
		if strings.Contains(line, `"status":508`) {
			hops++
		}
	}
	if hops != 1 {
		t.Errorf("%d requests came back, want one", hops)
	}
}
