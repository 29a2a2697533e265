package authinject

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"pushproxy/oci"
)

// repoPath finds the repository in the path of an API request. "upload" without
// s is GHCR's (swift-container-plugin#44).
var repoPath = regexp.MustCompile(`^(?:/.*?)?/v2/(.+)/(?:blobs/uploads?(?:/.*)?|blobs/[^/]+|manifests/[^/]+|tags/list|referrers/[^/]+)$`)

// want is what one request needs a credential for.
type want struct {
	repo    oci.Repo // the credential is looked up for it; Name may be empty
	actions string   // on repo, as a token scope writes them; "" asks for no scope
	from    string   // source repository of a mount, to be pulled from, or ""
	catalog bool     // the list of all repositories is asked for

	// What the tries of the request have come to.
	renewed  bool        // a token was refused and another one fetched
	rejected *Credential // the helper's answer that was refused
}

// wantOf derives a want from a request to host. The repository is the one in
// the request's context, where an upload's Location can have any shape, else
// the one in the path.
func wantOf(req *http.Request, host string) want {
	w := want{repo: oci.Repo{Host: host}}
	if repo, ok := oci.RepoFrom(req.Context()); ok && repo.Host == host && oci.ValidName(repo.Name) {
		w.repo.Name = repo.Name
	} else {
		w.repo.Name = nameIn(req.URL)
	}
	if w.repo.Name == "" {
		w.catalog = strings.HasSuffix(req.URL.Path, "/v2/_catalog")
		return w
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, "":
		w.actions = "pull"
	case http.MethodDelete:
		// distribution wants delete for an upload too, and nothing less than
		// all three is enough for every registry.
		w.actions = "pull,push,delete"
	default:
		w.actions = "pull,push"
	}
	if query := req.URL.Query(); req.Method == http.MethodPost && query.Get("mount") != "" {
		if from := query.Get("from"); from != w.repo.Name && oci.ValidName(from) {
			w.from = from
		}
	}
	return w
}

// nameIn returns the repository name in the path of an API request, or "".
func nameIn(u *url.URL) string {
	m := repoPath.FindStringSubmatch(u.Path)
	if m == nil || !oci.ValidName(m[1]) {
		return ""
	}
	return m[1]
}

// scopes returns the token scopes to ask for, the target first because some
// servers honour only the first (manifest-tool#53).
func (w want) scopes() []string {
	if w.catalog {
		return []string{"registry:catalog:*"}
	}
	if w.actions == "" {
		return nil
	}
	scopes := []string{"repository:" + w.repo.Name + ":" + w.actions}
	if w.from != "" {
		scopes = append(scopes, "repository:"+w.from+":pull")
	}
	return scopes
}

// wider returns the scopes of a token that would serve w too: what may push
// may pull. ok is false when there is none to look for.
func (w want) wider() (scopes []string, ok bool) {
	if w.actions != "pull" {
		return nil, false
	}
	w.actions = "pull,push"
	return w.scopes(), true
}

// narrower returns the want to fall back to when a token server refuses w with
// status, or false. A refused mount source is dropped, since the upload itself must not
// fail with it; a server that does not know the action delete, as Quay (its
// scope grammar has push, pull and *), is asked for everything.
func (w want) narrower(status int) (want, bool) {
	switch {
	case w.from != "":
		w.from = ""
		return w, true
	case w.actions == "pull,push,delete" && status == http.StatusBadRequest:
		w.actions = "*"
		return w, true
	}
	return w, false
}

// scopeKey is the same for the same scopes in any order.
func scopeKey(scopes []string) string {
	return strings.Join(slices.Sorted(slices.Values(scopes)), " ")
}
