package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"pushproxy/proxy"
)

const (
	// auditBytes is how long an audit log grows before a new one is begun, and
	// auditKept how many old ones are kept: audit.log.1 is the newest.
	auditBytes = 32 << 20
	auditKept  = 5
)

// rotating is a file that lines are appended to, and that makes room for a new
// one when it is long. A line is never split.
type rotating struct {
	path string
	most int64
	log  *slog.Logger

	mu     sync.Mutex
	file   *os.File
	size   int64
	broken bool // said already
}

// openAudit opens data_dir/audit.log.
func openAudit(dir string, log *slog.Logger) (*rotating, *proxy.Audit, error) {
	r := &rotating{path: filepath.Join(dir, "audit.log"), most: auditBytes, log: log}
	if err := r.open(); err != nil {
		return nil, nil, fmt.Errorf("the audit log: %w", err)
	}
	return r, proxy.NewAudit(slog.NewJSONHandler(r, nil)), nil
}

func (r *rotating) open() error {
	if _, err := os.Lstat(r.path); err == nil {
		if err := proxy.Private(r.path); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write appends one line. What cannot be written is said in the log, once.
func (r *rotating) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.write(line)
	if err != nil && !r.broken {
		r.log.Error("the audit log cannot be written; make room on the disk", "file", r.path, "error", err)
	}
	r.broken = err != nil
	return len(line), err
}

func (r *rotating) write(line []byte) error {
	if r.size > 0 && r.size+int64(len(line)) > r.most {
		if err := r.rotate(); err != nil {
			return err
		}
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return err
}

func (r *rotating) rotate() error {
	for i := auditKept; i > 0; i-- {
		older, newer := fmt.Sprintf("%s.%d", r.path, i), fmt.Sprintf("%s.%d", r.path, i-1)
		if i == 1 {
			newer = r.path
		}
		if err := os.Rename(newer, older); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	old := r.file
	if err := r.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close closes the file.
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Close()
}
