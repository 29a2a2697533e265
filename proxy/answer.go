package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"pushproxy/oci"
)

const (
	// readPause is how long a client may take to read a part of an answer.
	readPause = 60 * time.Second
	// leftFor is how long the server may read what a refused request has left of
	// its body, which it does before it sends the refusal.
	leftFor = 5 * time.Second
)

// answer remembers whether a response has begun, and does not wait forever for
// a client that has stopped to read it.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	status  int
	caller  Caller   // once it is known
	kind    oci.Kind // once it is known
	push    string   // id of the push that the request is about, if it is known
}

func newAnswer(w http.ResponseWriter, r *http.Request) *answer {
	a := &answer{ResponseWriter: w, control: http.NewResponseController(w)}
	if r.Body != nil && r.Body != http.NoBody {
		// The server reads what a handler leaves of a body, without a limit. A
		// writer without deadlines is a test's.
		_ = a.control.SetReadDeadline(time.Now().Add(bodyPause))
	}
	return a
}

// WriteHeader notes the status.
func (a *answer) WriteHeader(status int) {
	if status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write notes an implicit 200.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_ = a.control.SetWriteDeadline(time.Now().Add(readPause))
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// fail answers with err, unless the answer has begun: then the connection is cut
// so that the client cannot take half a body for a whole one.
func (g *Registry) fail(a *answer, r *http.Request, err error) {
	e := shown(err)
	fields := []any{}
	if a.push != "" {
		fields = append(fields, "push", a.push)
	}
	g.Log.With(fields...).Log(r.Context(), level(r, e), "refused", "method", clip(r.Method), "path", clip(r.URL.Path), "status", e.Status, "code", e.Code, "error", clip(err.Error()))
	g.Audit.refusal(a.caller, r, refused(e))
	if a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	_ = a.control.SetReadDeadline(time.Now().Add(leftFor))
	// They were meant for an answer that did not come about.
	for _, name := range []string{"Docker-Content-Digest", "Content-Disposition", "Accept-Ranges", "ETag"} {
		a.Header().Del(name)
	}
	if e.Status == http.StatusUnauthorized {
		a.Header().Set("WWW-Authenticate", `Basic realm="pushproxy"`)
	}
	oci.Write(a, e)
}

// shown returns err as the client gets it. A 401 only where a login here would
// help: at that, clients look for credentials of their own, which are not what an
// upstream refused.
func shown(err error) *oci.Error {
	if errors.Is(err, errLogin) {
		return oci.AsError(err)
	}
	e := oci.AsError(err)
	if e.Status == http.StatusUnauthorized {
		return oci.ErrDenied.With("%s", e.Message).Because(err)
	}
	return e
}

// refused returns what a client that only looks was not told.
func refused(e *oci.Error) *oci.Error {
	if cause := (*oci.Error)(nil); errors.As(e.Cause, &cause) {
		return cause
	}
	return e
}

// level says how loud a refusal is: by its cause where the client is told less.
func level(r *http.Request, e *oci.Error) slog.Level {
	e = refused(e)
	reads := r.Method == http.MethodHead || r.Method == http.MethodGet
	switch {
	case r.Context().Err() != nil || errors.Is(e, context.Canceled):
		return slog.LevelDebug
	case e.Status >= 500:
		return slog.LevelWarn
	case e.Status == http.StatusNotFound && reads:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// after returns err together with the failure of what had to be done because of
// it. Only err can reach the client.
func after(err, also error) error {
	if also == nil {
		return err
	}
	return fmt.Errorf("%w (and then: %v)", err, also)
}

// recover keeps a panic in one request from ending the others. Values are not
// logged: they could hold anything.
func (g *Registry) recover(a *answer, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	g.Metrics.panicked()
	g.Log.Error("panic in a handler", "method", clip(r.Method), "path", clip(r.URL.Path), "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	if a.status != 0 {
		panic(http.ErrAbortHandler)
	}
	oci.Write(a, oci.ErrInternal)
}

// maxLogged bounds text from elsewhere in the log, in bytes.
const maxLogged = 512

// clip bounds text from elsewhere before it is logged; the logger quotes it.
func clip(s string) string {
	if len(s) <= maxLogged {
		return s
	}
	return strings.ToValidUTF8(s[:maxLogged], "") + "…"
}
