// Package status shows what pushproxy is doing: the page, its JSON (version 1),
// its live stream and the text that the commands print. It learns everything
// from one stream of events (forward.Feed). It stores pushes alone, a line of
// JSON each when they end and now and then before, in a file of their own
// (journal.go).
package status

import "time"

// Version is the version of the JSON. Fields may be added within a version;
// none is renamed, removed or given another meaning.
const Version = 1

// Snapshot is the answer to GET /v1/status: everything, as this caller may see
// it. A caller sees their own pushes and jobs; the owner of the instance, on
// its unix socket too, sees all.
type Snapshot struct {
	Version   int        `json:"version"`
	Pushproxy string     `json:"pushproxy"` // program version
	Instance  string     `json:"instance"`  // another after each start
	Started   time.Time  `json:"started"`
	Now       time.Time  `json:"now"`
	Event     string     `json:"event"`    // id of the last event within; Last-Event-ID goes on after it
	Pushes    []Push     `json:"pushes"`   // in flight, oldest first
	Finished  []Push     `json:"finished"` // newest first, 50 at most; more from GET /v1/pushes
	Queue     []Job      `json:"queue"`
	Upstreams []Upstream `json:"upstreams"`
	Store     Store      `json:"store"`
}

// State is where a push is.
type State string

// The states of a push.
const (
	Receiving State = "receiving" // blobs arrive, no manifest yet
	Pushing   State = "pushing"   // the manifest is here, blobs or manifest go upstream
	Queued    State = "queued"    // accepted in async mode, waits for its turn
	Done      State = "done"      // the upstream holds all of it
	Unchanged State = "unchanged" // the upstream held it already under that reference
	Failed    State = "failed"
	Stopped   State = "stopped" // the client left before its manifest, or pushproxy ended; Why says which
)

// Push is one push: what came from a client for one repository and became, or
// will become, one manifest there. The manifests below an index belong to it.
type Push struct {
	ID         string    `json:"id"` // also in logs, traces and the audit log
	Principal  string    `json:"principal"`
	Agent      string    `json:"agent,omitempty"` // the client's User-Agent, clipped
	Upstream   string    `json:"upstream"`        // host
	Repository string    `json:"repository"`      // name at the upstream, without the host
	Tags       []string  `json:"tags,omitempty"`
	Digest     string    `json:"digest,omitempty"` // of the manifest, when it is here
	State      State     `json:"state"`
	Async      bool      `json:"async,omitempty"`
	Job        string    `json:"job,omitempty"` // of the queue, with async
	Started    time.Time `json:"started"`
	Finished   time.Time `json:"finished,omitzero"`
	Why        string    `json:"why,omitempty"` // with failed and stopped: what happened and what to do
	Credential string    `json:"credential,omitempty"`
	Blobs      []Blob    `json:"blobs"`
	Sum        Sum       `json:"sum"`
	Steps      []Step    `json:"steps,omitempty"` // with GET /v1/pushes/ID alone
}

// Sum counts a push's blobs and bytes.
type Sum struct {
	Existed      int   `json:"existed"`
	Mounted      int   `json:"mounted"`
	Uploaded     int   `json:"uploaded"`
	ExistedBytes int64 `json:"existed_bytes"`
	MountedBytes int64 `json:"mounted_bytes"`
	SentBytes    int64 `json:"sent_bytes"` // to the upstream, with what was sent again
	Requests     int   `json:"requests"`   // to the upstream
	// SavedMillis estimates what a direct push would have taken longer: the bytes
	// that did not have to be sent at the rate of those that were, or of the
	// upstream's last uploads. 0 when there is nothing to estimate by.
	SavedMillis int64 `json:"saved_ms"`
}

// BlobState is what a blob is doing, in the words that docker shows.
type BlobState string

// The states of a blob.
const (
	BlobReceiving BlobState = "Receiving" // from the client; it may be Pushing at once
	BlobPreparing BlobState = "Preparing"
	BlobWaiting   BlobState = "Waiting"
	BlobPushing   BlobState = "Pushing"
	BlobRetrying  BlobState = "Retrying"
	BlobPushed    BlobState = "Pushed"
	BlobExists    BlobState = "Layer already exists"
	BlobMounted   BlobState = "Mounted from"
	BlobFailed    BlobState = "Failed"
	BlobUnsent    BlobState = "Not sent" // the push ended without it
)

