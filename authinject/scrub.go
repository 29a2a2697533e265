package authinject

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxScrubbed is how much of a refusal's body is passed on, in bytes.
	maxScrubbed = 64 << 10
	// minScrubbed is the length from which a secret is looked for: shorter ones
	// are in any text.
	minScrubbed = 4
)

// scrub takes the credential that a request carried out of the server's refusal:
// its text is shown to people, and some servers repeat what they were sent.
func scrub(resp *http.Response, auth authorization) {
	if resp.StatusCode < http.StatusBadRequest || auth.header == "" {
		return
	}
	replace := replacer(auth)
	for _, values := range resp.Header {
		for i := range values {
			values[i] = replace.Replace(values[i])
		}
	}
	if resp.Body == nil || resp.Request != nil && resp.Request.Method == http.MethodHead {
		return
	}
	// What cannot be read is a refusal with less text.
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxScrubbed))
	_ = resp.Body.Close()
	clean := []byte(replace.Replace(string(text)))
	resp.Body = io.NopCloser(bytes.NewReader(clean))
	resp.ContentLength = int64(len(clean))
	resp.Header.Del("Content-Length")
}

// replacer replaces what the request carried, as it is and as it is usually
// encoded.
func replacer(auth authorization) *strings.Replacer {
	secrets := []string{auth.header.Reveal(), auth.cred.Password.Reveal(), auth.cred.Identity.Reveal(), auth.cred.Bearer.Reveal()}
	if _, rest, ok := strings.Cut(auth.header.Reveal(), " "); ok {
		secrets = append(secrets, rest)
	}
	var pairs []string
	for _, s := range secrets {
		if len(s) < minScrubbed {
			continue
		}
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s))} {
			pairs = append(pairs, form, redacted)
		}
	}
	return strings.NewReplacer(pairs...)
}
