package upstream

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"pushproxy/oci"
)

// maxHops is how many redirects of one request are followed.
const maxHops = 5

// redirects reports whether resp sends the client elsewhere.
func redirects(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}

// follow returns where a redirect of k at u may lead (trust.md S11). GET and
// HEAD are followed, never from TLS to clear text. A write is repeated only
// within its origin and only where the status keeps the method; its body goes
// nowhere else. Nothing of k holds a credential, so nothing needs stripping: the
// injector adds them at the configured origins and nowhere else.
func follow(k call, u *url.URL, resp *http.Response, hops int) (*url.URL, error) {
	next, err := u.Parse(resp.Header.Get("Location"))
	if err != nil {
		// The parser's error would print the query, which may be a signature.
		return nil, refused(u, "with a Location that is no URL")
	}
	next.Fragment, next.RawFragment = "", ""
	switch {
	case hops >= maxHops:
		return nil, refused(u, "more than five times")
	case next.Scheme != "http" && next.Scheme != "https", next.Host == "", next.User != nil:
		return nil, refused(u, "to something that is not a plain http or https address")
	case u.Scheme == "https" && next.Scheme != "https":
		return nil, refused(u, "from TLS to clear text at "+plain(next.Host))
	case k.method == http.MethodGet || k.method == http.MethodHead:
		return next, nil
	case resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusPermanentRedirect:
		return nil, refused(u, "a "+k.method+" by "+status(resp.StatusCode)+", which would not repeat it")
	case !sameOrigin(u, next):
		return nil, refused(u, "a "+k.method+" to "+plain(next.Host)+"; what is pushed is sent to the configured upstream only")
	}
	return next, nil
}

func refused(u *url.URL, how string) error {
	return oci.ErrUpstream.With("%s redirected %s; this is not followed: check the url of this upstream in the config", u.Host, how).
		Because(errVerdict)
}

// sameOrigin reports whether a and b have the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && authority(a) == authority(b) }

// authority returns u's host and port, in lower case and with the port that its
// scheme implies.
func authority(u *url.URL) string {
	return net.JoinHostPort(strings.ToLower(u.Hostname()), cmp.Or(u.Port(), defaultPort(u.Scheme)))
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// sameHost reports whether a and b name one host and port, or one host and the
// port that their schemes imply: what a registry behind a TLS proxy writes.
func sameHost(a, b *url.URL) bool {
	if !strings.EqualFold(a.Hostname(), b.Hostname()) {
		return false
	}
	portA, portB := cmp.Or(a.Port(), defaultPort(a.Scheme)), cmp.Or(b.Port(), defaultPort(b.Scheme))
	return portA == portB || portA == defaultPort(a.Scheme) && portB == defaultPort(b.Scheme)
}

var errLocation = errors.New("no usable upload location")

// locate returns the upload session that a Location names (protocol.md C12,
// rule 4), resolved against from, the request that it answers. It may be
// absolute, path-absolute or relative, carry state in its query, and name
// http behind TLS: at the same host the request's own scheme stays. Another
// host is used only when it is one of URLs or UploadHosts.
func (c *Client) locate(from *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, oci.ErrUpstream.With("%s opened an upload but named no Location for it; try again", c.Host).Because(errLocation)
	}
	u, err := from.Parse(location)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, oci.ErrUpstream.With("%s opened an upload at a Location that is no URL", c.Host).Because(errLocation)
	}
	u.Fragment, u.RawFragment = "", ""
	if sameHost(u, from) {
		u.Scheme, u.Host = from.Scheme, from.Host
		return u, nil
	}
	if from.Scheme == "https" && u.Scheme != "https" {
		return nil, oci.ErrUpstream.With("%s opened an upload in clear text at %s; this is not followed", c.Host, plain(u.Host)).Because(errLocation)
	}
	for _, base := range c.URLs {
		if sameOrigin(base, u) {
			return u, nil
		}
	}
	for _, host := range c.UploadHosts {
		if strings.EqualFold(host, u.Host) || strings.EqualFold(host, u.Hostname()) || strings.EqualFold(host, authority(u)) {
			return u, nil
		}
	}
	return nil, oci.ErrUpstream.With("%s opened an upload at another host, %s; list it under upload_hosts of this upstream in the config if that is right", c.Host, plain(u.Host)).
		Because(errLocation)
}
