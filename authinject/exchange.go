package authinject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pushproxy/oci"
)

const (
	// maxTokenAnswer is the largest answer read from a token server, in bytes.
	maxTokenAnswer = 64 << 10
	// clientID is what OAuth2 token servers know this program by.
	clientID = "pushproxy"
	// exchangeAttempts and exchangePause bound the retries of one exchange.
	exchangeAttempts = 3
	exchangePause    = 300 * time.Millisecond
)

// exchange is one question to a token server: realm is accepted by the policy.
type exchange struct {
	t       *Transport
	realm   *url.URL
	service string
	scopes  []string
	cred    Credential
}

// answer is a token server's JSON (token specification, "Token Response").
type answer struct {
	Token        string          `json:"token"`
	AccessToken  string          `json:"access_token"`
	RefreshToken string          `json:"refresh_token"`
	ExpiresIn    json.RawMessage `json:"expires_in"`
	IssuedAt     string          `json:"issued_at"`
}

// run fetches a token. A credential with an identity token is exchanged by
// OAuth2 POST; where the server does not do that (Artifactory answers 401, GCR
// 404, ACR 400) and there is a password, by GET. A refusal is a *refusal.
func (x exchange) run(ctx context.Context) (*token, error) {
	if x.cred.Identity == "" {
		return x.retry(ctx, x.get)
	}
	refresh := x.t.state().tokens.refreshToken(x.cred, x.realm.String())
	tok, err := x.retry(ctx, x.post(refresh))
	if isRefusal(err) && refresh != x.cred.Identity {
		x.t.state().tokens.renew(x.cred, x.realm.String(), "")
		tok, err = x.retry(ctx, x.post(x.cred.Identity))
	}
	var no *refusal
	if !errors.As(err, &no) {
		return tok, err
	}
	switch no.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed:
		if x.cred.Password != "" {
			return x.retry(ctx, x.get)
		}
	}
	return nil, err
}

// get makes the request of the token specification, with Basic where there is
// a password.
func (x exchange) get(ctx context.Context) (*http.Request, error) {
	u := *x.realm
	q := u.Query()
	q.Del("service")
	if x.service != "" {
		q.Set("service", x.service)
	}
	q["scope"] = x.scopes
	q.Set("client_id", clientID)
	q.Del("account")
	if x.cred.Username != "" {
		q.Set("account", x.cred.Username)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if x.cred.Password != "" {
		req.SetBasicAuth(x.cred.Username, x.cred.Password.Reveal())
	}
	return req, nil
}

// post makes an OAuth2 request with a refresh token (RFC 6749, section 6).
func (x exchange) post(refresh Secret) func(context.Context) (*http.Request, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refresh.Reveal()},
		"client_id":     {clientID},
		"scope":         {strings.Join(x.scopes, " ")},
	}
	if x.service != "" {
		form.Set("service", x.service)
	}
	return func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return req, nil
	}
}

// retry asks until the server answers with something final, a few times.
func (x exchange) retry(ctx context.Context, build func(context.Context) (*http.Request, error)) (*token, error) {
	pause := exchangePause
	for attempt := 1; ; attempt++ {
		req, err := build(oci.ContextAside(ctx))
		if err != nil {
			return nil, x.unreachable("cannot be asked", err)
		}
		e := Event{Kind: EventToken, Server: x.realm.Host, Grant: grantOf(req), Scopes: x.scopes, Began: time.Now()}
		tok, again, err := x.ask(req, &e)
		x.t.observe(ctx, e)
		if !again || attempt == exchangeAttempts {
			return tok, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause *= 3
	}
}

// ask sends one request and notes in e what came of it. again says that a
// repetition might help.
func (x exchange) ask(req *http.Request, e *Event) (tok *token, again bool, err error) {
	defer func() { e.Outcome = outcome(err) }()
	req.Header.Set("Accept", "application/json")
	if x.t.UserAgent != "" {
		req.Header.Set("User-Agent", x.t.UserAgent)
	}
	asked := time.Now()
	// RoundTrip, not a client: a redirect must not take the credential along.
	resp, err := x.t.base().RoundTrip(req)
	if err != nil {
		return nil, req.Context().Err() == nil && !cutOff(err), x.unreachable("could not be reached", err)
	}
	defer func() { _ = resp.Body.Close() }()
	e.Status = resp.StatusCode
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer+1))
	switch code := resp.StatusCode; {
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return nil, true, x.unreachable(fmt.Sprintf("answered %d", code), nil)
	case code >= 400:
		return nil, false, &refusal{status: code, err: x.refused(code)}
	case code >= 300:
		return nil, false, x.unreachable("answered with a redirect, which is never followed with a credential", nil)
	case err != nil:
		return nil, true, x.unreachable("broke off its answer", err)
	case len(body) > maxTokenAnswer:
		return nil, false, x.unreachable("answered with more than 64 KiB", nil)
	}
	if tok, err = x.read(body, asked, resp.Header.Get("Date")); err == nil {
		e.Until = tok.until
	}
	return tok, false, err
}

