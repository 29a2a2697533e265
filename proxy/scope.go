package proxy

import (
	"fmt"
	"slices"
	"strings"

	"pushproxy/oci"
)

// Verb is what a request does to a repository, as far as permission goes.
type Verb string

// The verbs. There is none for the root of the API, which every caller may ask.
const (
	VerbPull   Verb = "pull"
	VerbPush   Verb = "push"
	VerbDelete Verb = "delete"
)

// verbs is the one table of what each kind of request needs. A kind that is not
// in it is refused.
var verbs = map[oci.Kind]Verb{
	oci.KindBlobGet:        VerbPull,
	oci.KindBlobHead:       VerbPull,
	oci.KindManifestGet:    VerbPull,
	oci.KindManifestHead:   VerbPull,
	oci.KindTags:           VerbPull,
	oci.KindReferrers:      VerbPull,
	oci.KindUploadStart:    VerbPush,
	oci.KindUploadWhole:    VerbPush,
	oci.KindUploadChunk:    VerbPush,
	oci.KindUploadFinish:   VerbPush,
	oci.KindUploadStatus:   VerbPush,
	oci.KindUploadCancel:   VerbPush,
	oci.KindMount:          VerbPush,
	oci.KindManifestPut:    VerbPush,
	oci.KindManifestDelete: VerbDelete,
	oci.KindBlobDelete:     VerbDelete,
}

// Scope limits a token or a principal. An empty list limits nothing.
type Scope struct {
	// Upstreams are canonical hosts.
	Upstreams []string `json:"upstreams,omitempty" mapstructure:"upstreams"`
	// Repositories are patterns of names at the upstream, without its host: * is
	// any part of one component, ** any number of components.
	Repositories []string `json:"repositories,omitempty" mapstructure:"repositories"`
	// Verbs are of pull, push and delete. Clients look for what is there before
	// they push, so a push that may not pull asks for that in vain, and goes on.
	Verbs []Verb `json:"verbs,omitempty" mapstructure:"verbs"`
}

// Restricts reports whether the scope limits anything.
func (s Scope) Restricts() bool { return len(s.Upstreams)+len(s.Repositories)+len(s.Verbs) > 0 }

// Validate reports what in the scope can never match anything.
func (s Scope) Validate() error {
	for _, host := range s.Upstreams {
		if canonical(host) != host || !hostExp.MatchString(host) {
			return fmt.Errorf("upstream %q is not the name of a registry, such as ghcr.io", clip(host))
		}
	}
	for _, pattern := range s.Repositories {
		if name := strings.ReplaceAll(pattern, "*", "x"); !oci.ValidName(name) {
			return fmt.Errorf("repository %q is not a name with * or ** in it, such as acme/app or acme/**", clip(pattern))
		}
	}
	for _, v := range s.Verbs {
		if v != VerbPull && v != VerbPush && v != VerbDelete {
			return fmt.Errorf("verb %q is not one of pull, push, delete", clip(string(v)))
		}
	}
	return nil
}

func (s Scope) reaches(host string) bool {
	return len(s.Upstreams) == 0 || slices.Contains(s.Upstreams, canonical(host))
}

func (s Scope) allows(v Verb, repo oci.Repo) bool {
	named := func(pattern string) bool { return matches(strings.Split(pattern, "/"), strings.Split(repo.Name, "/")) }
	return s.reaches(repo.Host) &&
		(len(s.Repositories) == 0 || slices.ContainsFunc(s.Repositories, named)) &&
		(len(s.Verbs) == 0 || slices.Contains(s.Verbs, v))
}

// matches compares a pattern and a name by components.
func matches(pattern, name []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := range len(name) + 1 {
				if matches(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		if len(name) == 0 || !matchPart(pattern[0], name[0]) {
			return false
		}
		pattern, name = pattern[1:], name[1:]
	}
	return len(name) == 0
}

// matchPart compares a component with one in which each * is any text.
func matchPart(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for middle := range strings.SplitSeq(rest, "*") {
		if middle == "" {
			continue
		}
		i := strings.Index(text, middle)
		if i < 0 {
			return false
		}
		text = text[i+len(middle):]
	}
	// The last part stands at the end, wherever else it may be found.
	last := rest[strings.LastIndex(rest, "*")+1:]
	return last == "" || text == "" || strings.HasSuffix(text, last)
}

// may reports whether the caller may do something to a repository.
func (c Caller) may(v Verb, repo oci.Repo) bool {
	if c.Principal == "" || v == "" {
		return false
	}
	for _, s := range c.Scopes {
		if !s.allows(v, repo) {
			return false
		}
	}
	return true
}

// authorize is the one place that decides what a caller may do: whatever is not
// allowed by it is refused, and nothing of the body was read before it. repo is
// the upstream's, empty for the root of the API.
func authorize(c Caller, kind oci.Kind, repo oci.Repo) error {
	if kind == oci.KindPing && c.Principal != "" {
		return nil
	}
	verb := verbs[kind]
	if c.may(verb, repo) {
		return nil
	}
	return oci.ErrDenied.With("your login here may not %s %s; ask whoever runs pushproxy for a token that may", orDo(verb), repo)
}

func orDo(v Verb) string {
	if v == "" {
		return "do that to"
	}
	return string(v) + map[Verb]string{VerbPull: " from", VerbPush: " to", VerbDelete: " in"}[v]
}