// Blob is one blob or child manifest of a push.
type Blob struct {
	Digest    string    `json:"digest,omitempty"` // empty while it is unknown
	Upload    string    `json:"upload,omitempty"` // tells blobs without a digest apart
	MediaType string    `json:"media_type,omitempty"`
	Size      int64     `json:"size"` // bytes; -1 while unknown
	State     BlobState `json:"state"`
	From      string    `json:"from,omitempty"`  // repository, with Mounted from
	Received  int64     `json:"received"`        // bytes from the client; 0 when it did not send it
	Sent      int64     `json:"sent"`            // bytes to the upstream; goes back only when Again grows
	Again     int       `json:"again,omitempty"` // times its bytes had to be sent again
	RetryAt   time.Time `json:"retry_at,omitzero"`
	Why       string    `json:"why,omitempty"` // with Retrying and Failed
	// The times of the time line: zero where it did not happen.
	ReceiveBegan time.Time `json:"receive_began,omitzero"`
	ReceiveEnded time.Time `json:"receive_ended,omitzero"`
	SendBegan    time.Time `json:"send_began,omitzero"`
	SendEnded    time.Time `json:"send_ended,omitzero"` // when the upstream was known to hold it
}

// Step is one thing that was done for a push, in a sentence: mostly a request to
// the upstream and its answer.
type Step struct {
	When   time.Time `json:"when"`
	Blob   string    `json:"blob,omitempty"` // digest; empty: the push itself
	Op     string    `json:"op"`             // head, mount, start, upload, manifest, token, decide
	Text   string    `json:"text"`
	Code   int       `json:"code,omitempty"` // HTTP status
	Bytes  int64     `json:"bytes,omitempty"`
	Millis int64     `json:"ms,omitempty"`
}

// Job is one push in the queue.
type Job struct {
	ID         string    `json:"id"`
	Push       string    `json:"push,omitempty"`
	Principal  string    `json:"principal"`
	Upstream   string    `json:"upstream"`
	Repository string    `json:"repository"`
	Reference  string    `json:"reference"`
	State      string    `json:"state"` // the queue's words: waiting, sending, needs-auth, parked …
	Tries      int       `json:"tries"`
	Since      time.Time `json:"since"`
	NextTry    time.Time `json:"next_try,omitzero"`
	Why        string    `json:"why,omitempty"`
	Bytes      int64     `json:"bytes"`
}

// Upstream is one registry that pushes go to.
type Upstream struct {
	Host       string    `json:"host"`
	Reachable  string    `json:"reachable"` // yes, no, unknown (nothing was asked yet)
	Since      time.Time `json:"since,omitzero"`
	Why        string    `json:"why,omitempty"`        // with no
	Credential string    `json:"credential,omitempty"` // source and user name, never a secret
	Expires    time.Time `json:"expires,omitzero"`     // of the token in use
	Paused     time.Time `json:"paused_until,omitzero"`
	Limits     []string  `json:"limits,omitempty"` // met: "429 at 14:03, one upload at a time until 14:05"
	Quirks     []string  `json:"quirks,omitempty"` // known and learned
	Uploading  int       `json:"uploading"`
	Waiting    int       `json:"waiting"`
	Rate       int64     `json:"rate"` // bytes per second upstream, now
	Requests   int64     `json:"requests"`
	Failures   int64     `json:"failures"`
}

// Store is the cache on this disk.
type Store struct {
	LiveBytes int64     `json:"live_bytes"`
	DiskBytes int64     `json:"disk_bytes"`
	Quota     int64     `json:"quota"` // 0: none
	FreeBytes int64     `json:"free_bytes"`
	Blobs     int64     `json:"blobs"`
	Oldest    time.Time `json:"oldest,omitzero"` // last use of the blob that goes next
	ReadOnly  string    `json:"read_only,omitempty"`
}
