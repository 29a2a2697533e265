package upstream

import "strings"

// quirk is how one family of registries differs from the specification in a way
// that changes what is sent, or what a person should be told. Registries that
// run under any name (Harbor, GitLab, Artifactory, Nexus, Quay on premises) have
// no row beyond their vendor's own hosts: what matters of them is learned from
// their answers.
type quirk struct {
	Name   string
	Hosts  []string // exact; ".suffix"; or "infix*"
	Source []string // where each deviation is documented or reported

	WholeOnly     bool           // no chunks: blobs of known length go in one PUT
	LastInPut     bool           // in chunks, the last one goes with the closing PUT
	ChunkMin      int64          // bytes; 0: none
	ChunkMax      int64          // bytes; 0: none
	NoCancel      bool           // asking to cancel is refused
	HeadForbidden bool           // 403 to HEAD of a manifest may mean that it is not there
	MaxTags       int            // larger n= is an error; 0: none
	Hints         map[int]string // status → what to do about it
}

var quirks = []quirk{
	{
		Name:   "Docker Hub",
		Hosts:  []string{"docker.io", "registry-1.docker.io", "index.docker.io"},
		Source: []string{"https://github.com/docker/hub-feedback/issues/1907", "https://docs.docker.com/docker-hub/repos/manage/hub-images/immutable-tags/"},
		Hints: map[int]string{
			429: "Docker Hub limits pulls and pushes per account and address; a login raises the limit",
			401: "on Docker Hub an access token needs the Read & Write scope to push",
		},
	},
	{
		Name:     "GitHub Container Registry",
		Hosts:    []string{"ghcr.io"},
		Source:   []string{"https://github.com/radius-project/radius/pull/12623", "https://github.com/ocx-sh/ocx/pull/237"},
		NoCancel: true, // answers 405
		ChunkMax: 4 << 20,
		Hints:    map[int]string{403: "ghcr.io wants a classic token with write:packages, or GITHUB_TOKEN with packages: write"},
	},
	{
		Name:  "Amazon ECR",
		Hosts: []string{".dkr.ecr.*"},
		Source: []string{"https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_UploadLayerPart.html",
			"https://github.com/openai/tart/pull/159", "https://github.com/aws/containers-roadmap/issues/2831"},
		ChunkMin:  5 << 20,
		ChunkMax:  20 << 20,
		LastInPut: true, // an empty closing PUT after chunks was a 500
		MaxTags:   1000,
		Hints: map[int]string{
			404: "ECR makes no repository by itself: create it, or a repository creation template",
			403: "ECR tokens live 12 hours; `aws ecr get-login-password` makes a new one",
		},
	},
	{
		Name:   "Amazon ECR Public",
		Hosts:  []string{"public.ecr.aws"},
		Source: []string{"https://docs.aws.amazon.com/AmazonECR/latest/public/public-repository-create.html"},
		Hints:  map[int]string{404: "ECR Public makes no repository by itself: create it first"},
	},
	{
		Name:  "Google Artifact Registry and Container Registry",
		Hosts: []string{".pkg.dev", "gcr.io", ".gcr.io"},
		Source: []string{"https://cloud.google.com/artifact-registry/docs/reference/docker-api", "https://github.com/dotnet/sdk-container-builds/pull/287",
			"https://github.com/docker/build-push-action/issues/171"},
		WholeOnly: true,
		Hints: map[int]string{
			400: "Artifact Registry names are PROJECT/REPOSITORY/IMAGE",
			404: "create the repository first; Artifact Registry names are PROJECT/REPOSITORY/IMAGE",
		},
	},
	{
		Name:   "Azure Container Registry",
		Hosts:  []string{".azurecr.io"},
		Source: []string{"https://learn.microsoft.com/azure/container-registry/container-registry-image-lock"},
		Hints:  map[int]string{405: "a locked tag or repository refuses writes: `az acr repository update --write-enabled true`"},
	},
	{
		Name:   "Quay",
		Hosts:  []string{"quay.io"},
		Source: []string{"https://github.com/quay/quay/blob/master/endpoints/v2/errors.py"},
		Hints: map[int]string{
			405: "Quay is in read-only mode, or the repository is not a plain one",
			409: "Quay says 409 for an immutable tag: push another tag",
		},
	},
	{
		Name:   "DigitalOcean Container Registry",
		Hosts:  []string{"registry.digitalocean.com"},
		Source: []string{"https://docs.digitalocean.com/products/container-registry/how-to/clean-up-container-registry/", "https://github.com/docker/build-push-action/issues/586"},
		Hints:  map[int]string{403: "DigitalOcean refuses writes during garbage collection, up to 15 minutes, and beyond the plan's number of repositories"},
	},
	{
		Name:          "Artifactory cloud",
		Hosts:         []string{".jfrog.io"},
		Source:        []string{"https://github.com/google/go-containerregistry/issues/1691"},
		HeadForbidden: true,
	},
	{
		Name:   "GitLab",
		Hosts:  []string{"registry.gitlab.com"},
		Source: []string{"https://docs.gitlab.com/user/packages/container_registry/build_and_push_images/"},
		Hints:  map[int]string{403: "GitLab wants a token with write_registry (and read_registry), and a path that starts with the project's own"},
	},
}

// quirk returns the row of the client's registry; the zero row follows the
// specification.
func (c *Client) quirk() quirk {
	names := []string{c.Host}
	for _, u := range c.URLs {
		names = append(names, u.Hostname())
	}
	for _, name := range names {
		for _, q := range quirks {
			if q.covers(name) {
				return q
			}
		}
	}
	return quirk{}
}

func (q quirk) covers(host string) bool {
	host, _, _ = strings.Cut(strings.ToLower(host), ":")
	for _, h := range q.Hosts {
		infix, anything := strings.CutSuffix(h, "*")
		switch {
		case h == host,
			strings.HasPrefix(h, ".") && !anything && strings.HasSuffix(host, h),
			anything && strings.Contains(host, infix):
			return true
		}
	}
	return false
}

// hint returns what to do about a status at this registry, ready to be put
// behind a sentence.
func (c *Client) hint(status int) string {
	if h := c.quirk().Hints[status]; h != "" {
		return " (" + h + ")"
	}
	return ""
}
