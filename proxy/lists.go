package proxy

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"pushproxy/oci"
)

// tags answers with the upstream's tags, under the name that the client uses.
func (g *Registry) tags(c *call) error {
	raw, next, err := c.target.Client.Tags(c.Context(), c.repo, c.r.URL.Query())
	if err != nil {
		return err
	}
	var list struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return oci.ErrUpstream.With("%s answered with a tag list that cannot be read", c.repo.Host).Because(err)
	}
	if list.Name = c.Name; list.Tags == nil {
		list.Tags = []string{}
	}
	c.link(next, "/tags/list")
	return c.json("application/json", list)
}

// referrers passes the upstream's index on. An upstream without the end-point
// answers 404, at which clients keep the list themselves.
func (g *Registry) referrers(c *call) error {
	raw, header, err := c.target.Client.Referrers(c.Context(), c.repo, c.Digest, c.r.URL.Query())
	if err != nil {
		return err
	}
	if filters := header.Get("OCI-Filters-Applied"); filters != "" {
		c.w.Header().Set("OCI-Filters-Applied", filters)
	}
	next := strings.TrimSuffix(strings.TrimPrefix(header.Get("Link"), "<?"), `>; rel="next"`)
	c.link(next, "/referrers/"+c.Digest.String())
	return c.json(oci.MediaTypeOCIIndex, json.RawMessage(raw))
}

// link points to the next part of a list, by this door and name.
func (c *call) link(next, path string) {
	if next == "" {
		return
	}
	if c.Namespace != "" {
		next += "&ns=" + url.QueryEscape(c.Namespace)
	}
	c.w.Header().Set("Link", "</v2/"+c.Name+path+"?"+next+`>; rel="next"`)
}

func (c *call) json(contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return oci.ErrUpstream.With("%s answered with a list that cannot be read", c.repo.Host).Because(err)
	}
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(http.StatusOK)
	_, err = c.w.Write(body)
	return err
}
