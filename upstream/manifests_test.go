package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
	"pushproxy/upstream/upstreamtest"
)

// image returns a manifest of one blob that the fake has.
func image(r *upstreamtest.Registry) ([]byte, digest.Digest) {
	b, d := blobOf(100)
	r.AddBlob("acme/app", b)
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x","digest":%q,"size":100},"layers":[]}`, oci.MediaTypeOCIManifest, d)
	return raw, digest.FromBytes(raw)
}

func TestPutManifest(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Header: http.Header{"Warning": {`299 - "be warned"`, strings.Repeat("x", 5000)}}}
	raw, d := image(r)
	c := newClient(r)
	for _, reference := range []string{"v1", d.String()} {
		result, err := c.PutManifest(t.Context(), app, reference, oci.MediaTypeOCIManifest, raw, nil)
		noError(t, err)
		if result.Digest != d || len(result.Warnings) != 1 || len(result.Tags) != 0 {
			t.Errorf("result %+v", result)
		}
	}
	got, mediaType, ok := r.Manifest("acme/app", "v1")
	if !ok || string(got) != string(raw) || mediaType != oci.MediaTypeOCIManifest {
		t.Errorf("the upstream has %s %q, %v", mediaType, got, ok)
	}
	sawRequests(t, r, d, "PUT …/manifests/v1", "PUT …/manifests/D")
}

func TestPutManifestWithTags(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		registry *upstreamtest.Registry
		fault    upstreamtest.Fault
		want     []string
		next     []string
	}{
		"one request where the upstream takes ?tag=": {&upstreamtest.Registry{}, upstreamtest.Fault{},
			[]string{"PUT …/manifests/D?tag"}, []string{"PUT …/manifests/D?tag"}},
		"one for each tag where it ignores it, which is remembered": {&upstreamtest.Registry{NoTagParam: true}, upstreamtest.Fault{},
			[]string{"PUT …/manifests/D?tag", "PUT …/manifests/a", "PUT …/manifests/b"},
			[]string{"PUT …/manifests/D", "PUT …/manifests/a", "PUT …/manifests/b"}},
		"and where it refuses it": {&upstreamtest.Registry{NoTagParam: true}, upstreamtest.Fault{Method: "PUT", Status: 414},
			[]string{"PUT …/manifests/D?tag", "PUT …/manifests/D", "PUT …/manifests/a", "PUT …/manifests/b"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.registry
			if test.fault.Status != 0 {
				r.Inject(test.fault)
			}
			raw, d := image(r)
			c := newClient(r)
			for _, want := range [][]string{test.want, test.next} {
				if want == nil {
					continue
				}
				r.Reset()
				result, err := c.PutManifest(t.Context(), app, d.String(), oci.MediaTypeOCIManifest, raw, []string{"a", "b"})
				noError(t, err)
				if !slices.Equal(result.Tags, []string{"a", "b"}) {
					t.Errorf("tags %v, want both", result.Tags)
				}
				sawRequests(t, r, d, want...)
			}
			for _, tag := range []string{"a", "b"} {
				if _, _, ok := r.Manifest("acme/app", tag); !ok {
					t.Errorf("tag %s is not there", tag)
				}
			}
		})
	}
}

func TestASubjectIsReportedOnlyWhenTheUpstreamSaysSo(t *testing.T) {
	t.Parallel()
	for _, without := range []bool{false, true} {
		r := &upstreamtest.Registry{NoReferrers: without}
		raw := fmt.Appendf(nil, `{"schemaVersion":2,"subject":{"digest":%q}}`, digest.FromString("s"))
		result, err := newClient(r).PutManifest(t.Context(), app, "v1", oci.MediaTypeOCIManifest, raw, nil)
		noError(t, err)
		if (result.Subject == "") != without {
			t.Errorf("subject %q of an upstream without referrers: %v", result.Subject, without)
		}
	}
}

