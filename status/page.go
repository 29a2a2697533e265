package status

import (
	"fmt"
	"net/http"
)

// page answers with everything at a glance.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%d pushes\n", len(s.snapshot(viewerOf(r)).Pushes))
}

// pushPage answers with one push and why it went as it did.
func (s *Server) pushPage(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.push(viewerOf(r), r.PathValue("id")); !ok {
		http.NotFound(w, r)
	}
}

// assets answers with what the pages refer to.
func (s *Server) assets() http.Handler { return http.NotFoundHandler() }
