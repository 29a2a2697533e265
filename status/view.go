package status

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// mostBlobs is how many blobs of a push in flight are on the page with all
// pushes; its own page has them all.
const mostBlobs = 40

// moment is a time as the pages show it.
type moment struct {
	Exact string // RFC 3339 with milliseconds; empty: there is none
	Words string
}

func at(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{t.UTC().Format("2006-01-02T15:04:05.000Z"), clock(t, now)}
}

// pageView is what page.html shows.
type pageView struct {
	Title     string
	Program   string // version
	Now       moment
	Pushes    []pushView
	Queue     []jobView
	Finished  []pushView
	Search    searchView
	Upstreams []upstreamView
	Store     *storeView // nil: it is not for this viewer
	Blank     blankView
}

// blankView is what the page's templates for rows to come are filled with.
type blankView struct {
	Push     pushView
	Blob     blobView
	Finished pushView
	Job      jobView
	Upstream upstreamView
}

// searchView is the search form and where one can go from here.
type searchView struct {
	Text, State string
	States      []string
	On          bool   // something was searched for
	First       bool   // the newest of all are listed
	Newest      string // link; empty on the first page
	Older       string // link; empty on the last one
}

// pushView is a push as a row, a card or a page shows it.
type pushView struct {
	ID, Link                string
	Host, Name, Reference   string // Reference with its : or @
	State                   State
	Who, Agent              string
	Started, Finished       moment
	Took                    string
	Summary                 string // "3 of 7 blobs are upstream"
	Why                     string
	Existed, Mounted, Sent  string
	Saved                   string
	Blobs                   []blobView
	More                    int // blobs that are left out
	Digest, Job, Credential string
	Requests                int
}

// blobView is a blob as a row with a bar.
type blobView struct {
	Key, Digest, Short, Kind string
	Slug                     string // of the state, for the style
	State                    BlobState
	Detail                   string
	Bar, Known               bool // there is a bar; the size is known
	Most, Received, Sent     int64
	Label                    string // of the bar, for who does not see it
}

// jobView is one push in the queue.
type jobView struct {
	ID, Push, Retry, Drop string // Push, Retry and Drop are links
	Host, Name, Reference string
	State                 string
	Tries                 int
	Since, Next           moment
	Why, Bytes            string
}

// upstreamView is one registry.
type upstreamView struct {
	Host, Reachable, Why, Credential string
	Since, Expires, Paused           moment
	Limits, Quirks                   []string
	Now                              string // what it is doing
	Asked                            string
}

// storeView is the cache.
type storeView struct {
	Live, Disk, Free, Quota, Blobs string
	Used, Most                     int64 // of the quota; Most 0: there is none
	Oldest                         moment
	ReadOnly                       string
}

func newPage(s Snapshot, finished []Push, q Query, next string) pageView {
	now := s.Now
	v := pageView{
		Title: "pushproxy", Program: s.Pushproxy, Now: at(now, now), Search: newSearch(q, next),
		Blank: blankView{
			Push: newPush(Push{}, now), Finished: newPush(Push{}, now), Blob: newBlob(Blob{}, now),
			Job: newJob(Job{}, now), Upstream: newUpstream(Upstream{}, now),
		},
	}
	if s.Store != (Store{}) {
		v.Store = newStore(s.Store, now)
	}
	for _, p := range s.Pushes {
		card := newPush(p, now)
		if n := len(card.Blobs); n > mostBlobs {
			card.Blobs, card.More = card.Blobs[:mostBlobs], n-mostBlobs
		}
		v.Pushes = append(v.Pushes, card)
	}
	for _, p := range finished {
		row := newPush(p, now)
		row.Blobs = nil
		v.Finished = append(v.Finished, row)
	}
	for _, j := range s.Queue {
		v.Queue = append(v.Queue, newJob(j, now))
	}
	for _, u := range s.Upstreams {
		v.Upstreams = append(v.Upstreams, newUpstream(u, now))
	}
	return v
}

func newSearch(q Query, next string) searchView {
	v := searchView{Text: q.Text, State: q.State, States: states, On: q.Text != "" || q.State != ""}
	link := func(before string) string {
		values := url.Values{}
		for key, value := range map[string]string{"q": q.Text, "state": q.State, "before": before} {
			if value != "" {
				values.Set(key, value)
			}
		}
		if q.Limit > 0 && q.Limit != pageLength {
			values.Set("limit", strconv.Itoa(q.Limit))
		}
		return "/?" + values.Encode() + "#finished"
	}
	v.First = !v.On && q.Before == "" && q.Limit == pageLength
	if q.Before != "" {
		v.Newest = link("")
	}
	if next != "" {
		v.Older = link(next)
	}
	return v
}

func newPush(p Push, now time.Time) pushView {
	v := pushView{
		ID: p.ID, Link: "/push/" + url.PathEscape(p.ID), Host: p.Upstream, Name: p.Repository, Reference: referenceWords(p),
		State: p.State, Who: p.Principal, Agent: p.Agent, Started: at(p.Started, now), Finished: at(p.Finished, now), Why: p.Why,
		Existed: countWords(p.Sum.Existed, p.Sum.ExistedBytes), Mounted: countWords(p.Sum.Mounted, p.Sum.MountedBytes),
		Sent: countWords(p.Sum.Uploaded, p.Sum.SentBytes), Saved: "–", Summary: summaryWords(p.Blobs),
		Digest: p.Digest, Job: p.Job, Credential: p.Credential, Requests: p.Sum.Requests,
	}
	if p.Finished.IsZero() {
		v.Took = seconds(between(p.Started, now))
	} else {
		v.Took = Span(between(p.Started, p.Finished))
	}
	if p.Sum.SavedMillis > 0 {
		v.Saved = Span(time.Duration(p.Sum.SavedMillis) * time.Millisecond)
	}
	for _, b := range p.Blobs {
		v.Blobs = append(v.Blobs, newBlob(b, now))
	}
	return v
}

// referenceWords is what a push is called after its repository: its tags, else
// its digest.
func referenceWords(p Push) string {
	switch {
	case len(p.Tags) > 3:
		return fmt.Sprintf(":%s and %d more", strings.Join(p.Tags[:3], ", "), len(p.Tags)-3)
	case len(p.Tags) > 0:
		return ":" + strings.Join(p.Tags, ", ")
	case p.Digest != "":
		return "@" + short(p.Digest)
	}
	return ""
}

func summaryWords(blobs []Blob) string {
	there := 0
	for _, b := range blobs {
		if b.State == BlobPushed || b.State == BlobExists || b.State == BlobMounted {
			there++
		}
	}
	if len(blobs) == 1 {
		return fmt.Sprintf("%d of 1 blob is upstream", there)
	}
	return fmt.Sprintf("%d of %d blobs are upstream", there, len(blobs))
}
