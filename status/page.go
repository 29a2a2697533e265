package status

import (
	"bytes"
	"embed"
	"fmt"
	"hash/fnv"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// pageLength is how many finished pushes a page lists, longestPage how many one
// may ask for.
const (
	pageLength  = 50
	longestPage = 200
)

//go:embed assets
var assetFiles embed.FS

// pageTemplates are parsed once; executing them does not change them.
var pageTemplates = template.Must(template.ParseFS(assetFiles, "assets/*.html"))

// page answers with everything at a glance.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	query, err := pageQuery(r)
	if err != nil {
		s.problem(w, http.StatusBadRequest, err.Error())
		return
	}
	viewer := viewerOf(r)
	snapshot := s.snapshot(viewer)
	finished, next := s.finished(viewer, query)
	render(w, http.StatusOK, "page.html", newPage(snapshot, finished, query, next))
}

// pushPage answers with one push and why it went as it did.
func (s *Server) pushPage(w http.ResponseWriter, r *http.Request) {
	p, ok := s.push(viewerOf(r), r.PathValue("id"))
	if !ok {
		s.problem(w, http.StatusNotFound, "There is no push "+strconv.Quote(r.PathValue("id"))+
			" here: pushproxy may have been started anew since, or the push is older than those it remembers.")
		return
	}
	render(w, http.StatusOK, "push.html", newPushPage(p, s.Version, time.Now()))
}

// problemView is what problem.html shows.
type problemView struct {
	Title, Program, Text string
	Now                  moment
}

func (s *Server) problem(w http.ResponseWriter, status int, text string) {
	now := time.Now()
	render(w, status, "problem.html", problemView{http.StatusText(status) + " · pushproxy", s.Version, text, at(now, now)})
}

// render writes a page whole or, where it cannot, an error.
func render(w http.ResponseWriter, status int, name string, view any) {
	var b bytes.Buffer
	if err := pageTemplates.ExecuteTemplate(&b, name, view); err != nil {
		slog.Error("page", "name", name, "error", err)
		http.Error(w, "internal error; the proxy's log has the cause", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store") // it is one person's view of now
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// pageQuery reads which finished pushes a page is to list.
func pageQuery(r *http.Request) (Query, error) {
	values := r.URL.Query()
	q := Query{Text: values.Get("q"), State: values.Get("state"), Before: values.Get("before"), Limit: pageLength}
	if q.State != "" && !slices.Contains(states, q.State) {
		return Query{}, fmt.Errorf("state is %q: it can be one of %s, or nothing for all", q.State, strings.Join(states, ", "))
	}
	if limit := values.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > longestPage {
			return Query{}, fmt.Errorf("limit is %q: it can be a number from 1 to %d", limit, longestPage)
		}
		q.Limit = n
	}
	return q, nil
}

// assets answers with what the pages refer to. Browsers ask each time whether it
// is still the same, since another program may be behind the address later.
func (s *Server) assets() http.Handler {
	type asset struct {
		content []byte
		tag     string
	}
	served := map[string]asset{}
	for _, pattern := range []string{"assets/*.css", "assets/*.js", "assets/*.svg"} {
		names, _ := fs.Glob(assetFiles, pattern) // the patterns are good
		for _, name := range names {
			content, _ := assetFiles.ReadFile(name) // embedded
			sum := fnv.New64a()
			_, _ = sum.Write(content)
			served["/"+name] = asset{content, fmt.Sprintf(`"%x"`, sum.Sum64())}
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, found := served[path.Clean(r.URL.Path)]
		if !found {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", a.tag)
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(a.content))
	})
}
