package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// stream hides a body's length, so that it is sent chunked as docker does.
func stream(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }

func (r *rig) patch(location string, body []byte, headers ...string) string {
	r.t.Helper()
	return r.want(http.StatusAccepted, "PATCH", location, body, headers...).header.Get("Location")
}

func sum(b []byte) string { return "?digest=" + digest.FromBytes(b).String() }

func sum512(b []byte) string { return "?digest=" + digest.SHA512.FromBytes(b).String() }

var someBlob = blobOf(3<<20 + 17)

// styles are the ways in which clients push a blob.
var styles = []struct {
	name string
	blob []byte
	d    digest.Digest
	push func(r *rig, blob []byte) reply
}{
	{"POST and PUT with the whole body", someBlob, "", func(r *rig, b []byte) reply {
		return r.want(201, "PUT", r.begin(app)+sum(b), b)
	}},
	{"POST and PUT of a streamed body", someBlob, "", func(r *rig, b []byte) reply {
		got, err := r.try("PUT", r.begin(app)+sum(b), stream(b))
		if err != nil {
			r.t.Fatal(err)
		}
		return got
	}},
	{"POST, one streamed PATCH and an empty PUT", someBlob, "", func(r *rig, b []byte) reply {
		got, err := r.try("PATCH", r.begin(app), stream(b))
		if err != nil || got.status != 202 {
			r.t.Fatal(got.status, err)
		}
		return r.want(201, "PUT", got.header.Get("Location")+sum(b), nil)
	}},
	{"PATCHes without a range and the rest in the PUT", someBlob, "", func(r *rig, b []byte) reply {
		at := r.patch(r.patch(r.begin(app), b[:1000]), b[1000:2000000])
		return r.want(201, "PUT", at+sum(b), b[2000000:])
	}},
	{"chunks with ranges, the last in the PUT", someBlob, "", func(r *rig, b []byte) reply {
		at := r.patch(r.begin(app), b[:1<<20], fmt.Sprintf("Content-Range: 0-%d", 1<<20-1))
		at = r.patch(at, b[1<<20:2<<20], fmt.Sprintf("Content-Range: %d-%d", 1<<20, 2<<20-1))
		return r.want(201, "PUT", at+sum(b), b[2<<20:], fmt.Sprintf("Content-Range: %d-%d", 2<<20, len(b)-1))
	}},
	{"one chunk with the range of HTTP and a stray digest", someBlob, "", func(r *rig, b []byte) reply {
		at := r.patch(r.begin(app)+sum(b), b, fmt.Sprintf("Content-Range: bytes 0-%d/*", len(b)-1))
		return r.want(201, "PUT", at+sum(b), nil)
	}},
	{"one POST", someBlob, "", func(r *rig, b []byte) reply { return r.want(201, "POST", app+"/blobs/uploads/"+sum(b), b) }},
	{"one POST without the last slash", someBlob, "", func(r *rig, b []byte) reply { return r.want(201, "POST", app+"/blobs/uploads"+sum(b), b) }},
	{"a declined mount and PUT", someBlob, "", func(r *rig, b []byte) reply {
		at := r.want(202, "POST", app+"/blobs/uploads/?mount="+digest.FromBytes(b).String()+"&from=registry.test/acme/base", nil).header.Get("Location")
		return r.want(201, "PUT", at+sum(b), b)
	}},
	{"a crane POST with a content type, from and origin but no mount", someBlob, "", func(r *rig, b []byte) reply {
		at := r.want(202, "POST", app+"/blobs/uploads/?from=a/b&origin=x.test", []byte("{}"), "Content-Type: application/json").header.Get("Location")
		return r.want(201, "PUT", at+sum(b), b)
	}},
	{"an empty blob by POST and PUT", nil, "", func(r *rig, b []byte) reply { return r.want(201, "PUT", r.begin(app)+sum(b), nil) }},
	{"an empty blob by one POST", nil, "", func(r *rig, b []byte) reply { return r.want(201, "POST", app+"/blobs/uploads/"+sum(b), nil) }},
	{"the empty JSON object", []byte("{}"), "", func(r *rig, b []byte) reply { return r.want(201, "PUT", r.patch(r.begin(app), b)+sum(b), nil) }},
	{"sha512 that the POST announces", someBlob, digest.SHA512.FromBytes(someBlob), func(r *rig, b []byte) reply {
		at := r.want(202, "POST", app+"/blobs/uploads/?digest-algorithm=sha512", nil).header.Get("Location")
		return r.want(201, "PUT", at+sum512(b), b)
	}},
	{"sha512 that only the PUT names", someBlob, digest.SHA512.FromBytes(someBlob), func(r *rig, b []byte) reply {
		return r.want(201, "PUT", r.patch(r.begin(app), b)+sum512(b), nil)
	}},
	{"sha512 by one POST", someBlob, digest.SHA512.FromBytes(someBlob), func(r *rig, b []byte) reply { return r.want(201, "POST", app+"/blobs/uploads/"+sum512(b), b) }},
}

