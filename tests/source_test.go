package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// sourceFile is one Go file of this module.
type sourceFile struct {
	path string // from the module's top folder, with slashes
	ast  *ast.File
	fset *token.FileSet
}

func (f sourceFile) dir() string  { return filepath.ToSlash(filepath.Dir(f.path)) }
func (f sourceFile) test() bool   { return strings.HasSuffix(f.path, "_test.go") }
func (f sourceFile) lines() int   { return f.fset.File(f.ast.Pos()).LineCount() }
func (f sourceFile) room() string { room, _, _ := strings.Cut(f.path, "/"); return room }

// at is the place of a node, for messages.
func (f sourceFile) at(n ast.Node) string {
	p := f.fset.Position(n.Pos())
	return f.path + ":" + strings.TrimPrefix(p.String(), p.Filename+":")
}

// imports are the import paths of the file.
func (f sourceFile) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// sources parses every Go file of this module (tests/tools is a module of its own).
func sources(t *testing.T) []sourceFile {
	t.Helper()
	top := root(t)
	var files []sourceFile
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() && (rel == "tests/tools" || rel == "bin" || strings.HasPrefix(entry.Name(), ".") && rel != "." || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(rel, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		files = append(files, sourceFile{rel, parsed, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
