package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"pushproxy/forward"
	"pushproxy/oci"
)

// SendingConfig says how an upstream is sent to.
type SendingConfig struct {
	Routes      []RouteConfig `mapstructure:"routes"`
	Concurrency int           `mapstructure:"concurrency"`
	Bandwidth   string        `mapstructure:"bandwidth"`
	QuietHours  []string      `mapstructure:"quiet_hours"`
	ChunkSize   string        `mapstructure:"chunk_size"`
	MaxBody     string        `mapstructure:"max_body"`
}

// RouteConfig gives repositories a mode of their own. In Match, * stands for any
// characters, slashes among them.
type RouteConfig struct {
	Match string `mapstructure:"match"`
	Mode  string `mapstructure:"mode"`
}

// CacheConfig limits the cache.
type CacheConfig struct {
	Quota  string        `mapstructure:"quota"`
	MaxAge time.Duration `mapstructure:"max_age"`
}

// QueueConfig is about queued pushes.
type QueueConfig struct {
	Webhook string `mapstructure:"webhook"`
}

var sizeExp = regexp.MustCompile(`^([0-9]{1,15})\s*([kKMGT]?)(i?)[bB]?$`)

// parseSize reads a number of bytes: 100, 64KiB, 100MB. Empty is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	m := sizeExp.FindStringSubmatch(text)
	if m == nil || m[2] == "" && m[3] != "" {
		return 0, fmt.Errorf("%q is not a size such as 100MB or 64KiB", text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 100MB or 64KiB", text)
	}
	unit := int64(1000)
	if m[3] != "" {
		unit = 1024
	}
	for range strings.Index(" KMGT", strings.ToUpper(m[2] + " ")[:1]) {
		if n > 1<<62/unit {
			return 0, fmt.Errorf("%q is too large", text)
		}
		n *= unit
	}
	return n, nil
}

// size is parseSize of text that was checked.
func size(text string) int64 {
	n, _ := parseSize(text)
	return n
}

// parseWindow reads "22:00-06:30".
func parseWindow(text string) (forward.Window, error) {
	from, to, ok := strings.Cut(text, "-")
	a, errA := time.Parse("15:04", strings.TrimSpace(from))
	b, errB := time.Parse("15:04", strings.TrimSpace(to))
	if !ok || errA != nil || errB != nil {
		return forward.Window{}, fmt.Errorf("%q is not a time such as 08:00-18:30", text)
	}
	since := func(t time.Time) time.Duration {
		return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	}
	return forward.Window{From: since(a), To: since(b)}, nil
}

func (s SendingConfig) check(key string, say sayFunc, oneOf func(key, value string, allowed ...string)) {
	for i, r := range s.Routes {
		if r.Match == "" {
			say("%s.routes[%d].match: it needs the names of repositories, such as acme/*", key, i)
		}
		oneOf(fmt.Sprintf("%s.routes[%d].mode", key, i), r.Mode, "sync", "async")
	}
	if s.Concurrency < 0 || s.Concurrency > 64 {
		say("%s.concurrency: %d is not between 1 and 64", key, s.Concurrency)
	}
	for name, text := range map[string]string{"bandwidth": s.Bandwidth, "chunk_size": s.ChunkSize, "max_body": s.MaxBody} {
		n, err := parseSize(text)
		if err == nil && text != "" && n < 64<<10 {
			err = fmt.Errorf("%q is less than 64KiB, with which no image gets anywhere", text)
		}
		if err != nil {
			say("%s.%s: %v", key, name, err)
		}
	}
	for _, text := range s.QuietHours {
		if _, err := parseWindow(text); err != nil {
			say("%s.quiet_hours: %v", key, err)
		}
	}
}

func (c CacheConfig) check(say sayFunc) {
	if _, err := parseSize(c.Quota); err != nil {
		say("cache.quota: %v", err)
	}
	if c.MaxAge < 0 {
		say("cache.max_age: %s is not a duration such as 720h", c.MaxAge)
	}
}

func (c QueueConfig) check(say sayFunc) {
	if c.Webhook != "" && !strings.HasPrefix(c.Webhook, "http://") && !strings.HasPrefix(c.Webhook, "https://") {
		say("queue.webhook: %q is not a URL such as https://example.com/hook", c.Webhook)
	}
}

// policy is how the jobs of the upstream are carried out.
func (s SendingConfig) policy() forward.Policy {
	var p forward.Policy
	for _, text := range s.QuietHours {
		// It was checked.
		w, _ := parseWindow(text)
		p.Quiet = append(p.Quiet, w)
	}
	return p
}

// isAsync reports whether pushes to a repository are queued.
func (u UpstreamConfig) isAsync(repo oci.Repo) bool {
	for _, r := range u.Sending.Routes {
		if glob(r.Match, repo.Name) {
			return r.Mode == "async"
		}
	}
	return u.Mode == "async"
}

// glob matches a name against a pattern in which * stands for any characters.
func glob(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for i := 0; i <= len(name); i++ {
		if glob(rest, name[i:]) {
			return true
		}
	}
	return false
}
