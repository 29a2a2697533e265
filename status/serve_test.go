package status

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBadRequestsAreToldWhatIsAllowed(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		for path, want := range map[string][]string{
			"/v1/pushes/nothing":             {"404", "no push nothing"},
			"/v1/pushes/%3Cscript%3E":        {"404", "no push"},
			"/v1/pushes?limit=0":             {"400", "limit", "1 to 500"},
			"/v1/pushes?limit=many":          {"400", "limit", "1 to 500"},
			"/v1/pushes?limit=501":           {"400", "limit", "1 to 500"},
			"/v1/pushes?state=well":          {"400", "state", "done, unchanged, failed, stopped"},
			"/v1/pushes?before=unknown":      {"400", "before", "unknown"},
			"/v1/pushes?Q=x":                 {"400", "q, state, before and limit"},
			"/v1/pushes?q=a&q=b":             {"400", "more than once"},
			"/v1/nothing":                    {"404", "docs/status-api.md"},
			"/v1/pushes?limit=" + long(9000): {"400", "limit"},
		} {
			w := r.call(all, "GET", path)
			var body struct{ Errors []struct{ Message string } }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Errors) != 1 {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
				continue
			}
			text := http.StatusText(w.Code) + body.Errors[0].Message
			for _, part := range want {
				if part = strings.NewReplacer("404", "Not Found", "400", "Bad Request").Replace(part); !strings.Contains(text, part) {
					t.Errorf("%s: %q does not say %q", path, text, part)
				}
			}
			if len(text) > 1000 {
				t.Errorf("%s: %d characters", path, len(text))
			}
		}
		if w := r.call(all, "POST", "/v1/status"); w.Code/100 == 2 {
			t.Errorf("POST to what is only read: %d", w.Code)
		}
	})
}

func long(n int) string { return strings.Repeat("9", n) }

func TestJobsAreRetriedAndDroppedByWhoseTheyAre(t *testing.T) {
	t.Parallel()
	bubble(t, "", func(t *testing.T, r *rig) {
		collected := 0
		r.server.Collect = func(context.Context) (any, error) { collected++; return map[string]int{"removed": 0}, nil }
		r.reg.Fail = func(*http.Request) int { return http.StatusServiceUnavailable }
		job := r.promise("ann", "acme/app", "v1", content("blob", 1000))
		time.Sleep(time.Minute)
		ann, bob := Viewer{Principal: "ann"}, Viewer{Principal: "bob"}
		for _, path := range []string{"/v1/jobs/" + job.ID + "/retry", "/v1/jobs/" + job.ID + "/drop"} {
			for _, v := range []Viewer{bob, {}} {
				if w := r.call(v, "POST", path); w.Code != http.StatusNotFound {
					t.Errorf("%q posts %s: %d", v.Principal, path, w.Code)
				}
			}
			if w := r.call(ann, "GET", path); w.Code/100 == 2 {
				t.Errorf("GET %s: %d", path, w.Code)
			}
		}
		var shown Job
		w := r.call(ann, "POST", "/v1/jobs/"+job.ID+"/retry")
		if json.Unmarshal(w.Body.Bytes(), &shown) != nil || w.Code != 200 || shown.ID != job.ID || shown.Push != job.Push || shown.State == "waiting" && shown.Tries != 0 {
			t.Errorf("retry: %d %s", w.Code, w.Body)
		}
		// A form of the page gets the page again.
		w = r.call(ann, "POST", "/v1/jobs/"+job.ID+"/retry", "Accept: text/html,application/xhtml+xml")
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/" {
			t.Errorf("a form: %d to %q", w.Code, w.Header().Get("Location"))
		}
		w = r.call(all, "DELETE", "/v1/jobs/"+job.ID)
		synctest.Wait()
		if json.Unmarshal(w.Body.Bytes(), &shown) != nil || w.Code != 200 || shown.State != "dropped" || len(r.server.snapshot(all).Queue) != 0 {
			t.Errorf("drop: %d %s", w.Code, w.Body)
		}
		if w := r.call(ann, "POST", "/v1/jobs/"+job.ID+"/drop"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), job.ID) {
			t.Errorf("a job that is gone: %d %s", w.Code, w.Body)
		}
		for want, v := range map[int]Viewer{http.StatusForbidden: ann, http.StatusOK: all} {
			if w := r.call(v, "POST", "/v1/gc"); w.Code != want {
				t.Errorf("%q collects: %d %s", v.Principal, w.Code, w.Body)
			}
		}
		if collected != 1 {
			t.Errorf("collected %d times", collected)
		}
		r.reg.Fail = nil
	})
}

func TestAServerWithoutAnythingAnswers(t *testing.T) {
	t.Parallel()
	r := &rig{t: t, server: &Server{}}
	for path, want := range map[string]int{"/": 200, "/v1/status": 200, "/v1/pushes": 200, "/v1/events": 429, "/livez": 200, "/readyz": 200, "/v1/pushes/x": 404} {
		if w := r.call(all, "GET", path); w.Code != want {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
}
