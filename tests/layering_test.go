package tests

import (
	"slices"
	"strings"
	"testing"
)

// layers are the rooms and their layers: a room imports rooms of lower layers only, so rooms of one layer never import
// each other. tests/ stands outside and imports no room.
var layers = map[string]int{
	"disk": 0, "oci": 0,
	"authinject": 1, "blobcache": 1, "metadata": 1, "upstream": 1,
	"forward": 2,
	"proxy":   3, "status": 3,
	"cmd": 4,
}

// fences keep a module of others in the files that are made to hold it.
var fences = map[string][]string{
	"github.com/dgraph-io/badger/":                 {"blobcache/badger.go", "metadata/badger.go"},
	"github.com/docker/docker-credential-helpers/": {"authinject/helper.go"},
	"github.com/elazarl/goproxy/":                  {"proxy/mitm.go"},
	"github.com/spf13/viper/":                      {"cmd/pushproxy/config.go"},
}

func TestRoomsImportLowerLayersOnly(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		for _, path := range f.imports() {
			if why := wrongImport(f.path, f.room(), path); why != "" {
				t.Errorf("%s imports %s: %s", f.path, path, why)
			}
		}
	}
}

func TestEveryFolderIsARoom(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if _, known := layers[f.room()]; !known && f.room() != "tests" {
			t.Errorf("%s: %q is not a room: rooms are named in the design, and helpers belong to the room that needs them", f.path, f.room())
		}
	}
}

func TestTheLayeringRuleFindsWhatItForbids(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, path string
		wrong            bool
	}{
		{"a lower room is fine", "forward/plan.go", "pushproxy/upstream", false},
		{"a part of the same room is fine", "blobcache/suite_test.go", "pushproxy/blobcache/blobcachetest", false},
		{"a room beside is not", "upstream/client.go", "pushproxy/authinject", true},
		{"a higher room is not", "oci/repo.go", "pushproxy/proxy", true},
		{"a part of a room beside is not, in tests either", "authinject/x_test.go", "pushproxy/upstream/upstreamtest", true},
		{"a room is not for the whole-program checks", "tests/x_test.go", "pushproxy/oci", true},
		{"badger behind its fence is fine", "metadata/badger.go", "github.com/dgraph-io/badger/v4", false},
		{"badger elsewhere is not", "metadata/db.go", "github.com/dgraph-io/badger/v4/options", true},
		{"viper elsewhere is not", "cmd/pushproxy/main.go", "github.com/spf13/viper", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			room, _, _ := strings.Cut(c.file, "/")
			if why := wrongImport(c.file, room, c.path); (why != "") != c.wrong {
				t.Errorf("%s importing %s: %q", c.file, c.path, why)
			}
		})
	}
}

// wrongImport says why a file of a room may not import path; "" when it may.
func wrongImport(file, room, path string) string {
	for module, allowed := range fences {
		if strings.HasPrefix(path+"/", module) && !slices.Contains(allowed, file) {
			return "only " + strings.Join(allowed, " and ") + " may"
		}
	}
	ours, isOurs := strings.CutPrefix(path, "pushproxy/")
	if !isOurs {
		return ""
	}
	other, _, _ := strings.Cut(ours, "/")
	switch {
	case other == room:
		return ""
	case room == "tests":
		return "the checks see the program from outside"
	case other == "tests":
		return "nothing depends on the checks"
	case layers[other] >= layers[room]:
		return "a room imports rooms of lower layers only"
	}
	return ""
}
