package torture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

const mediaType = "application/vnd.oci.image.manifest.v1+json"

// Push is one push as a client remembers it.
type Push struct {
	Repo, Tag, Digest string
	Async, Acked      bool
	Answered          time.Time // of the acknowledgement
}

// Client pushes images to a pushproxy, one after the other, and remembers them.
type Client struct {
	URL   string // of the door
	Host  string // of the upstream, as the door knows it
	Model *Model
	Repo  string
	Tags  []string
	Big   int           // bytes of the largest layer
	Pause time.Duration // between two pushes
	Way   Way           // blobs are sent

	HTTP   *http.Client
	Random *rand.Rand

	mu     sync.Mutex
	pushes []Push
	shared []byte // a layer that every push has
	wrong  []string
	short  int // answers that broke off though they had begun well
	n      int
}

// Way is how a client sends a blob.
type Way int

// The ways.
const (
	AnyWay    Way = iota // by chance
	InOne                // with its digest, as containerd does
	DigestEnd            // its digest comes when all of it is there, as docker does
)

// Pushes returns all pushes so far, in order.
func (c *Client) Pushes() []Push {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pushes)
}

// Wrong returns what must never have happened.
func (c *Client) Wrong() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.wrong)
}

// Short returns how many answers broke off though they had begun well.
func (c *Client) Short() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.short
}

