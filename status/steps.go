package status

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"pushproxy/authinject"
	"pushproxy/forward"
	"pushproxy/upstream"
)

// asked notes a request that was made, for every push that it was made for.
func (t *Tracker) asked(e *forward.Event) {
	s := step{upload: e.Upload}
	switch {
	case e.Exchange != nil:
		s.Step = exchanged(e.Exchange)
		t.host(e.Principal, e.Repo.Host).asked(e.Exchange)
	case e.Login != nil:
		s.Step = loggedIn(e.Login)
		t.host(e.Principal, e.Repo.Host).loggedIn(e.Login)
	}
	s.Blob = string(e.Digest)
	for _, p := range t.served(e) {
		own := s
		if b := p.coming(e.Upload); own.Blob == "" && b != nil {
			own.Blob = b.Digest
		}
		p.say(own)
		p.count(own)
		if b := p.find(e.Digest); b != nil && b.goes == BlobRetrying && s.Code != 0 && s.Code < 400 {
			b.goes = BlobPreparing
			b.settle()
		}
		t.changed(p, e.When)
	}
}

// served returns the pushes that a request was made for: those that waited for its
// answer or ended before it came. What clients ask before they push may be for a
// push that is still to come; pulls are for none.
func (t *Tracker) served(e *forward.Event) (pushes []*tracked) {
	key := where{e.Principal, e.Repo}
	if e.Push != "" {
		if p := t.byID[e.Push]; p != nil {
			pushes = append(pushes, p)
		}
		return pushes
	}
	pushes = t.outlived(key, e)
	others := len(pushes) > 0
	for _, c := range t.concerned(key, e) {
		// What was begun for others is for a push once its manifest waits for it.
		if !others || c.push.running > 0 && c.push.named[c.piece.Digest] {
			pushes = append(pushes, c.push)
		}
	}
	if len(pushes) > 0 {
		return pushes
	}
	if e.Repo.Name == "" {
		return nil
	}
	if x := e.Exchange; x != nil {
		switch x.Op {
		case upstream.OpHead, upstream.OpMount, upstream.OpStart, upstream.OpPatch, upstream.OpUpload, upstream.OpFinish,
			upstream.OpStatus, upstream.OpCancel, upstream.OpManifestHead:
		case upstream.OpTags:
			// Whether the repository exists is asked for the sake of a blob; clients
			// that want the tags do not push.
			if e.Digest == "" {
				return nil
			}
		default:
			return nil
		}
	}
	return []*tracked{t.gathering(key, e.When)}
}

// outlived returns the pushes that a request was made for and that finished while
// it was under way. An upload that is cancelled is that of who began it.
func (t *Tracker) outlived(key where, e *forward.Event) (pushes []*tracked) {
	began, cancels := e.When, false
	switch {
	case e.Exchange != nil:
		began, cancels = e.Exchange.Began, e.Exchange.Op == upstream.OpCancel
	case e.Login != nil:
		began = e.Login.Began
	}
	var last *tracked
	for _, p := range t.at[key] {
		switch {
		case p.find(e.Digest) == nil && p.coming(e.Upload) == nil:
		case !p.over:
			cancels = false
		case began.Before(p.Finished):
			pushes = append(pushes, p)
		case last == nil || p.Finished.After(last.Finished):
			last = p
		}
	}
	if cancels && last != nil && len(pushes) == 0 {
		pushes = append(pushes, last)
	}
	return pushes
}

// counts reports whether a step is a request to the upstream itself.
func (s step) counts() bool { return s.Op != "token" && s.Op != "decide" }

func (p *tracked) count(s step) {
	if s.counts() {
		p.asked++
		p.sent += s.Bytes
	}
}

// exchanged says in a sentence what a request to the upstream came to.
func exchanged(x *upstream.Exchange) Step {
	s := Step{When: x.Began, Op: stepOp(x.Op), Code: x.Status, Millis: x.Took.Milliseconds()}
	if x.Op == upstream.OpPatch || x.Op == upstream.OpUpload {
		s.Bytes = x.Sent
	}
	s.Text = sentence(x)
	if x.Attempt > 1 {
		s.Text += fmt.Sprintf(" (attempt %d)", x.Attempt)
	}
	return s
}

func stepOp(op upstream.Op) string {
	switch op {
	case upstream.OpHead:
		return "head"
	case upstream.OpMount:
		return "mount"
	case upstream.OpStart:
		return "start"
	case upstream.OpPatch, upstream.OpUpload, upstream.OpFinish, upstream.OpStatus, upstream.OpCancel:
		return "upload"
	case upstream.OpManifestHead, upstream.OpManifestGet, upstream.OpManifestPut, upstream.OpManifestDelete:
		return "manifest"
	}
	return string(op)
}

