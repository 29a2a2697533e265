package tests

import (
	"net/http"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// Every end-point by a real name: inside a tunnel, and with the registry beside the repository (?ns=), as containerd since
// 2.3 writes it on pushes too.

// startRecordedDoors puts a recorder between pushproxy and its upstream.
func startRecordedDoors(t *testing.T) (*doors, *recorder) {
	t.Helper()
	d := prepareDoors(t, nil)
	rec := startRecorder(t, d.upstream.URL, d.cert.client().Transport)
	d.config.Upstreams[0].URL = rec.URL
	// A default and a prefix, which a real name must pass by.
	d.config.Upstreams = append(d.config.Upstreams, parts.Upstream{Host: "other.test", URL: "https://127.0.0.1:1"})
	d.config.DefaultUpstream = "other.test"
	d.written(t)
	d.start(t)
	return d, rec
}

func TestEveryEndPointTakesARealName(t *testing.T) {
	t.Parallel()
	for name, door := range map[string]struct {
		api func(t *testing.T, d *doors) api
		ns  string
	}{
		"in a tunnel":    {func(t *testing.T, d *doors) api { return d.inTunnel(t) }, ""},
		"with namespace": {func(_ *testing.T, d *doors) api { return d.api() }, "ns=" + upstreamName},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, rec := startRecordedDoors(t)
			a, ns := door.api(t, d), door.ns
			with := func(path string) string {
				if ns == "" {
					return path
				}
				if strings.Contains(path, "?") {
					return path + "&" + ns
				}
				return path + "?" + ns
			}
			repo, other := "/v2/team/app", "/v2/team/other"
			blob := []byte("a blob by its real name")
			layer := desc{MediaType: "application/octet-stream", Digest: digestOf(blob), Size: int64(len(blob))}
			a.want(t, http.StatusOK, "GET", with("/v2/"), nil)
			a.want(t, http.StatusNotFound, "HEAD", with(repo+"/blobs/"+layer.Digest), nil)

			// An upload in pieces, by the locations that the door gives.
			at := a.want(t, http.StatusAccepted, "POST", with(repo+"/blobs/uploads/"), nil).Header.Get("Location")
			at = a.want(t, http.StatusAccepted, "PATCH", at, blob[:5], "Content-Type", "application/octet-stream").Header.Get("Location")
			a.want(t, http.StatusNoContent, "GET", at, nil)
			at = a.want(t, http.StatusCreated, "PUT", withDigest(at, layer.Digest), blob[5:], "Content-Type", "application/octet-stream").Header.Get("Location")
			if got := a.want(t, http.StatusOK, "GET", at, nil); string(got.body) != string(blob) {
				t.Errorf("the blob reads %q", got.body)
			}
			cancel := a.want(t, http.StatusAccepted, "POST", with(repo+"/blobs/uploads/"), nil).Header.Get("Location")
			a.want(t, http.StatusNoContent, "DELETE", cancel, nil)
			config := []byte("{}")
			a.want(t, http.StatusCreated, "POST", with(repo+"/blobs/uploads/?digest="+digestOf(config)), config, "Content-Type", "application/octet-stream")
			content := artifactOf(t, desc{Digest: digestOf(config), Size: 2}, layer)
			a.want(t, http.StatusCreated, "PUT", with(repo+"/manifests/v1"), content, "Content-Type", typeManifest)
			d.holds(t, "team/app", "v1", digestOf(content))

			got := a.want(t, http.StatusOK, "GET", with(repo+"/manifests/v1"), nil, "Accept", typeManifest)
			wantEqual(t, "the manifest", string(got.body), string(content))
			a.want(t, http.StatusOK, "HEAD", with(repo+"/manifests/"+digestOf(content)), nil, "Accept", typeManifest)
			got = a.want(t, http.StatusOK, "GET", with(repo+"/tags/list"), nil)
			wantEqual(t, "the tags", string(got.body), `{"name":"team/app","tags":["v1"]}`)
			if ns == "" { // what a client writes beside the name counts for nothing in a tunnel
				got = a.want(t, http.StatusOK, "GET", repo+"/tags/list?ns=other.test", nil)
				wantEqual(t, "the tags", string(got.body), `{"name":"team/app","tags":["v1"]}`)
			}
			a.do(t, "GET", with(repo+"/referrers/"+digestOf(content)), nil)
			rec.reset()
			a.want(t, http.StatusCreated, "POST", with(other+"/blobs/uploads/?mount="+layer.Digest+"&from=team/app"), nil)
			a.want(t, http.StatusCreated, "PUT", with(other+"/blobs/uploads/"+lastPart(a.want(t, http.StatusAccepted, "POST", with(other+"/blobs/uploads/"), nil).Header.Get("Location"))+"?digest="+digestOf(config)), config)
			a.want(t, http.StatusCreated, "PUT", with(other+"/manifests/v1"), content, "Content-Type", typeManifest)
			d.holds(t, "team/other", "v1", digestOf(content))
			for _, r := range rec.requests() {
				if r.Body > 0 && uploadPath.MatchString(r.Path) && r.Body >= layer.Size {
					t.Errorf("the blob was uploaded a second time: %v", r)
				}
			}
			for _, r := range rec.requests().where(func(r seen) bool { return r.has("ns", upstreamName) || strings.Contains(r.Path, upstreamName) }) {
				t.Errorf("the registry's name went upstream: %v", r)
			}
			if code := a.do(t, "DELETE", with(repo+"/manifests/v1"), nil).StatusCode; code != http.StatusAccepted && code != http.StatusMethodNotAllowed {
				t.Errorf("DELETE is answered %d", code)
			}
		})
	}
}

// lastPart is the session of an upload's location.
func lastPart(location string) string {
	location, _, _ = strings.Cut(location, "?")
	return location[strings.LastIndex(location, "/")+1:]
}

func TestAMountInATunnelNamesTheUpstreamsOwnRepository(t *testing.T) {
	t.Parallel()
	d, rec := startRecordedDoors(t)
	up := api{url: d.upstream.URL, user: parts.Alice(), client: d.cert.client()}
	blob := up.pushBlob(t, "team/app", []byte("only upstream has it"))
	config := up.pushBlob(t, "team/app", []byte("{}"))
	up.pushManifest(t, "team/app", "v1", artifactOf(t, config, blob))
	d.inTunnel(t).want(t, http.StatusCreated, "POST", "/v2/team/new/blobs/uploads/?mount="+blob.Digest+"&from=team/app", nil)
	mounts := rec.requests().mounts()
	if len(mounts) == 0 || !mounts[0].has("from", "team/app") {
		t.Errorf("the upstream was asked\n%s", rec)
	}
}
