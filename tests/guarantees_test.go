package tests

import (
	"fmt"
	"go/ast"
	"regexp"
	"strings"
	"testing"
)

// The guarantees have rows R1 to R25 (docs/guarantees.md). Each names the tests that show it.

const lastGuarantee = 25

var namedTest = regexp.MustCompile("`(Test[A-Za-z0-9_]+)`")

func TestEveryGuaranteeNamesTestsThatThereAre(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	for _, f := range sources(t) {
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && f.test() && fn.Recv == nil {
				there[fn.Name.Name] = true
			}
		}
	}
	described := readFile(t, root(t)+"/docs/guarantees.md")
	for row := 1; row <= lastGuarantee; row++ {
		_, rest, found := strings.Cut(described, fmt.Sprintf("\n| R%d |", row))
		if !found {
			t.Errorf("docs/guarantees.md does not describe R%d", row)
			continue
		}
		line, _, _ := strings.Cut(rest, "\n")
		names := namedTest.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("R%d names no test", row)
		}
		for _, name := range names {
			if !there[name[1]] {
				t.Errorf("R%d names %s, which there is not", row, name[1])
			}
		}
	}
}