// sentence is what an exchange came to.
func sentence(x *upstream.Exchange) string {
	what, ok := phrase(x)
	switch {
	case x.Status == 0:
		return what + " got no answer" + because(x.Failure)
	case x.Status == http.StatusUnauthorized:
		return what + " was asked to log in (401)"
	case x.Status == http.StatusTooManyRequests:
		return what + " was told to slow down (429)"
	case x.Status/100 == 2:
		return ok
	}
	return fmt.Sprintf("%s said %d", what, x.Status)
}

// phrase names an exchange, and says what its success means.
func phrase(x *upstream.Exchange) (what, ok string) {
	code := fmt.Sprintf(" (%d)", x.Status)
	switch x.Op {
	case upstream.OpHead:
		return "HEAD", "HEAD said 200: the upstream has it"
	case upstream.OpMount:
		if x.Status == http.StatusCreated {
			return "", "mounted from " + x.From + code
		}
		if x.Status/100 == 2 {
			return "", fmt.Sprintf("mount from %s refused with %d", x.From, x.Status)
		}
		return "mount from " + x.From, ""
	case upstream.OpStart:
		return "start of an upload", "upload started" + code
	case upstream.OpPatch:
		return "PATCH of " + Bytes(x.Sent), "sent " + amount(x.Sent, x.Took) + code
	case upstream.OpUpload:
		return "upload of " + Bytes(x.Sent), "uploaded " + amount(x.Sent, x.Took) + code
	case upstream.OpFinish:
		return "end of the upload", "upload closed" + code
	case upstream.OpStatus:
		return "question how far the upload is", "asked how far the upload is" + code
	case upstream.OpCancel:
		return "cancelling the upload", "upload that is not needed cancelled" + code
	case upstream.OpManifestHead:
		return "HEAD of manifest " + reference(x), "HEAD of manifest " + reference(x) + " said 200"
	case upstream.OpManifestPut:
		return "manifest " + reference(x), "manifest stored as " + reference(x) + code
	case upstream.OpTags:
		return "question whether the repository exists", "the repository exists" + code
	}
	return string(x.Op), string(x.Op) + code
}

func reference(x *upstream.Exchange) string {
	if x.Reference == "" {
		return short(string(x.Digest))
	}
	if strings.Contains(x.Reference, ":") {
		return short(x.Reference)
	}
	return x.Reference
}

// amount is how much went how fast.
func amount(n int64, took time.Duration) string {
	text := Bytes(n) + " in " + Span(took)
	if took >= 10*time.Millisecond && n > 0 {
		text += " at " + Bytes(int64(float64(n)/took.Seconds())) + "/s"
	}
	return text
}

func because(f upstream.Failure) string {
	switch f {
	case upstream.FailedDial:
		return ": no connection"
	case upstream.FailedName:
		return ": its name was not found"
	case upstream.FailedTLS:
		return ": its certificate was not trusted"
	case upstream.FailedStalled:
		return " in time"
	case upstream.FailedCanceled:
		return ": it was not needed any more"
	}
	return ": the connection broke"
}

// retries says that something is tried again later.
func retries(e *forward.Event) step {
	return step{upload: e.Upload, Step: Step{
		When: e.When, Blob: string(e.Digest), Op: "decide", Text: "tried again in " + Span(e.Delay) + ": " + e.Why,
	}}
}

// loggedIn says what was done for a credential.
func loggedIn(l *authinject.Event) Step {
	s := Step{When: l.Began, Op: "token", Code: l.Status, Millis: l.Took.Milliseconds()}
	outcome := map[string]string{authinject.Succeeded: "", authinject.Refused: ": refused", authinject.NoneFound: ": it has none", authinject.Broken: ": failed"}[l.Outcome]
	code := ""
	if l.Status != 0 {
		code = fmt.Sprintf(" (%d)", l.Status)
	}
	switch l.Kind {
	case authinject.EventToken:
		how := map[string]string{authinject.GrantAnonymous: "without a credential", authinject.GrantPassword: "with user name and password", authinject.GrantRefresh: "with an identity token"}[l.Grant]
		s.Text = "token asked of " + l.Server + " " + how + outcome + code
	case authinject.EventProbe:
		s.Text = "asked " + l.Server + " how to log in" + outcome + code
	default:
		s.Text = l.Helper + " asked for a credential" + outcome
	}
	return s
}
