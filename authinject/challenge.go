package authinject

import (
	"net/http"
	"slices"
	"strings"
)

// Limits of what is read from one answer's WWW-Authenticate headers.
const (
	maxChallengeBytes = 16 << 10
	maxChallenges     = 16
	maxParams         = 32
)

// challenge is one WWW-Authenticate challenge: the scheme and the names of its
// parameters in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// knownSchemes are the scheme names that are recognised where they stand alone
// between commas. Anything else there is the rest of a value that should have
// been quoted.
var knownSchemes = []string{"basic", "bearer", "digest", "negotiate", "ntlm"}

// parseChallenges reads WWW-Authenticate headers as leniently as registries
// write them: several challenges in one header or many, any case, parameters
// unquoted, repeated (the first counts), unterminated or unknown. It never
// fails; what makes no sense is skipped.
func parseChallenges(header http.Header) []challenge {
	var found []challenge
	budget := maxChallengeBytes
	for _, value := range header.Values("WWW-Authenticate") {
		if budget -= len(value); budget < 0 {
			break
		}
		found = appendChallenges(found, value)
	}
	return found
}

func appendChallenges(found []challenge, s string) []challenge {
	start := len(found)
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" || len(found) >= maxChallenges {
			return found
		}
		end := strings.IndexAny(s, " \t,=\"")
		if end < 0 {
			end = len(s)
		}
		word := strings.ToLower(s[:end])
		after := strings.TrimLeft(s[end:], " \t")
		if word != "" && strings.HasPrefix(after, "=") {
			var value string
			value, s = paramValue(after[1:])
			if len(found) > start {
				found[len(found)-1].set(word, value)
			}
			continue
		}
		if word == "" {
			// A stray quote or equals sign.
			s = s[1:]
			continue
		}
		alone := after == "" || after[0] == ','
		if len(found) == start || !alone || slices.Contains(knownSchemes, word) {
			found = append(found, challenge{scheme: word, params: map[string]string{}})
		}
		s = after
	}
}

// set keeps the first value of a parameter.
func (c challenge) set(name, value string) {
	if _, ok := c.params[name]; !ok && len(c.params) < maxParams {
		c.params[name] = value
	}
}

// paramValue reads a parameter's value, quoted or up to the next comma, and
// returns what follows it.
func paramValue(s string) (value, rest string) {
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ",")
		return strings.TrimRight(value, " \t"), rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// choose returns the challenge to answer: Bearer where it names a token
// server, else Basic, else a Bearer that names none. ok is false when there is
// nothing that could be answered.
func choose(all []challenge) (best challenge, ok bool) {
	rank := 0
	for _, c := range all {
		r := 0
		switch {
		case c.scheme == "bearer" && c.params["realm"] != "":
			r = 3
		case c.scheme == "basic":
			r = 2
		case c.scheme == "bearer":
			r = 1
		}
		if r > rank {
			best, rank = c, r
		}
	}
	return best, rank > 0
}