func TestAManifestWhoseBlobsAreMissingIsRecognised(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 404} {
		for _, code := range []string{"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"} {
			r := &upstreamtest.Registry{Missing: status, MissingCode: code}
			raw, _ := image(r)
			_, d := blobOf(100)
			r.Forget(d)
			_, err := newClient(r).PutManifest(t.Context(), app, "v1", oci.MediaTypeOCIManifest, raw, nil)
			if !errors.Is(err, oci.ErrManifestBlobUnknown) {
				t.Errorf("%d %s: %v, want ErrManifestBlobUnknown", status, code, err)
			}
		}
	}
}

func TestAManifestIsStoredOrItIsAnError(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault    upstreamtest.Fault
		registry *upstreamtest.Registry
		want     error
	}{
		"a passing 502":                      {fault: upstreamtest.Fault{Method: "PUT", Status: 502, Times: 4}},
		"an answer that is lost":             {fault: upstreamtest.Fault{Method: "PUT", Lost: true}},
		"a 2xx that is no 201, not stored":   {fault: upstreamtest.Fault{Method: "PUT", Status: 200}, want: oci.ErrUpstream},
		"another digest":                     {registry: &upstreamtest.Registry{Digest: digest.FromString("x").String()}, want: oci.ErrUpstream},
		"a 502 that stays":                   {fault: upstreamtest.Fault{Method: "PUT", Status: 502, Times: -1}, want: oci.ErrUpstream},
		"401":                                {fault: upstreamtest.Fault{Method: "PUT", Status: 401}, want: oci.ErrDenied},
		"404 for the repository":             {fault: upstreamtest.Fault{Method: "PUT", Status: 404}, want: oci.ErrNameUnknown},
		"an immutable tag":                   {fault: upstreamtest.Fault{Method: "PUT", Status: 400, Code: "TAG_INVALID"}, want: oci.ErrTagInvalid},
		"a status and a code of its own":     {fault: upstreamtest.Fault{Method: "PUT", Status: 412, Code: "PRECONDITION"}, want: &oci.Error{Status: 412, Code: "PRECONDITION"}},
		"an upstream that is in a quota 413": {fault: upstreamtest.Fault{Method: "PUT", Status: 413, Code: "MANIFEST_INVALID"}, want: oci.ErrManifestTooLarge},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := test.registry
				if r == nil {
					r = &upstreamtest.Registry{}
				}
				raw, d := image(r)
				if test.fault.Method != "" {
					r.Inject(test.fault)
				}
				_, err := newClient(r).PutManifest(t.Context(), app, "v1", oci.MediaTypeOCIManifest, raw, nil)
				if !errors.Is(err, test.want) {
					t.Fatalf("error %v, want %v", err, test.want)
				}
				if _, _, ok := r.Manifest("acme/app", d.String()); err == nil && !ok {
					t.Error("success without the manifest")
				}
			})
		})
	}
	r := &upstreamtest.Registry{}
	if _, err := newClient(r).PutManifest(t.Context(), app, "v1", "x", make([]byte, oci.MaxManifest+1), nil); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Errorf("a manifest over 4 MiB: %v", err)
	}
	sawRequests(t, r, "-")
}

func TestS26GetManifestChecksWhatItGets(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	raw, d := image(r)
	r.AddManifest("acme/app", "v1", oci.MediaTypeOCIManifest, raw)
	c := newClient(r)
	for _, reference := range []string{"v1", d.String()} {
		for _, said := range []string{"", "-"} {
			r.Digest = said
			desc, got, err := c.GetManifest(t.Context(), app, reference, nil)
			noError(t, err)
			if desc.MediaType != oci.MediaTypeOCIManifest || desc.Digest != d || desc.Size != int64(len(raw)) || string(got) != string(raw) {
				t.Errorf("%s: %+v", reference, desc)
			}
		}
	}
	r.Digest = digest.FromString("x").String()
	if _, _, err := c.GetManifest(t.Context(), app, "v1", nil); !errors.Is(err, oci.ErrUpstream) {
		t.Errorf("an answer that names another digest: %v, want ErrUpstream", err)
	}
	r.Digest = "-"
	if _, _, err := c.GetManifest(t.Context(), app, digest.FromString("x").String(), nil); !errors.Is(err, oci.ErrManifestUnknown) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	r.AddManifest("acme/app", "big", oci.MediaTypeOCIManifest, make([]byte, oci.MaxManifest+1))
	if _, _, err := c.GetManifest(t.Context(), app, "big", nil); !errors.Is(err, oci.ErrManifestTooLarge) {
		t.Errorf("a manifest over 4 MiB: %v", err)
	}
}

func TestAManifestThatBreaksOffIsFetchedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &upstreamtest.Registry{}
		raw, d := image(r)
		r.AddManifest("acme/app", "v1", oci.MediaTypeOCIManifest, raw)
		r.Inject(upstreamtest.Fault{Method: "GET", Cut: 20})
		desc, _, err := newClient(r).GetManifest(t.Context(), app, "v1", nil)
		if err != nil || desc.Digest != d {
			t.Errorf("GetManifest = %v, %v", desc, err)
		}
	})
}

func TestHeadManifest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		registry  *upstreamtest.Registry
		fault     upstreamtest.Fault
		host      string
		reference string
		found     bool
		requests  int
		want      error
	}{
		"there":                             {reference: "v1", found: true, requests: 1},
		"not there":                         {reference: "v2", requests: 1},
		"without a digest in the answer":    {registry: &upstreamtest.Registry{Digest: "-"}, reference: "v1", found: true, requests: 2},
		"without a media type":              {registry: &upstreamtest.Registry{Bare: true}, reference: "v1", found: true, requests: 2},
		"another digest than asked for":     {registry: &upstreamtest.Registry{Digest: digest.FromString("x").String()}, reference: "D", requests: 1},
		"an upstream without HEAD":          {fault: upstreamtest.Fault{Method: "HEAD", Status: 405}, reference: "v1", found: true, requests: 2},
		"403":                               {fault: upstreamtest.Fault{Method: "HEAD", Status: 403}, reference: "v1", requests: 1, want: oci.ErrDenied},
		"403 where that may mean not there": {fault: upstreamtest.Fault{Method: "HEAD", Status: 403}, host: "acme.jfrog.io", reference: "v2", requests: 2},
		"a 500 that passes":                 {fault: upstreamtest.Fault{Method: "HEAD", Status: 500}, reference: "v1", found: true, requests: 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := test.registry
				if r == nil {
					r = &upstreamtest.Registry{}
				}
				raw, d := image(r)
				r.AddManifest("acme/app", "v1", oci.MediaTypeOCIManifest, raw)
				if test.fault.Status != 0 {
					r.Inject(test.fault)
				}
				c := newClient(r)
				if test.host != "" {
					c.Host = test.host
				}
				desc, found, err := c.HeadManifest(t.Context(), app, strings.ReplaceAll(test.reference, "D", d.String()), nil)
				if found != test.found || !errors.Is(err, test.want) {
					t.Fatalf("HeadManifest = %v, %v; want %v, %v", found, err, test.found, test.want)
				}
				if found && (desc.Digest != d || desc.Size != int64(len(raw)) || desc.MediaType != oci.MediaTypeOCIManifest) {
					t.Errorf("descriptor %+v", desc)
				}
				if n := len(r.Requests()); n != test.requests {
					t.Errorf("requests %v, want %d", r.Requests(), test.requests)
				}
			})
		})
	}
}

func TestDeleteManifest(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	raw, d := image(r)
	r.AddManifest("acme/app", "v1", oci.MediaTypeOCIManifest, raw)
	c := newClient(r)
	noError(t, c.DeleteManifest(t.Context(), app, d.String()))
	if err := c.DeleteManifest(t.Context(), app, d.String()); !errors.Is(err, oci.ErrManifestUnknown) {
		t.Errorf("deleting twice: %v, want ErrManifestUnknown", err)
	}
}
