package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// maxShown is how much of an upstream's own words a message shows, in bytes.
const maxShown = 256

var (
	markup  = regexp.MustCompile(`(?is)<(script|style|head)\b.*?</(script|style|head)>|<[^>]*>`)
	codeExp = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
)

// fail turns an answer that is not the wanted one into an error for people.
// unknown is what a 404 means here.
func (c *Client) fail(ctx context.Context, k call, a *answer, unknown *oci.Error) error {
	said, hint := words(a.text), c.hint(a.Status)
	switch {
	case (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden) && c.foreign(a):
		return oci.ErrUpstream.With("%s could not %s: %s, where it keeps its content, answered %s; try again", c.Host, k.what, plain(a.from.Host), status(a.Status))
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		return c.denied(ctx, k, a)
	case a.Status == http.StatusNotFound:
		if slices.Contains(codes(a.text), oci.ErrNameUnknown.Code) {
			unknown = oci.ErrNameUnknown
		}
		if unknown.Code == oci.ErrNameUnknown.Code {
			return unknown.With("%s has no repository %s%s; create it there first, or check its name%s", c.Host, k.repo.Name, said, hint)
		}
		return unknown.With("%s could not %s: not found there%s%s", c.Host, k.what, said, hint)
	case a.Status == http.StatusTooManyRequests:
		e := oci.ErrTooManyRequests.With("%s limits how often it may be asked: it refused to %s%s; wait and try again%s", c.Host, k.what, said, hint)
		e.After = retryAfter(a.Header.Get("Retry-After"), time.Now())
		return e
	case a.Status/100 == 4:
		code := oci.ErrUnsupported.Code
		if own := codes(a.text); len(own) > 0 {
			code = own[0]
		} else if a.Status == http.StatusRequestEntityTooLarge {
			code = oci.ErrSizeInvalid.Code
		}
		return &oci.Error{Status: a.Status, Code: code, Message: fmt.Sprintf("%s refused to %s (%s)%s%s", c.Host, k.what, status(a.Status), said, hint)}
	case a.Status/100 == 3:
		return oci.ErrUpstream.With("%s answered %s when asked to %s, which is not followed; check the url of this upstream in the config", c.Host, status(a.Status), k.what)
	case a.Status/100 == 2:
		return oci.ErrUpstream.With("%s answered %s when asked to %s, which does not confirm it; try again", c.Host, status(a.Status), k.what)
	}
	e := oci.ErrUpstream.With("%s failed to %s (%s)%s; try again%s", c.Host, k.what, status(a.Status), said, hint)
	e.After = retryAfter(a.Header.Get("Retry-After"), time.Now())
	return e
}

// foreign reports whether the answer came from another origin, where no credential
// goes: a signature that ran out there says nothing about the user's.
func (c *Client) foreign(a *answer) bool {
	return !slices.ContainsFunc(c.URLs, func(base *url.URL) bool { return sameOrigin(base, a.from) })
}

// denied is the error for 401 and 403: what was refused, with whose credential,
// and what to do.
func (c *Client) denied(ctx context.Context, k call, a *answer) error {
	with := ""
	if c.Describe != nil {
		if source := c.Describe(ctx, k.repo); source != "" {
			with = ", using " + plain(source)
		}
	}
	return oci.ErrDenied.With("%s refused to %s (%s%s)%s; check that this account may do so, or run `docker login %s` with one that may, and try again%s",
		c.Host, k.what, status(a.Status), with, words(a.text), c.Host, c.hint(a.Status))
}

// unreachable wraps an error of the transport for people. Errors that are for
// people already pass as they are.
func (c *Client) unreachable(k call, err error) error {
	if err == nil {
		return nil
	}
	var e *oci.Error
	if errors.As(err, &e) {
		return err
	}
	if untrusted(err) {
		return oci.ErrUpstream.With("%s could not be trusted to %s: %s; if its certificate is signed by a CA of your own, name that in this upstream's ca_file", c.Host, k.what, plain(err.Error())).
			Because(err)
	}
	return oci.ErrUpstream.With("%s could not be reached to %s: %s; check the network and this upstream's url, and try again", c.Host, k.what, plain(err.Error())).
		Because(unanswered{err})
}

var errUnreachable = errors.New("no answer")

// unanswered is the cause of a message that has quoted err: it does not again.
type unanswered struct{ err error }

func (u unanswered) Error() string   { return errUnreachable.Error() }
func (u unanswered) Unwrap() []error { return []error{errUnreachable, u.err} }

// Unreachable reports whether err means that the upstream did not answer at all.
func Unreachable(err error) bool { return errors.Is(err, errUnreachable) || isCutOff(err) }

// item is one error of the specification's list.
type item struct{ Code, Message string }

// items reads an error body in the specification's format; nil when it is not.
func items(text []byte) []item {
	var body struct {
		Errors []struct {
			Code    any
			Message any
		}
	}
	if json.Unmarshal(text, &body) != nil {
		return nil
	}
	var list []item
	for _, e := range body.Errors {
		code, _ := e.Code.(string)
		message, _ := e.Message.(string)
		if !codeExp.MatchString(code) {
			code = "UNKNOWN"
		}
		list = append(list, item{code, message})
	}
	return list
}

// codes returns the specification's error codes in an error body.
func codes(text []byte) []string {
	var list []string
	for _, i := range items(text) {
		list = append(list, i.Code)
	}
	return list
}

// words returns what the upstream said, ready to be put behind a phrase: `: "…"`
// on one line, at most maxShown bytes of it, or nothing.
func words(text []byte) string {
	var parts []string
	for _, i := range items(text) {
		parts = append(parts, strings.TrimSpace(i.Code+" "+i.Message))
	}
	said := strings.Join(parts, "; ")
	if said == "" {
		said = markup.ReplaceAllString(string(text), " ")
	}
	if said = strings.Join(strings.Fields(said), " "); said == "" {
		return ""
	}
	return ": " + strconv.Quote(cut(said))
}

// plain makes text from elsewhere fit for a message: one line, printable, at
// most maxShown bytes.
func plain(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

func cut(s string) string {
	if len(s) <= maxShown {
		return s
	}
	end := maxShown
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

func status(code int) string {
	return strings.TrimSpace(strconv.Itoa(code) + " " + http.StatusText(code))
}

// contradicts reports whether the answer names another digest than want. A
// digest of another algorithm cannot be compared and contradicts nothing.
func contradicts(h http.Header, want digest.Digest) bool {
	said := h.Get("Docker-Content-Digest")
	if said == "" {
		return false
	}
	d, err := oci.ParseDigest(said)
	return err != nil || d.Algorithm() == want.Algorithm() && d != want
}
