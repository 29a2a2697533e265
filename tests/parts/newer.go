package parts

// Newer returns the programs that are newer than Debian's and that the transparent doors are checked with: containerd since
// 2.3 names the registry beside the repository (?ns=) on pushes too, and BuildKit is not packaged.
func Newer() []Standalone {
	const containerd, buildkit = "github.com/containerd/containerd/v2@v2.4.2", "github.com/moby/buildkit@v0.33.0"
	return []Standalone{
		{Name: "ctr", Module: containerd, Package: "./cmd/ctr"},
		{Name: "containerd", Module: containerd, Package: "./cmd/containerd"},
		{Name: "buildctl", Module: buildkit, Package: "./cmd/buildctl"},
		{Name: "buildkitd", Module: buildkit, Package: "./cmd/buildkitd"},
		{Name: "dockerd", Module: "github.com/moby/moby/v2@v2.0.0-beta.24", Package: "./cmd/dockerd"},
	}
}
