package tests

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

const (
	mostFileLines = 300
	mostFuncLines = 60
)

func TestEveryPackageHasExactlyOnePackageComment(t *testing.T) {
	t.Parallel()
	docs := map[string][]string{}
	onlyTests := map[string]bool{}
	files := sources(t)
	for _, f := range files {
		if _, seen := onlyTests[f.dir()]; !seen {
			onlyTests[f.dir()] = true
		}
		if !f.test() {
			onlyTests[f.dir()] = false
		}
	}
	for _, f := range files {
		if f.test() && !onlyTests[f.dir()] {
			continue
		}
		docs[f.dir()] = append(docs[f.dir()], []string{}...)
		if f.ast.Doc != nil {
			docs[f.dir()] = append(docs[f.dir()], f.path)
		}
	}
	for dir, with := range docs {
		if len(with) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", dir, len(with), with)
		}
	}
}

func TestEveryExportedNameSaysWhatItPromises(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		for _, decl := range f.ast.Decls {
			for _, name := range undocumented(decl) {
				t.Errorf("%s: %s is exported without a comment", f.at(decl), name)
			}
		}
	}
}

// Tests are exempt: a table is as long as its cases.
func TestFilesAndFunctionsStayShort(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		if f.lines() > mostFileLines {
			t.Errorf("%s has %d lines, at most %d are read at one go", f.path, f.lines(), mostFileLines)
		}
		for _, decl := range f.ast.Decls {
			fn, isFunc := decl.(*ast.FuncDecl)
			if !isFunc {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > mostFuncLines {
				t.Errorf("%s: %s has %d lines, at most %d", f.at(fn), fn.Name.Name, n, mostFuncLines)
			}
		}
	}
}

func TestNothingIsLeftToDoInComments(t *testing.T) {
	t.Parallel()
	marks := []string{"TO" + "DO", "FIX" + "ME", "X" + "XX"}
	for _, f := range sources(t) {
		for _, group := range f.ast.Comments {
			if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(group.Text(), mark) }) {
				t.Errorf("%s: work left to do belongs in an issue", f.at(group))
			}
		}
	}
}

// undocumented lists the exported names of a declaration that have no comment. The comment of a group of constants or
// variables counts for each of them; a method counts when its type is exported.
func undocumented(decl ast.Decl) []string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		var names []string
		for _, spec := range d.Specs {
			names = append(names, undocumentedSpec(d.Doc != nil, spec)...)
		}
		return names
	}
	return nil
}

func undocumentedSpec(group bool, spec ast.Spec) []string {
	var names []string
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && !group && s.Doc == nil && s.Comment == nil {
			names = append(names, s.Name.Name)
		}
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && !group && s.Doc == nil && s.Comment == nil {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

func exportedReceiver(recv *ast.FieldList) bool {
	expr := recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return false
		}
	}
}
