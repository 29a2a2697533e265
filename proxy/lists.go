package proxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"pushproxy/oci"
)

// tags answers with the upstream's tags, under the name that the client uses.
func (g *Registry) tags(c *call) error {
	query := c.r.URL.Query()
	// Upstreams differ in what none at all means; one shows that the repository
	// is there.
	none := query.Get("n") == "0"
	if none {
		query.Set("n", "1")
	}
	raw, next, err := c.target.Client.Tags(c.Context(), c.repo, query)
	if err != nil {
		return err
	}
	var list struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return c.unreadable(err)
	}
	if list.Name = c.Name; none || list.Tags == nil {
		list.Tags = []string{}
	}
	if !none {
		c.link(next, "/tags/list")
	}
	body, err := json.Marshal(list)
	if err != nil {
		return c.unreadable(err)
	}
	return c.json("application/json", body)
}

// referrers passes the upstream's index on. An upstream without the end-point
// answers 404, at which clients keep the list themselves.
func (g *Registry) referrers(c *call) error {
	raw, header, err := c.target.Client.Referrers(c.Context(), c.repo, c.Digest, c.r.URL.Query())
	if err != nil {
		return err
	}
	if !json.Valid(raw) {
		return c.unreadable(errors.New("it is not JSON"))
	}
	if filters := header.Get("OCI-Filters-Applied"); filters != "" {
		c.w.Header().Set("OCI-Filters-Applied", filters)
	}
	next := strings.TrimSuffix(strings.TrimPrefix(header.Get("Link"), "<?"), `>; rel="next"`)
	c.link(next, "/referrers/"+c.Digest.String())
	return c.json(oci.MediaTypeOCIIndex, raw)
}

func (c *call) unreadable(err error) error {
	return oci.ErrUpstream.With("%s answered for %s with a list that cannot be read; try again, and check the url of this upstream in the configuration", c.repo.Host, c.repo).Because(err)
}

// link points to the next part of a list, by this door and name.
func (c *call) link(next, path string) {
	if next == "" {
		return
	}
	target := c.location(path)
	if strings.Contains(target, "?") {
		target += "&" + next
	} else {
		target += "?" + next
	}
	c.w.Header().Set("Link", "<"+target+`>; rel="next"`)
}

func (c *call) json(contentType string, body []byte) error {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(http.StatusOK)
	_, err := c.w.Write(body)
	return err
}
