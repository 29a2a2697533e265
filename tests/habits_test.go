package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

func TestNobodySleepsButInFakeTime(t *testing.T) {
	t.Parallel()
	rooms := map[string][]sourceFile{}
	for _, f := range sources(t) {
		rooms[f.dir()] = append(rooms[f.dir()], f)
	}
	for _, files := range rooms {
		for _, place := range realSleeps(files) {
			t.Errorf("%s: time.Sleep outside a synctest bubble: wait for what is to happen (a channel, a poll with a deadline), or let the time be fake", place)
		}
	}
}

func TestWhoeverLeavesATestOutSaysWhy(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		for _, place := range silentSkips(f) {
			t.Errorf("%s: a skip says what is missing, for whoever reads the log: t.Skip(\"left out: …\") or t.Skipf(\"needs …\"); in tests/ leftOut, which CI=true turns into a failure", place)
		}
	}
}

func TestOnlyMainEndsTheProgram(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		for _, place := range exits(f) {
			t.Errorf("%s: the program ends here without a word to its callers: return an error; only main and TestMain exit", place)
		}
	}
}

func TestTheHabitRulesFindWhatTheyForbid(t *testing.T) {
	t.Parallel()
	sleeping := func(f sourceFile) []string { return realSleeps([]sourceFile{f}) }
	for _, c := range []struct {
		name, code string
		rule       func(sourceFile) []string
		wrong      bool
	}{
		{"a sleep in a bubble is fine", `func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }`, sleeping, false},
		{"a sleep in a bubble of one's own is fine", `func bubble(f func()) { synctest.Test(nil, f) }; func TestX(t *testing.T) { bubble(func() { time.Sleep(1) }) }`, sleeping, false},
		{"a sleep in a bubble made by another helper is fine", `func outer(f func()) { bubble(f) }; func bubble(f func()) { synctest.Test(nil, f) }; func TestX(t *testing.T) { outer(func() { time.Sleep(1) }) }`, sleeping, false},
		{"a helper for bubbles is fine", `func (r rig) later() { time.Sleep(1) }; func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) { r.later() }) }`, sleeping, false},
		{"a sleep is not", `func TestX(t *testing.T) { time.Sleep(1) }`, sleeping, true},
		{"a sleep beside a bubble is not", `func TestX(t *testing.T) { synctest.Test(t, func(t *testing.T) {}); time.Sleep(1) }`, sleeping, true},
		{"a helper that one test calls in real time is not", `func (r rig) later() { time.Sleep(1) }; func soon() { r.later() }; func TestX(t *testing.T) { soon() }`, sleeping, true},
		{"a skip with its reason is fine", `func TestX(t *testing.T) { t.Skipf("needs root: %v", err) }`, silentSkips, false},
		{"a skip without is not", `func TestX(t *testing.T) { t.Skip() }`, silentSkips, true},
		{"a skip with anything is not", `func TestX(t *testing.T) { t.Skip("flaky") }`, silentSkips, true},
		{"SkipNow is not", `func TestX(t *testing.T) { t.SkipNow() }`, silentSkips, true},
		{"main ends the program", `func main() { os.Exit(1) }`, exits, false},
		{"nobody else does", `func run() { os.Exit(1) }`, exits, true},
		{"nor by way of the log", `func run() { log.Fatal("no") }`, exits, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fset := token.NewFileSet()
			parsed, err := parser.ParseFile(fset, "x_test.go", "package main\n"+c.code, 0)
			if err != nil {
				t.Fatal(err)
			}
			if places := c.rule(sourceFile{"cmd/x_test.go", parsed, fset}); (len(places) > 0) != c.wrong {
				t.Errorf("found %v", places)
			}
		})
	}
}

// called is the name of what a call calls: "time.Sleep" or, of a method whatever it is called on, ".Sleep".
func called(call *ast.CallExpr, method bool) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if on, ok := fun.X.(*ast.Ident); ok && !method {
			return on.Name + "." + fun.Sel.Name
		}
		return "." + fun.Sel.Name
	}
	return ""
}

// functions are the functions and methods that a file declares, by the name that calls know them by.
func (f sourceFile) functions() map[*ast.FuncDecl]string {
	list := map[*ast.FuncDecl]string{}
	for _, decl := range f.ast.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
			list[fn] = fn.Name.Name
			if fn.Recv != nil {
				list[fn] = "." + fn.Name.Name
			}
		}
	}
	return list
}

// realSleeps are the places of a package's tests that end in time.Sleep outside a bubble of synctest, and all in its other files.
// A helper that sleeps is one of the bubbles' as long as nothing outside them names it.
func realSleeps(files []sourceFile) (places []string) {
	bubbles := []string{"synctest.Test"}
	for grown := true; grown; {
		grown = false
		for _, f := range files {
			for fn, name := range f.functions() {
				if !strings.HasPrefix(name, "Test") && !slices.Contains(bubbles, name) && len(inRealTime(fn, nil, bubbles)) > 0 {
					bubbles, grown = append(bubbles, name), true
				}
			}
		}
	}
	sleepers := []string{"time.Sleep"}
	for grown := true; grown; {
		grown, places = false, nil
		for _, f := range files {
			for fn, name := range f.functions() {
				found := inRealTime(fn, bubbles, sleepers)
				if len(found) > 0 && f.test() && !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") && !strings.HasPrefix(name, "Benchmark") {
					found, grown = nil, grown || !slices.Contains(sleepers, name)
					sleepers = append(sleepers, name)
				}
				for _, n := range found {
					places = append(places, f.at(n))
				}
			}
		}
	}
	return places
}

// inRealTime are the places in a function that call or name one of names, but not within the arguments of a call of one of bubbles.
func inRealTime(fn *ast.FuncDecl, bubbles, names []string) (found []ast.Node) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			return !slices.Contains(bubbles, called(n, false)) && !slices.Contains(bubbles, called(n, true))
		case *ast.SelectorExpr:
			name := called(&ast.CallExpr{Fun: n}, false)
			if slices.Contains(names, name) || slices.Contains(names, "."+n.Sel.Name) {
				found = append(found, n)
			}
		case *ast.Ident:
			if slices.Contains(names, n.Name) {
				found = append(found, n)
			}
		}
		return true
	})
	return found
}

// silentSkips are the skips of a file that do not begin with what is missing.
func silentSkips(f sourceFile) (places []string) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch called(call, true) {
		case ".Skip", ".Skipf":
			if len(call.Args) > 0 && (beginsWith(call.Args[0], "left out: ") || beginsWith(call.Args[0], "needs ")) {
				return true
			}
			places = append(places, f.at(n))
		case ".SkipNow":
			places = append(places, f.at(n))
		}
		return true
	})
	return places
}

// beginsWith tells whether an expression is a text, or a sum of texts, that begins with prefix.
func beginsWith(e ast.Expr, prefix string) bool {
	for {
		sum, ok := e.(*ast.BinaryExpr)
		if !ok {
			break
		}
		e = sum.X
	}
	text, ok := e.(*ast.BasicLit)
	return ok && strings.HasPrefix(strings.Trim(text.Value, "\"`"), prefix)
}

// exits are the places of a file that end the process, but for main and TestMain.
func exits(f sourceFile) (places []string) {
	for fn, name := range f.functions() {
		if name == "main" && f.ast.Name.Name == "main" || name == "TestMain" && f.test() {
			continue
		}
		for _, n := range inRealTime(fn, nil, []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln"}) {
			places = append(places, f.at(n))
		}
	}
	return places
}
