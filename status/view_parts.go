package status

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

func newBlob(b Blob, now time.Time) blobView {
	v := blobView{
		Key: b.Upload, Digest: b.Digest, Short: short(b.Digest), Kind: kindWords(b.MediaType), Slug: slug(b.State), State: b.State,
		Detail: detailWords(b, now), Known: b.Size >= 0, Most: max(b.Size, 1), Received: b.Received, Sent: b.Sent,
	}
	if v.Key == "" {
		v.Key = b.Digest
	}
	if !v.Known { // a bar would be a guess
		v.Received, v.Sent = 0, 0
	}
	switch b.State {
	case BlobExists, BlobMounted:
	case BlobPushed:
		v.Bar, v.Received, v.Sent = true, 0, v.Most // a blob without bytes is complete too
	default:
		v.Bar = true
	}
	v.Label = "upstream " + part(b.Sent, b.Size)
	return v
}

// slug is the one word that the style knows a blob's state by.
func slug(s BlobState) string {
	switch s {
	case BlobReceiving:
		return "receiving"
	case BlobPushing:
		return "pushing"
	case BlobRetrying:
		return "retrying"
	case BlobPushed:
		return "pushed"
	case BlobExists:
		return "exists"
	case BlobMounted:
		return "mounted"
	case BlobFailed:
		return "failed"
	}
	return "waiting"
}

func newJob(j Job, now time.Time) jobView {
	v := jobView{
		ID: j.ID, Host: j.Upstream, Name: j.Repository, Reference: ":" + j.Reference, State: j.State, Tries: j.Tries,
		Retry: "/v1/jobs/" + url.PathEscape(j.ID) + "/retry", Drop: "/v1/jobs/" + url.PathEscape(j.ID) + "/drop",
		Since: at(j.Since, now), Next: at(j.NextTry, now), Why: j.Why, Bytes: Bytes(j.Bytes),
	}
	if strings.Contains(j.Reference, ":") { // a tag cannot hold one

		v.Reference = "@" + short(j.Reference)
	}
	if j.Push != "" {
		v.Push = "/push/" + url.PathEscape(j.Push)
	}
	return v
}

func newUpstream(u Upstream, now time.Time) upstreamView {
	v := upstreamView{
		Host: u.Host, Reachable: u.Reachable, Why: u.Why, Credential: u.Credential, Limits: u.Limits, Quirks: u.Quirks,
		Since: at(u.Since, now), Expires: at(u.Expires, now), Paused: at(u.Paused, now), Now: "idle",
		Asked: plural(u.Requests, "request") + ", " + plural(u.Failures, "failure"),
	}
	if u.Uploading > 0 || u.Waiting > 0 {
		v.Now = fmt.Sprintf("%d uploading, %d waiting, %s/s", u.Uploading, u.Waiting, Bytes(u.Rate))
	}
	return v
}

func plural(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatInt(n, 10) + " " + one + "s"
}

func newStore(s Store, now time.Time) *storeView {
	v := &storeView{
		Live: Bytes(s.LiveBytes), Disk: Bytes(s.DiskBytes), Free: Bytes(s.FreeBytes), Quota: "none",
		Blobs: strconv.FormatInt(s.Blobs, 10), Oldest: at(s.Oldest, now), ReadOnly: s.ReadOnly,
	}
	if s.Quota > 0 {
		v.Quota, v.Used, v.Most = Bytes(s.Quota), min(s.LiveBytes, s.Quota), s.Quota
	}
	return v
}
