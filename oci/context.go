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

type asideKey struct{}

// ContextAside returns a context for a request that only serves another one,
// such as that for a token: who counts the requests of an operation by their
// context leaves it out.
func ContextAside(ctx context.Context) context.Context {
	return context.WithValue(ctx, asideKey{}, true)
}

// IsAside reports whether ctx is of ContextAside.
func IsAside(ctx context.Context) bool { return ctx.Value(asideKey{}) != nil }
