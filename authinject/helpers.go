package authinject

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// helperLife is how long a helper's answer lives where Helpers says
	// nothing.
	helperLife = 5 * time.Minute
	// noneLife is how long "no credential" is remembered, and listLife what a
	// helper lists.
	noneLife = 30 * time.Second
	listLife = 30 * time.Second
	// failureLife is how long a failure is remembered: a push asks dozens of
	// times, and a hanging helper would hold up each of them.
	failureLife = 5 * time.Second
	// reaskAfter is the age below which a refused answer is not asked for
	// again: a helper that was just asked has nothing newer.
	reaskAfter = 2 * time.Second
	// maxHelperAnswers is how many answers are remembered.
	maxHelperAnswers = 1024
)

// helperEnv are the variables that every helper gets: what the well-known ones
// need to find their own configuration and the desktop's key ring. None of them
// is a secret.
var helperEnv = []string{
	"HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "DOCKER_CONFIG",
	"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS",
	"GNUPGHOME", "PASSWORD_STORE_DIR", "CLOUDSDK_CONFIG",
	"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
	"SystemRoot", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
}

// Helpers runs docker credential helpers, within limits: names are checked,
// programs come from trustworthy directories only, the environment is small,
// output and time are bounded, at most four run at a time, callers that want
// the same answer share one run, and answers are cached until 80 % of their
// life. Nothing that a helper prints is ever shown. Set the fields before its
// first use and do not copy it.
type Helpers struct {
	// Path is where helpers are looked for, as the variable PATH is written; ""
	// means the process's own PATH. Relative directories, and those that others
	// than their owner may write to, are passed over.
	Path string
	// Env names further environment variables that helpers get.
	Env []string
	// Timeout of one run; 0 means 10 seconds.
	Timeout time.Duration
	// Life of an answer; 0 means 5 minutes. A credential that a server refuses
	// is asked for again at once.
	Life time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Observe, when set, is told of each run, with the values of the ctx of
	// whoever needed it first. It must not block.
	Observe func(context.Context, Event)

	flights singleflight.Group
	mu      sync.Mutex
	running chan struct{}
	answers map[string]*helperAnswer
}

// helperAnswer is what a helper said: a credential, a list, or an error.
type helperAnswer struct {
	credential Credential
	keys       []string
	err        error
	asked      time.Time
	until      time.Time
}

// get returns the first credential that the helper has under keys. ErrNone says
// that it has none; any other error is an *oci.Error.
func (h *Helpers) get(ctx context.Context, name string, keys []string) (Credential, error) {
	for _, key := range keys {
		a, err := h.answer(ctx, "get\x00"+name+"\x00"+key, func(ctx context.Context) *helperAnswer {
			began := time.Now()
			c, err := h.run(ctx, name, key)
			h.ran(ctx, name, key, began, err)
			return &helperAnswer{credential: c, err: err}
		})
		if err != nil {
			return Credential{}, err
		}
		if !errors.Is(a.err, ErrNone) {
			return a.credential, a.err
		}
	}
	return Credential{}, ErrNone
}

// list returns the keys that the helper says it holds; none when it does not.
func (h *Helpers) list(ctx context.Context, name string) []string {
	a, err := h.answer(ctx, "list\x00"+name, func(ctx context.Context) *helperAnswer {
		began := time.Now()
		keys, err := h.runList(ctx, name)
		h.ran(ctx, name, "", began, err)
		return &helperAnswer{keys: keys, err: err}
	})
	if err != nil {
		return nil
	}
	return a.keys
}

// answer returns the cached answer under id, or the one that ask gives. Its
// error is the caller's own ctx giving up; the run goes on for the others.
func (h *Helpers) answer(ctx context.Context, id string, ask func(context.Context) *helperAnswer) (*helperAnswer, error) {
	if a := h.cached(ctx, id); a != nil {
		return a, nil
	}
	done := h.flights.DoChan(id, func() (any, error) {
		if a := h.cached(ctx, id); a != nil {
			return a, nil
		}
		slots := h.slots()
		slots <- struct{}{}
		defer func() { <-slots }()
		a := ask(context.WithoutCancel(ctx))
		a.asked = h.now()
		a.until = a.asked.Add(h.life(id, a.err))
		h.keep(id, a)
		return a, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case res := <-done:
		return res.Val.(*helperAnswer), res.Err
	}
}

func (h *Helpers) life(id string, err error) time.Duration {
	switch {
	case strings.HasPrefix(id, "list"):
		return listLife
	case errors.Is(err, ErrNone):
		return noneLife
	case err != nil:
		return failureLife
	case h.Life > 0:
		return h.Life * 4 / 5
	}
	return helperLife * 4 / 5
}

// cached returns the answer under id while it may be used: not beyond its life,
// and not when it is the credential that a server has just refused.
func (h *Helpers) cached(ctx context.Context, id string) *helperAnswer {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, now := h.answers[id], h.now()
	if a == nil || !now.Before(a.until) {
		return nil
	}
	if a.err == nil && isRejected(ctx, a.credential) && now.Sub(a.asked) >= reaskAfter {
		return nil
	}
	return a
}

func (h *Helpers) keep(id string, a *helperAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers == nil {
		h.answers = map[string]*helperAnswer{}
	}
	if len(h.answers) >= maxHelperAnswers {
		clear(h.answers)
	}
	h.answers[id] = a
}

func (h *Helpers) slots() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == nil {
		h.running = make(chan struct{}, maxHelperRuns)
	}
	return h.running
}

func (h *Helpers) now() time.Time {
	if h.Now != nil {
		return h.Now()
	}
	return time.Now()
}

// program prepares a run of a helper. The error completes "the helper …".
func (h *Helpers) program(ctx context.Context, name string) (*program, error) {
	if !validHelperName(name) {
		return nil, errors.New("its name may have only a-z, 0-9, dot, dash and underscore, and at most 64 of them")
	}
	search := h.Path
	if search == "" {
		search = os.Getenv("PATH")
	}
	dirs, skipped := safeDirs(search)
	path, err := findHelper(dirs, skipped, "docker-credential-"+name)
	if err != nil {
		return nil, err
	}
	env := []string{"PATH=" + strings.Join(dirs, string(os.PathListSeparator))}
	for _, key := range slices.Concat(helperEnv, h.Env) {
		if value, ok := os.LookupEnv(key); ok && key != "PATH" {
			env = append(env, key+"="+value)
		}
	}
	timeout := h.Timeout
	if timeout <= 0 {
		timeout = helperTimeout
	}
	return &program{ctx: ctx, path: path, env: env, timeout: timeout}, nil
}
