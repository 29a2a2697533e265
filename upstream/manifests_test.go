package upstream

import (
	"context"
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
		"a digest that is none":              {registry: &upstreamtest.Registry{Digest: "sha256:short"}, want: oci.ErrUpstream},
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
		"there":                         {reference: "v1", found: true, requests: 1},
		"not there":                     {reference: "v2", requests: 1},
		"there, by its digest":          {reference: "D", found: true, requests: 1},
		"a digest of another algorithm": {registry: &upstreamtest.Registry{Digest: digest.SHA512.FromString("x").String()}, reference: "D", found: true, requests: 1},
		"there, where 403 may mean that it is not": {host: "acme.jfrog.io", reference: "v1", found: true, requests: 1},
		"without a digest in the answer":           {registry: &upstreamtest.Registry{Digest: "-"}, reference: "v1", found: true, requests: 2},
		"without a media type":                     {registry: &upstreamtest.Registry{Bare: true}, reference: "v1", found: true, requests: 2},
		"another digest than asked for":            {registry: &upstreamtest.Registry{Digest: digest.FromString("x").String()}, reference: "D", requests: 1},
		"an upstream without HEAD":                 {fault: upstreamtest.Fault{Method: "HEAD", Status: 405}, reference: "v1", found: true, requests: 2},
		"403":                                      {fault: upstreamtest.Fault{Method: "HEAD", Status: 403}, reference: "v1", requests: 1, want: oci.ErrDenied},
		"403 where that may mean not there":        {fault: upstreamtest.Fault{Method: "HEAD", Status: 403}, host: "acme.jfrog.io", reference: "v2", requests: 2},
		"a 500 that passes":                        {fault: upstreamtest.Fault{Method: "HEAD", Status: 500}, reference: "v1", found: true, requests: 2},
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

func TestAManifestWhoseHeadIsRefusedIsNotSaidToBeMissing(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{403: oci.ErrDenied, 404: nil, 405: &oci.Error{Status: 405, Code: "UNKNOWN"}} {
		r := &upstreamtest.Registry{}
		r.Inject(upstreamtest.Fault{Method: "HEAD", Status: 405}, upstreamtest.Fault{Method: "GET", Status: status})
		if _, found, err := newClient(r).HeadManifest(t.Context(), app, "v1", nil); found || !errors.Is(err, want) {
			t.Errorf("a GET that says %d: %v, %v; want %v", status, found, err, want)
		}
	}
}

func TestAHeadWithoutALengthIsMadeUpForByAGet(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	raw, d := image(r)
	r.AddManifest("acme/app", "v1", oci.MediaTypeOCIManifest, raw)
	c := newClient(r)
	c.HTTP.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := r.Transport().RoundTrip(req)
		if req.Method == http.MethodHead {
			resp.ContentLength = -1
		}
		return resp, err
	})
	if desc, found, err := c.HeadManifest(t.Context(), app, "v1", nil); err != nil || !found || desc.Size != int64(len(raw)) {
		t.Errorf("%+v, %v, %v", desc, found, err)
	}
	sawRequests(t, r, d, "HEAD …/manifests/v1", "GET …/manifests/v1")
}

func TestTypesThatSayNothingAboutManifests(t *testing.T) {
	t.Parallel()
	for mediaType, plain := range map[string]bool{
		"text/plain; charset=utf-8": true, "text/html": true, "application/octet-stream": true, "application/json": true, "nonsense/": true,
		oci.MediaTypeOCIManifest: false, oci.MediaTypeOCIManifest + "; charset=utf-8": false, oci.MediaTypeOCIManifest + "; =": true,
	} {
		r := &upstreamtest.Registry{}
		raw, d := image(r)
		r.AddManifest("acme/app", "v1", mediaType, raw)
		desc, found, err := newClient(r).HeadManifest(t.Context(), app, "v1", nil)
		if err != nil || !found || desc.Digest != d || desc.MediaType != oci.MediaTypeOCIManifest {
			t.Errorf("%s: %+v, %v, %v", mediaType, desc, found, err)
		}
		if asked := len(r.Requests()) == 2; asked != plain {
			t.Errorf("%s: %q", mediaType, r.Requests())
		}
	}
}

func TestWhatIsAcceptedIsWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	c := newClient(r)
	_, _, _ = c.HeadManifest(t.Context(), app, "v1", nil)
	_, _, _ = c.HeadManifest(t.Context(), app, "v1", []string{"a/b", "c/d"})
	all, some := r.Log()[0].Header.Get("Accept"), r.Log()[1].Header.Get("Accept")
	if !strings.HasSuffix(all, ", */*") || !strings.Contains(all, oci.MediaTypeOCIIndex) || some != "a/b, c/d" {
		t.Errorf("Accept %q and %q", all, some)
	}
}

func TestAManifestIsPutUnderItsOwnDigest(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{}
	raw, _ := image(r)
	c := newClient(r)
	for _, other := range []digest.Digest{digest.FromString("x"), digest.SHA512.FromString("x")} {
		if _, err := c.PutManifest(t.Context(), app, other.String(), "x", raw, nil); !errors.Is(err, oci.ErrDigestInvalid) {
			t.Errorf("under another: %v, want ErrDigestInvalid", err)
		}
	}
	sawRequests(t, r, "-")
	long := digest.SHA512.FromBytes(raw)
	if result, err := c.PutManifest(t.Context(), app, long.String(), "x", raw, nil); err != nil || result.Digest != long {
		t.Errorf("%v, %v; want %s", result.Digest, err, long)
	}
}

