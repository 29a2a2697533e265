package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestTheAuditLogIsRotatedBetweenLines(t *testing.T) {
	t.Parallel()
	r, audit, err := openAudit(t.TempDir(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if audit == nil {
		t.Fatal("no audit")
	}
	r.most = 1000
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for k := range 10 {
				fmt.Fprintf(r, "%s\n", strings.Repeat(string(rune('a'+i)), 40+k))
			}
		})
	}
	all.Wait()
	files := 0
	for i := range auditKept + 2 {
		path := r.path
		if i > 0 {
			path = fmt.Sprintf("%s.%d", r.path, i)
		}
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		files++
		if info.Size() > 1000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes and mode %v", path, info.Size(), info.Mode())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Trim(strings.TrimSuffix(line, "\n"), line[:1]) != "" || len(line) < 41 {
				t.Errorf("%s has the line %q", path, line)
			}
		}
	}
	if files != auditKept+1 {
		t.Errorf("%d files are kept", files)
	}
}

// Many write while files are begun and given up: what is kept is the newest of each writer, whole and without a gap.
func TestNoLineIsLostWhenTheAuditLogIsRotatedUnderWriters(t *testing.T) {
	t.Parallel()
	r, audit, err := openAudit(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil || audit == nil {
		t.Fatal(err)
	}
	r.most = 20_000
	const writers, lines = 8, 400
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			log := slog.New(slog.NewJSONHandler(r, nil))
			for n := range lines {
				log.Info("push", "writer", i, "line", n, "text", "a\nb")
			}
		})
	}
	all.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	next := map[int]int{}
	for i := auditKept; i >= 0; i-- {
		path := r.path
		if i > 0 {
			path = fmt.Sprintf("%s.%d", r.path, i)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var entry struct{ Writer, Line int }
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("%s: %q: %v", path, line, err)
			}
			if before, seen := next[entry.Writer]; seen && entry.Line != before {
				t.Fatalf("after line %d of writer %d comes %d", before-1, entry.Writer, entry.Line)
			}
			next[entry.Writer] = entry.Line + 1
		}
	}
	for i := range writers {
		if next[i] != lines && next[i] != 0 {
			t.Errorf("the last line of writer %d is missing: %d", i, next[i])
		}
	}
	if len(next) == 0 {
		t.Error("nothing is kept")
	}
}

func TestAnAuditLogThatOthersCanReadIsNotUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/audit.log", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/audit.log", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openAudit(dir, slog.Default()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v", err)
	}
}
