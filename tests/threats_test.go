package tests

import (
	"fmt"
	"go/ast"
	"go/version"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pushproxy/tests/parts"
)

// The threat model has rows S1 to S35 (docs/threats.md). Each has tests that are named after it.

const lastThreat = 35

var rowsOfName = regexp.MustCompile(`^(?:Test|Fuzz)((?:S[0-9]+)+)[A-Z]`)

func TestEveryRowOfTheThreatModelHasATest(t *testing.T) {
	t.Parallel()
	tested, outside := map[int][]string{}, map[int]bool{}
	for _, f := range sources(t) {
		if !f.test() {
			continue
		}
		for _, decl := range f.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil {
				continue
			}
			m := rowsOfName.FindStringSubmatch(fn.Name.Name)
			if m == nil {
				continue
			}
			for _, digits := range strings.Split(m[1], "S")[1:] {
				row, err := strconv.Atoi(digits)
				if err != nil || row < 1 || row > lastThreat {
					t.Errorf("%s: %s names a row that there is not", f.at(fn), fn.Name.Name)
				}
				tested[row] = append(tested[row], fn.Name.Name)
				outside[row] = outside[row] || f.room() == "tests"
			}
		}
	}
	described := readFile(t, root(t)+"/docs/threats.md")
	for row := 1; row <= lastThreat; row++ {
		if len(tested[row]) == 0 {
			t.Errorf("no test is named after S%d", row)
		} else if !outside[row] {
			t.Errorf("S%d is shown from inside only: %q", row, tested[row])
		}
		if strings.Count(described, fmt.Sprintf("| S%d |", row)) != 1 {
			t.Errorf("docs/threats.md does not describe S%d once", row)
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := parts.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// oldest are the versions below which there are known holes: of Go, of HTTP/2 (which goproxy would take at 0.50), and of
// the database, which lost records.
var oldest = map[string]string{
	"go": "v1.26.8", "golang.org/x/net": "v0.56.0", "github.com/dgraph-io/badger/v4": "v4.9.6", "github.com/elazarl/goproxy": "v1.8.4",
}

func TestS31NoModuleIsOlderThanItsHoles(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "all")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	// What the built program says that it was built with is the truth.
	program := pushproxyProgram(t, buildPlain)
	built, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 {
			found[f[0]] = f[1]
		}
	}
	for line := range strings.Lines(string(built)) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == "dep" {
			found[f[1]] = f[2]
		}
		if len(f) == 2 && f[0] == program+":" {
			found["go"] = "v" + strings.TrimPrefix(f[1], "go")
		}
	}
	for module, least := range oldest {
		// Both are numbers with dots, which is what Go's own versions are.
		have, want := strings.Replace(found[module], "v", "go", 1), strings.Replace(least, "v", "go", 1)
		if !version.IsValid(have) || version.Compare(have, want) < 0 {
			t.Errorf("%s is %q, want %s or newer", module, found[module], least)
		}
	}
}

// Nothing is served by a handler that some module registered by itself, and nothing reads the heap out.
func TestS9NoHandlerOfOthersIsServed(t *testing.T) {
	t.Parallel()
	const mux = "net/http/pprof"
	for _, f := range sources(t) {
		if f.test() || f.room() == "tests" {
			continue
		}
		for _, spec := range f.ast.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			if path == "expvar" || path == mux {
				t.Errorf("%s imports %s", f.path, path)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && x.Name == "http" && slices.Contains([]string{"DefaultServeMux", "Handle", "HandleFunc", "ListenAndServe", "ListenAndServeTLS", "Serve", "ServeTLS"}, s.Sel.Name) {
				t.Errorf("%s: http.%s serves what others have registered", f.at(s), s.Sel.Name)
			}
			return true
		})
	}
}
