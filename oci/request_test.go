package oci

import (
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const (
	d256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

func TestParseReadsEveryEndPoint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, url string
		want        Request
	}{
		{"GET", "/v2/", Request{Kind: KindPing}},
		{"GET", "/v2", Request{Kind: KindPing}},
		{"GET", "/v2/ghcr.io/acme/app/blobs/" + d256, Request{Kind: KindBlobGet, Name: "ghcr.io/acme/app", Digest: d256}},
		{"HEAD", "/v2/a/blobs/" + d512, Request{Kind: KindBlobHead, Name: "a", Digest: d512}},
		{"HEAD", "/v2/a/blobs/" + strings.Replace(d256, ":", "%3A", 1), Request{Kind: KindBlobHead, Name: "a", Digest: d256}},
		{"DELETE", "/v2/a/blobs/" + d256, Request{Kind: KindBlobDelete, Name: "a", Digest: d256}},
		{"GET", "/v2/a/manifests/latest", Request{Kind: KindManifestGet, Name: "a", Tag: "latest"}},
		{"HEAD", "/v2/a/manifests/" + d256, Request{Kind: KindManifestHead, Name: "a", Digest: d256}},
		{"PUT", "/v2/a/manifests/v1?ns=ghcr.io", Request{Kind: KindManifestPut, Name: "a", Tag: "v1", Namespace: "ghcr.io"}},
		{"PUT", "/v2/a/manifests/" + d256 + "?tag=a&tag=b", Request{Kind: KindManifestPut, Name: "a", Digest: d256, Tags: []string{"a", "b"}}},
		{"DELETE", "/v2/a/manifests/v1", Request{Kind: KindManifestDelete, Name: "a", Tag: "v1"}},
		{"POST", "/v2/a/blobs/uploads/", Request{Kind: KindUploadStart, Name: "a"}},
		{"POST", "/v2/a/blobs/uploads", Request{Kind: KindUploadStart, Name: "a"}},
		{"POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512", Request{Kind: KindUploadStart, Name: "a", Algorithm: digest.SHA512}},
		{"POST", "/v2/a/blobs/uploads/?from=b", Request{Kind: KindUploadStart, Name: "a"}},
		{"POST", "/v2/a/blobs/uploads/?digest=" + d256, Request{Kind: KindUploadWhole, Name: "a", Digest: d256}},
		{"POST", "/v2/a/blobs/uploads/?mount=" + d256 + "&from=b/c&origin=x", Request{Kind: KindMount, Name: "a", Digest: d256, From: "b/c"}},
		{"POST", "/v2/a/blobs/uploads/?mount=" + d256, Request{Kind: KindMount, Name: "a", Digest: d256}},
		{"POST", "/v2/a/blobs/uploads/?mount=" + d256 + "&from=../x", Request{Kind: KindMount, Name: "a", Digest: d256}},
		{"PATCH", "/v2/a/blobs/uploads/Id_1-2?digest=x", Request{Kind: KindUploadChunk, Name: "a", Upload: "Id_1-2"}},
		{"PUT", "/v2/a/blobs/uploads/id?digest=" + d256, Request{Kind: KindUploadFinish, Name: "a", Upload: "id", Digest: d256}},
		{"GET", "/v2/a/blobs/uploads/id", Request{Kind: KindUploadStatus, Name: "a", Upload: "id"}},
		{"DELETE", "/v2/a/blobs/uploads/id", Request{Kind: KindUploadCancel, Name: "a", Upload: "id"}},
		{"GET", "/v2/a/tags/list?n=5&last=x", Request{Kind: KindTags, Name: "a"}},
		{"GET", "/v2/a/referrers/" + d256, Request{Kind: KindReferrers, Name: "a", Digest: d256}},
		{"GET", "/v2/blobs/uploads/tags/list", Request{Kind: KindTags, Name: "blobs/uploads"}},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(c.method, u)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s: got %+v, %v, want %+v", c.method, c.url, got, err, c.want)
		}
	}
}

func TestParseRefusesWhatTheSpecificationRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxName+1)
	for _, c := range []struct {
		says, method, path string
		want               *Error
	}{
		{"a path outside /v2/", "GET", "/v1/_ping", ErrNotFound},
		{"a path that only begins like /v2", "GET", "/v2x/a/tags/list", ErrNotFound},
		{"the catalog", "GET", "/v2/_catalog", ErrNotFound},
		{"a method that an end-point lacks", "PATCH", "/v2/a/manifests/v1", ErrUnsupported},
		{"a POST to the root", "POST", "/v2/", ErrUnsupported},
		{"an upper-case name", "GET", "/v2/Acme/tags/list", ErrNameInvalid},
		{"an empty name", "GET", "/v2//tags/list", ErrNameInvalid},
		{"no name", "GET", "/v2/tags/list", ErrNameInvalid},
		{"dots as a component", "GET", "/v2/a/../b/tags/list", ErrNameInvalid},
		{"an escaped slash", "GET", "/v2/a%2fb/tags/list", ErrNameInvalid},
		{"an escaped dot", "GET", "/v2/a/%2e%2e/tags/list", ErrNameInvalid},
		{"a NUL", "GET", "/v2/a%00/tags/list", ErrNameInvalid},
		{"a double slash", "GET", "/v2/a//b/tags/list", ErrNameInvalid},
		{"a name that is too long", "GET", "/v2/" + long + "/tags/list", ErrNameInvalid},
		{"a host with a port", "GET", "/v2/localhost:5000/a/tags/list", ErrNameInvalid},
		{"a short digest", "GET", "/v2/a/blobs/sha256:abc", ErrDigestInvalid},
		{"an upper-case digest", "GET", "/v2/a/blobs/" + strings.ToUpper(d256), ErrDigestInvalid},
		{"upper-case hexadecimal", "GET", "/v2/a/blobs/sha256:" + strings.ToUpper(d256[7:]), ErrDigestInvalid},
		{"md5", "GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", ErrDigestInvalid},
		{"sha384", "GET", "/v2/a/blobs/sha384:" + strings.Repeat("0", 96), ErrDigestInvalid},
		{"a traversal as digest", "GET", "/v2/a/blobs/sha256:..%2f..", ErrDigestInvalid},
		{"two digests", "PUT", "/v2/a/blobs/uploads/id?digest=" + d256 + "&digest=" + d256, ErrDigestInvalid},
		{"no digest at the end of an upload", "PUT", "/v2/a/blobs/uploads/id", ErrDigestInvalid},
		{"a bad mount digest", "POST", "/v2/a/blobs/uploads/?mount=x&from=b", ErrDigestInvalid},
		{"an unknown algorithm", "POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", ErrDigestInvalid},
		{"an upload that cannot be ours", "PATCH", "/v2/a/blobs/uploads/a.b", ErrBlobUploadUnknown},
		{"a tag with a space", "GET", "/v2/a/manifests/a%20b", ErrTagInvalid},
		{"a tag that is too long", "GET", "/v2/a/manifests/" + strings.Repeat("t", 129), ErrTagInvalid},
		{"a bad ?tag=", "PUT", "/v2/a/manifests/" + d256 + "?tag=-x", ErrTagInvalid},
		{"a broken query", "GET", "/v2/a/tags/list?n=%zz", ErrNameInvalid},
	} {
		u, err := url.ParseRequestURI(c.path)
		if err != nil {
			t.Fatalf("%s: %v", c.says, err)
		}
		if _, err := Parse(c.method, u); !errors.Is(err, c.want) {
			t.Errorf("%s: %s %s: got %v, want %v", c.says, c.method, c.path, err, c.want)
		}
	}
}

func TestParseTakesManyTagsButNotAnyNumber(t *testing.T) {
	t.Parallel()
	u := &url.URL{Path: "/v2/a/manifests/" + d256, RawQuery: strings.TrimSuffix(strings.Repeat("tag=x&", 33), "&")}
	var e *Error
	if _, err := Parse("PUT", u); !errors.As(err, &e) || e.Status != 414 {
		t.Errorf("33 tags: got %v, want status 414", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("GET", "/v2/a/blobs/"+d256, "")
	f.Add("POST", "/v2/a/b/blobs/uploads/", "mount="+d512+"&from=x")
	f.Add("PUT", "/v2/%2e%2e/manifests/x", "tag=a;b")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		r, err := Parse(method, &url.URL{Path: path, RawQuery: query})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status < 400 || e.Status > 499 {
				t.Fatalf("%q %q: %v is not a client error", method, path, err)
			}
			return
		}
		if r.Kind != KindPing && !ValidName(r.Name) {
			t.Fatalf("%q: name %q passed", path, r.Name)
		}
		if r.Tag != "" && !ValidTag(r.Tag) {
			t.Fatalf("%q: tag %q passed", path, r.Tag)
		}
		if r.Digest != "" && r.Digest.Validate() != nil {
			t.Fatalf("%q: digest %q passed", path, r.Digest)
		}
	})
}
