package metadata_test

import (
	"path/filepath"
	"testing"

	"pushproxy/metadata"
	"pushproxy/metadata/metadatatest"
)

// openBadger opens a database in dir, closed at the end of the test.
func openBadger(t testing.TB, dir string) *metadata.Badger {
	t.Helper()
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return kv
}

// onEach runs a test over every store.
func onEach(t *testing.T, run func(t *testing.T, kv metadata.KV)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		run(t, &metadata.Memory{})
	})
	t.Run("badger", func(t *testing.T) {
		t.Parallel()
		run(t, openBadger(t, filepath.Join(t.TempDir(), "meta")))
	})
}

func TestMemoryKeepsTheContract(t *testing.T) {
	t.Parallel()
	metadatatest.TestKV(t, func(*testing.T) metadata.KV { return &metadata.Memory{} })
}

func TestBadgerKeepsTheContract(t *testing.T) {
	t.Parallel()
	metadatatest.TestKV(t, func(t *testing.T) metadata.KV {
		return openBadger(t, filepath.Join(t.TempDir(), "meta"))
	})
}
