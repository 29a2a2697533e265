package status

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMetricsAreForWhoSeesEverything(t *testing.T) {
	t.Parallel()
	numbers := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "numbers") })
	for _, c := range []struct {
		name   string
		server *Server
		viewer Viewer
		want   int
	}{
		{"the owner of the instance gets them", &Server{Metrics: numbers}, Viewer{Principal: "local", All: true}, 200},
		{"another principal does not", &Server{Metrics: numbers}, Viewer{Principal: "build"}, 403},
		{"nor does somebody nobody vouched for", &Server{Metrics: numbers}, Viewer{}, 403},
		{"where there are none there is no such path", &Server{}, Viewer{All: true}, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("GET", "/metrics", nil)
			w := httptest.NewRecorder()
			c.server.Handler().ServeHTTP(w, r.WithContext(WithViewer(r.Context(), c.viewer)))
			if got := w.Body.String() == "numbers"; w.Code != c.want || got != (c.want == 200) {
				t.Errorf("got %d %q, want %d", w.Code, w.Body, c.want)
			}
		})
	}
}
