package tests

import (
	"go/ast"
	"strings"
	"testing"
)

// unguarded are the goroutines whose own lines cannot panic on what others send, each with what they do. A panic anywhere
// else in a goroutine without a guard would end the program, and with it everybody's pushes.
var unguarded = map[string]string{
	"cmd/pushproxy/doors.go serve":            "http.Server guards each connection",
	"cmd/pushproxy/statusdoor.go serveStatus": "http.Server guards each connection",
	"cmd/pushproxy/statusdoor.go openStatus":  "steadily guards each task",
	"cmd/pushproxy/doors.go stop":             "waits",
	"cmd/pushproxy/admin.go work":             "steadily guards each task",
	"cmd/pushproxy/serve.go beside":           "steadily guards each task",
	"proxy/tls.go WithTLS":                    "accepts, and hands on",
	"forward/forward.go Close":                "waits",
	"forward/queue.go start":                  "a probe, whose questions are guarded",
	"metadata/badger.go OpenBadger":           "the writer, whose batches are guarded",
	"disk/dir.go Close":                       "closes a database, which callers guard",
	"metadata/keyed.go KeyedBy":               "removes records",
	"proxy/tls.go run":                        "sort, which is guarded",
	"forward/push.go Submit":                  "run, which is guarded",
}

func TestS33EveryGoroutineIsGuarded(t *testing.T) {
	t.Parallel()
	seen, guardedOnes := map[string]bool{}, 0
	for _, f := range sources(t) {
		if f.test() || f.room() == "tests" || strings.HasSuffix(f.dir(), "test") || f.dir() == "metadata/metadatatest" {
			continue
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				started := begun(n)
				if started == nil {
					return true
				}
				name := f.path + " " + fn.Name.Name
				if guards(started) {
					guardedOnes++
					return true
				}
				seen[name] = true
				if unguarded[name] == "" {
					t.Errorf("%s: %s begins a goroutine that a panic would end the program from: use oci.Guarded in it", f.at(n), fn.Name.Name)
				}
				return true
			})
		}
	}
	for name := range unguarded {
		if !seen[name] {
			t.Errorf("%s is listed and begins no goroutine without a guard", name)
		}
	}
	if guardedOnes < 5 {
		t.Errorf("only %d guarded goroutines were found: this test looks at nothing", guardedOnes)
	}
}

// begun is what a statement starts in a goroutine of its own: by go, or by the method Go of a group.
func begun(n ast.Node) ast.Node {
	switch n := n.(type) {
	case *ast.GoStmt:
		return n.Call
	case *ast.CallExpr:
		if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" && len(n.Args) == 1 {
			return n.Args[0]
		}
	}
	return nil
}

// guards reports whether the code calls a guard itself.
func guards(n ast.Node) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && (s.Sel.Name == "Guarded" || s.Sel.Name == "guarded") {
			found = true
		}
		return !found
	})
	return found
}
