package main

import (
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
