package oci

import "context"

type repoKey struct{}

// ContextWithRepo returns a context that says which repository a request to an
// upstream is about. Upload locations may have any shape, so the repository
// cannot always be read from the request's path.
func ContextWithRepo(ctx context.Context, repo Repo) context.Context {
	return context.WithValue(ctx, repoKey{}, repo)
}

// RepoFrom returns the repository of ContextWithRepo.
func RepoFrom(ctx context.Context) (Repo, bool) {
	repo, ok := ctx.Value(repoKey{}).(Repo)
	return repo, ok
}
