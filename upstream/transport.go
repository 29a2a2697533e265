package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// TransportOptions says how to reach one upstream. The zero value reaches
// registries on the public Internet.
type TransportOptions struct {
	// Trust says which addresses an authority, host:port in lower case with the
	// port always there, may resolve to. Nil means TrustPublic for all.
	Trust func(authority string) Trust
	// CAs are trusted beside the system's roots.
	CAs []*x509.Certificate
	// Proxy is an HTTP proxy to go through; nil means none, whatever the
	// environment says. Names are then resolved by the proxy, and only targets
	// that are IP addresses can be judged here.
	Proxy *url.URL
}

// NewTransport returns a transport for Client.HTTP, below the credential
// injector: TLS 1.2 or newer and always verified, no compression, no
// environment, addresses judged by Trust. Time limits are Client's, per request,
// but for what cannot be reached at all.
func NewTransport(o TransportOptions) *Transport {
	t := &Transport{paths: map[string]*path{}}
	t.dialer = &dialer{Dialer: net.Dialer{Timeout: dialFor, KeepAlive: 30 * time.Second}, trust: o.trust}
	t.via = func(r *http.Request) string {
		if o.Proxy != nil {
			return authority(o.Proxy)
		}
		return authority(r.URL)
	}
	t.Transport = &http.Transport{
		Proxy:       o.proxy,
		DialContext: t.dial,
		// A connection whose network is gone is not kept for the requests to come.
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.roots()},
		TLSHandshakeTimeout:    15 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
	}
	return t
}

// trust is Trust with the proxy's own address allowed: the config names it.
func (o TransportOptions) trust(host string) Trust {
	switch {
	case o.Proxy != nil && host == authority(o.Proxy):
		return TrustNamed
	case o.Trust == nil:
		return TrustPublic
	}
	return o.Trust(host)
}

func (o TransportOptions) proxy(req *http.Request) (*url.URL, error) {
	if o.Proxy == nil {
		return nil, nil
	}
	target := authority(req.URL)
	if addr, err := netip.ParseAddr(strings.Trim(req.URL.Hostname(), "[]")); err == nil && !o.trust(target).allows(addr) {
		return nil, refusedAddress(target, addr.String())
	}
	return o.Proxy, nil
}

// roots returns nil, the system's own, unless there are more.
func (o TransportOptions) roots() *x509.CertPool {
	if len(o.CAs) == 0 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		// Fewer roots only make more servers unknown.
		pool = x509.NewCertPool()
	}
	for _, ca := range o.CAs {
		pool.AddCert(ca)
	}
	return pool
}

// ParseCAs reads PEM certificates for TransportOptions.CAs. It returns an error
// when there is none, or when one does not parse.
func ParseCAs(text []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(list)+1, err)
		}
		list = append(list, ca)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no PEM certificate in it")
	}
	return list, nil
}