// Any 2xx but 201 is confirmed by a look.
func TestAManifestThatIsTakenOddlyIsLookedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(r *upstreamtest.Registry, raw []byte)
		want    error
	}{
		"it is there":              {func(r *upstreamtest.Registry, raw []byte) { r.AddManifest("acme/app", "v1", "x", raw) }, nil},
		"it is not":                {func(*upstreamtest.Registry, []byte) {}, oci.ErrUpstream},
		"the tag is another's":     {func(r *upstreamtest.Registry, _ []byte) { r.AddManifest("acme/app", "v1", "x", []byte("{}")) }, oci.ErrUpstream},
		"it may not be looked for": {func(r *upstreamtest.Registry, _ []byte) { r.Inject(upstreamtest.Fault{Method: "HEAD", Status: 403}) }, oci.ErrDenied},
		"it has a digest of another algorithm": {func(r *upstreamtest.Registry, raw []byte) {
			r.AddManifest("acme/app", "v1", "x", raw)
			r.Digest = digest.SHA512.FromBytes(raw).String()
		}, nil},
	} {
		r := &upstreamtest.Registry{}
		raw, _ := image(r)
		test.prepare(r, raw)
		r.Inject(upstreamtest.Fault{Method: "PUT", Status: 202})
		if _, err := newClient(r).PutManifest(t.Context(), app, "v1", "x", raw, nil); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestTagsThatAreRefused(t *testing.T) {
	t.Parallel()
	tags := []string{"a", "b"}
	put := func(c *Client, raw []byte, d digest.Digest, tags ...string) (PutResult, error) {
		return c.PutManifest(context.Background(), app, d.String(), oci.MediaTypeOCIManifest, raw, tags)
	}
	t.Run("a refusal is final, and teaches nothing", func(t *testing.T) {
		r := &upstreamtest.Registry{}
		raw, d := image(r)
		r.Inject(upstreamtest.Fault{Method: "PUT", Status: 403})
		c := newClient(r)
		if _, err := put(c, raw, d, tags...); !errors.Is(err, oci.ErrDenied) {
			t.Errorf("got %v", err)
		}
		if result, err := put(c, raw, d, tags...); err != nil || !slices.Equal(result.Tags, tags) {
			t.Errorf("got %v, %v", result, err)
		}
		sawRequests(t, r, d, "PUT …/manifests/D?tag", "PUT …/manifests/D?tag")
	})
	t.Run("a manifest without tags teaches nothing", func(t *testing.T) {
		r := &upstreamtest.Registry{}
		raw, d := image(r)
		c := newClient(r)
		noError(t, second(put(c, raw, d)))
		noError(t, second(put(c, raw, d, tags...)))
		sawRequests(t, r, d, "PUT …/manifests/D", "PUT …/manifests/D?tag")
	})
	t.Run("one tag that is refused is an error with those that were not", func(t *testing.T) {
		r := &upstreamtest.Registry{NoTagParam: true}
		raw, d := image(r)
		r.Inject(upstreamtest.Fault{Method: "PUT", Path: "/manifests/b", Status: 403})
		if result, err := put(newClient(r), raw, d, "a", "b", "c"); !errors.Is(err, oci.ErrDenied) || !slices.Equal(result.Tags, []string{"a"}) {
			t.Errorf("got %v, %v", result, err)
		}
		sawRequests(t, r, d, "PUT …/manifests/D?tag", "PUT …/manifests/a", "PUT …/manifests/b")
	})
	t.Run("tags that nobody asked for, or twice, are not reported", func(t *testing.T) {
		r := &upstreamtest.Registry{NoTagParam: true, Header: http.Header{"Oci-Tag": {"a, a ,evil", "b,a"}}}
		raw, d := image(r)
		if result, err := put(newClient(r), raw, d, tags...); err != nil || !slices.Equal(result.Tags, tags) {
			t.Errorf("got %v, %v", result, err)
		}
		sawRequests(t, r, d, "PUT …/manifests/D?tag")
	})
}

func TestLimitsAreReachedAndNotPassed(t *testing.T) {
	t.Parallel()
	r := &upstreamtest.Registry{Header: http.Header{"Warning": {strings.Repeat("x", maxWarnings-1), "y", "z"}}}
	raw := []byte(`{"schemaVersion":2,"pad":"` + strings.Repeat(" ", oci.MaxManifest-28) + `"}`)
	if len(raw) != oci.MaxManifest {
		t.Fatal(len(raw))
	}
	c := newClient(r)
	result, err := c.PutManifest(t.Context(), app, "v1", oci.MediaTypeOCIManifest, raw, nil)
	if err != nil || len(result.Warnings) != 2 {
		t.Errorf("%d warnings, %v", len(result.Warnings), err)
	}
	if desc, _, err := c.GetManifest(t.Context(), app, "v1", nil); err != nil || desc.Size != oci.MaxManifest {
		t.Errorf("%+v, %v", desc, err)
	}
}
