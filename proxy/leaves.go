package proxy

import (
	"container/list"
	"crypto/tls"
	"strings"
	"time"
)

const (
	// maxLeaves is how many certificates are kept.
	maxLeaves = 256
	// leafSpare is how long a certificate must still be valid to be used again.
	leafSpare = 24 * time.Hour
)

// leafCache keeps the certificates that were used last. Its zero value is empty.
type leafCache struct {
	order list.List // of *cachedLeaf, last used first
	byKey map[string]*list.Element
}

type cachedLeaf struct {
	key  string
	leaf *tls.Certificate
}

func leafKey(names []string) string { return strings.Join(names, "\x00") }

// get returns the certificate for names unless it ends soon.
func (c *leafCache) get(names []string, now time.Time) *tls.Certificate {
	e := c.byKey[leafKey(names)]
	if e == nil {
		return nil
	}
	leaf := e.Value.(*cachedLeaf).leaf
	if now.After(leaf.Leaf.NotAfter.Add(-leafSpare)) || now.Before(leaf.Leaf.NotBefore) {
		return nil
	}
	c.order.MoveToFront(e)
	return leaf
}

func (c *leafCache) put(names []string, leaf *tls.Certificate) {
	if c.byKey == nil {
		c.byKey = map[string]*list.Element{}
	}
	key := leafKey(names)
	if old := c.byKey[key]; old != nil {
		c.order.Remove(old)
	}
	c.byKey[key] = c.order.PushFront(&cachedLeaf{key, leaf})
	for c.order.Len() > maxLeaves {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.byKey, last.Value.(*cachedLeaf).key)
	}
}
