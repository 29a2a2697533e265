package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode"
)

// structural are the keys that say what a manifest references. Readers that
// fold case, as encoding/json does, find them under other spellings too.
var structural = func() map[string]string {
	keys := map[string]string{}
	for _, key := range []string{
		"schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject", "annotations", "digest", "size", "urls", "data", "platform",
	} {
		keys[fold(key)] = key
	}
	return keys
}()

// fold returns what all spellings of a key have in common that encoding/json
// takes for the same: it folds as Unicode does, where ſ is an s.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, key)
}

// level is one open object or array of a JSON document.
type level struct {
	object   bool
	wantsKey bool            // the next token is a key
	free     bool            // within annotations: user text, where case counts
	key      string          // the last key read
	seen     map[string]bool // keys read so far
}

func (l *level) take(key string) error {
	folded := key
	if !l.free {
		folded = fold(key)
		if known, ok := structural[folded]; ok && known != key {
			return errors.New("the key " + quote(key) + " should be " + quote(known))
		}
	}
	if l.seen[folded] {
		return errors.New("the key " + quote(key) + " occurs twice")
	}
	l.seen[folded] = true
	l.key, l.wantsKey = key, false
	return nil
}

// unambiguous walks a document once and refuses what two readers could read
// differently: keys that occur twice or differ in case only, misspelt
// structural keys, text behind the end, and nesting that costs a reader more
// than a manifest is worth.
func unambiguous(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var stack []*level
	for {
		token, err := dec.Token()
		if err != nil {
			return errors.New("its JSON is broken")
		}
		if len(stack) == 0 && token != json.Delim('{') {
			return errors.New("it is not a JSON object")
		}
		stack, err = step(stack, token)
		if err != nil {
			return err
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows its JSON object")
	}
	return nil
}

// step takes one token into account and returns the levels then open.
func step(stack []*level, token json.Token) ([]*level, error) {
	delim, isDelim := token.(json.Delim)
	switch {
	case isDelim && (delim == '{' || delim == '['):
		if len(stack) == maxDepth {
			return nil, errors.New("it is nested too deeply")
		}
		l := &level{object: delim == '{', wantsKey: delim == '{', seen: map[string]bool{}}
		if len(stack) > 0 {
			parent := stack[len(stack)-1]
			l.free = parent.free || parent.key == "annotations"
		}
		return append(stack, l), nil
	case isDelim:
		stack = stack[:len(stack)-1]
	case stack[len(stack)-1].wantsKey:
		return stack, stack[len(stack)-1].take(token.(string))
	}
	if len(stack) > 0 {
		parent := stack[len(stack)-1]
		parent.wantsKey = parent.object
	}
	return stack, nil
}