func (c *Client) accuse(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

var errStatus = errors.New("status")

// send performs a request and returns the answer's body.
func (c *Client) send(method, path, contentType string, body []byte, want int) (http.Header, []byte, error) {
	r, err := http.NewRequest(method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", contentType)
	response, err := c.HTTP.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil && response.StatusCode/100 == 2 {
		c.mu.Lock()
		c.short++
		c.mu.Unlock()
	}
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s %s: %w %d: %s", method, path, errStatus, response.StatusCode, raw)
	}
	return response.Header, raw, err
}

// bytes returns size random bytes.
func (c *Client) bytes(size int) []byte {
	b := make([]byte, size)
	for i := 0; i < len(b); i += 8 {
		v := c.Random.Uint64()
		for k := i; k < min(i+8, len(b)); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

// Push makes an image and pushes it once. An error is the client's bad luck.
func (c *Client) Push(async bool) (Push, error) {
	if c.shared == nil {
		c.shared = c.bytes(20 << 10)
	}
	c.n++
	blobs := [][]byte{[]byte(fmt.Sprintf(`{"repo":%q,"n":%d}`, c.Repo, c.n)), c.shared, c.bytes(1 + c.Random.IntN(c.Big))}
	return c.push(c.Tags[c.Random.IntN(len(c.Tags))], async, blobs)
}

// push pushes an image of some blobs, the first of which is its configuration.
func (c *Client) push(tag string, async bool, blobs [][]byte) (Push, error) {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	var descriptors []descriptor
	for _, b := range blobs {
		descriptors = append(descriptors, descriptor{"application/octet-stream", digestOf(b), len(b)})
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "config": descriptors[0], "layers": descriptors[1:]})
	if err != nil {
		return Push{}, err
	}
	p := Push{Repo: c.Repo, Tag: tag, Digest: digestOf(raw), Async: async}
	for _, b := range blobs {
		if err := c.blob(b); err != nil {
			return p, err
		}
	}
	mode := "sync"
	if async {
		mode = "async"
	}
	c.mu.Lock()
	at := len(c.pushes)
	c.pushes = append(c.pushes, p)
	c.mu.Unlock()
	_, _, err = c.send("PUT", "/v2/"+c.Host+"/"+c.Repo+"/manifests/"+p.Tag+"?pushproxy-mode="+mode, mediaType, raw, http.StatusCreated)
	if err != nil {
		return p, err
	}
	p.Acked, p.Answered = true, time.Now()
	c.mu.Lock()
	c.pushes[at] = p
	c.mu.Unlock()
	if !async {
		if lacks := c.Model.Holds(p.Repo, p.Digest); lacks != "" {
			c.accuse("a sync push of %s:%s was acknowledged and the upstream lacks %s", p.Repo, p.Tag, lacks)
		}
		if is, _ := c.Model.Tag(p.Repo, p.Tag); is != p.Digest {
			c.accuse("a sync push of %s:%s was acknowledged and the tag is %s, not %s", p.Repo, p.Tag, is, p.Digest)
		}
	}
	return p, nil
}

// blob pushes a blob, half of the times without a look for it first.
func (c *Client) blob(b []byte) error {
	base := "/v2/" + c.Host + "/" + c.Repo + "/blobs/"
	if c.Random.IntN(2) == 0 {
		if _, _, err := c.send("HEAD", base+digestOf(b), "", nil, http.StatusOK); err == nil {
			return nil
		} else if !errors.Is(err, errStatus) {
			return err
		}
	}
	h, _, err := c.send("POST", base+"uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	location := h.Get("Location")
	way := c.Way
	if way == AnyWay {
		way = []Way{InOne, DigestEnd}[c.Random.IntN(2)]
	}
	if way == DigestEnd {
		if h, _, err = c.send("PATCH", location, "application/octet-stream", b, http.StatusAccepted); err != nil {
			return err
		}
		location, b = h.Get("Location")+"?digest="+digestOf(b), nil
	} else {
		location += "?digest=" + digestOf(b)
	}
	_, _, err = c.send("PUT", location, "application/octet-stream", b, http.StatusCreated)
	return err
}

// ReadBack reads a push through the door: what comes must be right. What does
// not come is the client's bad luck, unless nothing is broken.
func (c *Client) ReadBack(p Push) error {
	base := "/v2/" + c.Host + "/" + p.Repo
	_, raw, err := c.send("GET", base+"/manifests/"+p.Digest, "", nil, http.StatusOK)
	if err != nil {
		return err
	}
	if digestOf(raw) != p.Digest {
		c.accuse("manifest %s was served with other bytes", p.Digest)
	}
	for _, d := range blobsOf(raw) {
		_, b, err := c.send("GET", base+"/blobs/"+d, "", nil, http.StatusOK)
		if err != nil {
			return err
		}
		if digestOf(b) != d {
			c.accuse("blob %s was served with other bytes", d)
		}
	}
	return nil
}

// Run pushes until stop is closed, some pushes with a client that waits.
func (c *Client) Run(stop <-chan struct{}, asyncShare float64) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		<-time.After(c.Pause)
		p, err := c.Push(c.Random.Float64() < asyncShare)
		if err != nil {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		if c.Random.IntN(4) == 0 {
			// It may be killed now.
			_ = c.ReadBack(p)
		}
	}
}

// Check compares what was acknowledged with what the upstream has at last.
func (c *Client) Check() (acked int, wrong []string) {
	wrong = c.Wrong()
	all := c.Pushes()
	for _, p := range all {
		if !p.Acked {
			continue
		}
		acked++
		if lacks := c.Model.Holds(p.Repo, p.Digest); lacks != "" {
			wrong = append(wrong, fmt.Sprintf("lost: %s:%s (async: %t): the upstream lacks %s", p.Repo, p.Tag, p.Async, lacks))
		}
	}
	for _, tag := range c.Tags {
		// From the last acknowledged write on, any may have been the last.
		var may []string
		for _, p := range slices.Backward(all) {
			if p.Tag == tag {
				may = append(may, p.Digest)
				if p.Acked {
					break
				}
			}
		}
		if is, history := c.Model.Tag(c.Repo, tag); len(may) > 0 && !slices.Contains(may, is) && (is != "" || slices.ContainsFunc(all, func(p Push) bool { return p.Tag == tag && p.Acked })) {
			wrong = append(wrong, fmt.Sprintf("tag %s:%s ended at an older write: it is %s, wanted one of %v; written were %v", c.Repo, tag, is, may, history))
		}
	}
	return acked, wrong
}