func TestEveryStyleOfPushStoresTheBlob(t *testing.T) {
	for _, test := range styles {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			d := test.d
			if d == "" {
				d = digest.FromBytes(test.blob)
			}
			got := test.push(r, test.blob)
			if got.status != 201 {
				t.Fatalf("status %d: %s", got.status, got.body)
			}
			location := app + "/blobs/" + d.String()
			r.hasHeaders(got, flags{"Location": location, "Docker-Content-Digest": d.String(), "Server": "pushproxy", "Docker-Distribution-API-Version": "registry/2.0"})
			head := r.want(200, "HEAD", location, nil)
			r.hasHeaders(head, flags{"Docker-Content-Digest": d.String(), "Content-Length": fmt.Sprint(len(test.blob))})
			if back := r.want(200, "GET", location, nil); !bytes.Equal(back.body, test.blob) {
				t.Errorf("read back %d other bytes", len(back.body))
			}
		})
	}
}

func TestAnUploadSaysWhereItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.want(202, "POST", app+"/blobs/uploads/", nil)
	at := first.header.Get("Location")
	if !regexp.MustCompile(`^` + app + `/blobs/uploads/[0-9a-f]{32}$`).MatchString(at) {
		t.Fatalf("location %q is not a plain path from the root", at)
	}
	id := at[strings.LastIndex(at, "/")+1:]
	r.hasHeaders(first, flags{"Range": "0-0", "Docker-Upload-UUID": id, "Content-Length": "0"})
	r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-0", "Location": at})
	r.hasHeaders(r.want(202, "PATCH", at, make([]byte, 10)), flags{"Range": "0-9", "Location": at, "Docker-Upload-UUID": id})
	r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-9", "Location": at, "Docker-Upload-UUID": id})
	if another := r.begin(app); another == at {
		t.Error("two uploads have one location")
	}
}

func TestCancelledUploadsAreGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := r.begin(app)
	r.want(202, "PATCH", at, []byte("abc"))
	r.want(204, "DELETE", at, nil)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		if code, message := r.code(r.want(404, method, at, nil)); code != "BLOB_UPLOAD_UNKNOWN" || !strings.Contains(message, "start a new one") {
			t.Errorf("%s: %s %s", method, code, message)
		}
	}
	r.want(404, "PUT", at+"?digest="+digest.FromString("abc").String(), nil)
}

func TestUploadsBelongToTheirRepository(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	at := r.begin(app)
	id := at[strings.LastIndex(at, "/"):]
	mine := r.want(404, "GET", "/v2/registry.test/acme/other/blobs/uploads"+id, nil)
	none := r.want(404, "GET", app+"/blobs/uploads/0123456789abcdef0123456789abcdef", nil)
	_, a := r.code(mine)
	_, b := r.code(none)
	if strings.ReplaceAll(a, id[1:], "") != strings.ReplaceAll(b, "0123456789abcdef0123456789abcdef", "") {
		t.Errorf("another repository's upload is told from none: %q, %q", a, b)
	}
	r.want(204, "GET", at, nil)
}