// cutOff reports whether the transport below knows that there is no way to the
// server at present: then somebody waits for nothing.
func cutOff(err error) bool {
	var gone interface{ CutOff() bool }
	return errors.As(err, &gone) && gone.CutOff()
}

// read makes a token of an answer. What is wrong with it is said without
// quoting it.
func (x exchange) read(body []byte, asked time.Time, date string) (*token, error) {
	var a answer
	if json.Unmarshal(body, &a) != nil {
		return nil, x.unreachable("answered with something that is not the JSON of a token", nil)
	}
	value := a.Token
	if value == "" {
		value = a.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, x.unreachable("answered without a usable token", nil)
	}
	if a.RefreshToken != "" && x.cred.Identity != "" {
		x.t.state().tokens.renew(x.cred, x.realm.String(), Secret(a.RefreshToken))
	}
	return &token{value: Secret(value), until: useUntil(asked, a.life(date))}, nil
}

// life returns how long the token will live: a minute when the server does not
// say, and twelve hours at most. A token that the server had in stock is already older; its age is read off the
// server's own clock, which may differ from ours.
func (a answer) life(date string) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(a.ExpiresIn), `"`), 64)
	// One that is too large for a float is infinite, and cut like others.
	if err != nil && !errors.Is(err, strconv.ErrRange) || !(seconds > 0) {
		return defaultLife
	}
	life := time.Duration(min(seconds, maxLife.Seconds()) * float64(time.Second))
	issued, err := time.Parse(time.RFC3339, a.IssuedAt)
	if err != nil {
		return life
	}
	server, err := http.ParseTime(date)
	if err != nil {
		return life
	}
	if age := server.Sub(issued); age > 0 && age < life {
		life -= age
	}
	return life
}

// server names the token server without its query.
func (x exchange) server() string {
	return quoted(x.realm.Scheme + "://" + x.realm.Host + x.realm.Path)
}

func (x exchange) refused(code int) error {
	host := x.t.Host
	if code != http.StatusUnauthorized && code != http.StatusForbidden && code != http.StatusBadRequest {
		return x.unreachable(fmt.Sprintf("answered %d", code), nil)
	}
	if x.cred.Anonymous() {
		return oci.ErrDenied.With("%s asks for a login and none was found for it (its token server %s answered %d to %s): run docker login %s",
			host, x.server(), code, x.scopeText(), host)
	}
	return oci.ErrDenied.With("the token server %s of %s refused the credential from %s (it answered %d to %s): check that the account may do this, or run docker login %s again",
		x.server(), host, x.cred.Source, code, x.scopeText(), host)
}

func (x exchange) scopeText() string {
	if len(x.scopes) == 0 {
		return "a login"
	}
	return quoted(strings.Join(x.scopes, " "))
}

// unreachable makes the error for a token server that gives no usable answer.
func (x exchange) unreachable(what string, cause error) error {
	e := oci.ErrUpstream.With("the token server %s of %s %s: try again, or check the registry's status", x.server(), x.t.Host, what)
	if cause != nil {
		e = e.Because(cause)
	}
	return e
}

// quoted makes foreign text safe to show: one line, at most 256 bytes of it.
func quoted(s string) string {
	if len(s) > 256 {
		s = s[:256] + "…"
	}
	return strconv.Quote(s)
}
