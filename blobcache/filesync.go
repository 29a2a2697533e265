package blobcache

import (
	"os"
	"path/filepath"
	"sync"

	"pushproxy/disk"
)

// fileSync syncs badger's files by name, which works with any descriptor.
type fileSync struct {
	dir    string
	mu     sync.Mutex
	sealed map[string]bool // value logs that were synced when they had ended
}

// sync returns when what is written in the value logs and memtables is durable.
// Tables and the manifest need none: badger syncs those itself.
func (f *fileSync) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	var logs, tables []string // in the order of their numbers
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".vlog":
			logs = append(logs, filepath.Join(f.dir, e.Name()))
		case ".mem":
			tables = append(tables, filepath.Join(f.dir, e.Name()))
		}
	}
	sealed := make(map[string]bool, len(logs))
	for i, name := range logs {
		if !f.sealed[name] {
			if err := disk.Sync(name); err != nil {
				return err
			}
		}
		sealed[name] = i < len(logs)-1 // the last one grows
	}
	f.sealed = sealed
	for _, name := range tables {
		if err := disk.Sync(name); err != nil {
			return err
		}
	}
	return disk.Sync(f.dir)
}

func orDefault(v, standard int64) int64 {
	if v == 0 {
		return standard
	}
	return v
}