func TestBadUploadRequestsAreRefusedAndChangeNothing(t *testing.T) {
	good := "?digest=" + digest.FromString("0123456789").String()
	for _, test := range []struct {
		name, method, query string
		body                string
		headers             []string
		status              int
		code                string
	}{
		{"a chunk that begins too late", "PATCH", "", "abc", []string{"Content-Range: 7-9"}, 416, "BLOB_UPLOAD_INVALID"},
		{"a chunk that begins again", "PATCH", "", "abc", []string{"Content-Range: 0-2"}, 416, "BLOB_UPLOAD_INVALID"},
		{"a closing chunk out of order", "PUT", good, "56789", []string{"Content-Range: 6-10"}, 416, "BLOB_UPLOAD_INVALID"},
		{"a range that is none", "PATCH", "", "abc", []string{"Content-Range: five"}, 400, "BLOB_UPLOAD_INVALID"},
		{"a range that ends before it begins", "PATCH", "", "abc", []string{"Content-Range: 5-4"}, 400, "BLOB_UPLOAD_INVALID"},
		{"a range beyond every number", "PATCH", "", "abc", []string{"Content-Range: 5-99999999999999999999"}, 400, "BLOB_UPLOAD_INVALID"},
		{"a range that disagrees with the length", "PATCH", "", "abc", []string{"Content-Range: 5-9"}, 400, "SIZE_INVALID"},
		{"a digest of other bytes", "PUT", good, "wrong", nil, 400, "DIGEST_INVALID"},
		{"no digest", "PUT", "", "56789", nil, 400, "DIGEST_INVALID"},
		{"two digests", "PUT", good + "&digest=sha256:00", "56789", nil, 400, "DIGEST_INVALID"},
		{"a digest in upper case", "PUT", strings.Replace(good, "sha", "SHA", 1), "56789", nil, 400, "DIGEST_INVALID"},
		{"a digest of an unknown algorithm", "PUT", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e", "56789", nil, 400, "DIGEST_INVALID"},
		{"a method that uploads lack", "POST", "", "", nil, 405, "UNSUPPORTED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			at := r.begin(app)
			r.patch(at, []byte("01234"))
			got := r.want(test.status, test.method, at+test.query, []byte(test.body), test.headers...)
			if code, _ := r.code(got); code != test.code {
				t.Errorf("code %s, want %s", code, test.code)
			}
			if test.status == 416 {
				r.hasHeaders(got, flags{"Location": at, "Range": "0-4"})
			}
			r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-4"})
			r.want(201, "PUT", at+good, []byte("56789"))
		})
	}
}

func TestAStreamedChunkMustHaveTheLengthOfItsRange(t *testing.T) {
	for name, body := range map[string]string{"shorter": "567", "longer": "56789abcdef"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			at := r.begin(app)
			r.patch(at, []byte("01234"))
			got, err := r.try("PATCH", at, stream([]byte(body)), "Content-Range: 5-9")
			if err != nil || got.status != 400 {
				t.Fatalf("status %d, %v", got.status, err)
			}
			if code, _ := r.code(got); code != "SIZE_INVALID" {
				t.Errorf("code %s", code)
			}
			r.hasHeaders(r.want(204, "GET", at, nil), flags{"Range": "0-4"})
		})
	}
}

func TestASinglePostOfOtherBytesLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := digest.FromString("right")
	r.want(400, "POST", app+"/blobs/uploads/?digest="+d.String(), []byte("wrong"))
	r.want(404, "HEAD", app+"/blobs/"+d.String(), nil)
	r.want(404, "HEAD", app+"/blobs/"+digest.FromString("wrong").String(), nil)
}
