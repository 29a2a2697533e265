package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// maxList is the largest page of tags or referrers read, in bytes.
const maxList = 8 << 20

// The parameters that pages are asked for with: the specification's, and
// Quay's (its endpoints/v2/__init__.py). Nothing else of a
// query goes to or comes from the upstream.
var (
	pageKeys     = []string{"n", "last", "next_page"}
	referrerKeys = append([]string{"artifactType"}, pageKeys...)
)

// Tags fetches one page of repo's tags (specification, end-8). Of query, n, last
// and Quay's next_page are passed on. body is the upstream's JSON, with a null list made empty;
// link is the query of the next page, or "" when this is the last.
func (c *Client) Tags(ctx context.Context, repo oci.Repo, query url.Values) (body []byte, link string, err error) {
	if err := checked(repo); err != nil {
		return nil, "", err
	}
	query = only(query, pageKeys...)
	if n, err := strconv.Atoi(query.Get("n")); err == nil && c.quirk().MaxTags > 0 && n > c.quirk().MaxTags {
		query.Set("n", strconv.Itoa(c.quirk().MaxTags))
	}
	k := call{what: "list the tags of " + repo.String(), op: OpTags, repo: repo, method: http.MethodGet, path: "/v2/" + repo.Name + "/tags/list", query: query.Encode()}
	a, body, err := c.fetchList(ctx, k, oci.ErrNameUnknown)
	if err != nil {
		return nil, "", err
	}
	return withoutNull(body), nextPage(a.Header), nil
}

// Referrers fetches the manifests that refer to d (end-12). Of query,
// artifactType and the same are passed on. header holds what a client may see:
// Content-Type, OCI-Filters-Applied and a Link of nothing but the next page's
// query. ErrNotFound means that the upstream has no such end-point.
func (c *Client) Referrers(ctx context.Context, repo oci.Repo, d digest.Digest, query url.Values) (raw []byte, header http.Header, err error) {
	if err := checked(repo); err != nil {
		return nil, nil, err
	}
	k := call{what: "list what refers to " + d.String() + " in " + repo.String(), op: OpReferrers, repo: repo, digest: d, method: http.MethodGet,
		path: "/v2/" + repo.Name + "/referrers/" + d.String(), query: only(query, referrerKeys...).Encode()}
	k.header = accepting([]string{oci.MediaTypeOCIIndex})
	a, raw, err := c.fetchList(ctx, k, oci.ErrNotFound)
	if err != nil {
		return nil, nil, err
	}
	header = http.Header{}
	for _, name := range []string{"Content-Type", "OCI-Filters-Applied"} {
		if v := a.Header.Get(name); v != "" {
			header.Set(name, v)
		}
	}
	if next := nextPage(a.Header); next != "" {
		header.Set("Link", "<?"+next+`>; rel="next"`)
	}
	return raw, header, nil
}

func (c *Client) fetchList(ctx context.Context, k call, unknown *oci.Error) (*answer, []byte, error) {
	a, raw, err := c.fetch(ctx, k, maxList, unknown)
	if err == nil && len(raw) > maxList {
		err = oci.ErrUpstream.With("%s answered with more than 8 MiB when asked to %s; ask for fewer with n=", c.Host, k.what).Because(errVerdict)
	}
	return a, raw, err
}

func only(query url.Values, keys ...string) url.Values {
	kept := url.Values{}
	for _, key := range keys {
		if query.Has(key) {
			kept.Set(key, query.Get(key))
		}
	}
	return kept
}

// withoutNull turns "tags": null, which Nexus sends for none, into an empty
// list (https://github.com/sonatype/nexus-public/issues/967 has the sibling).
func withoutNull(body []byte) []byte {
	var list map[string]json.RawMessage
	if json.Unmarshal(body, &list) != nil || !bytes.Equal(list["tags"], []byte("null")) {
		return body
	}
	list["tags"] = json.RawMessage("[]")
	fixed, err := json.Marshal(list)
	if err != nil {
		return body
	}
	return fixed
}

// nextPage returns the query of the Link header's rel="next" target (RFC 8288).
// Whatever host and path the upstream wrote there is not followed.
func nextPage(h http.Header) string {
	for _, line := range h.Values("Link") {
		for line != "" {
			target, params, rest, ok := parseLink(line)
			if !ok {
				break
			}
			if u, err := url.Parse(target); err == nil && isNext(params) {
				return only(u.Query(), referrerKeys...).Encode()
			}
			line = rest
		}
	}
	return ""
}

// parseLink cuts the first link off a Link header.
func parseLink(line string) (target, params, rest string, ok bool) {
	line = strings.TrimLeft(line, " \t,")
	if !strings.HasPrefix(line, "<") {
		return "", "", "", false
	}
	target, line, ok = strings.Cut(line[1:], ">")
	if !ok {
		return "", "", "", false
	}
	quoted := false
	for i := range len(line) {
		switch {
		case line[i] == '"':
			quoted = !quoted
		case line[i] == ',' && !quoted:
			return target, line[:i], line[i+1:], true
		}
	}
	return target, line, "", true
}

func isNext(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
	}
	return false
}
