package tests

import (
	"go/ast"
	"slices"
	"testing"
)

// goproxy's own interception signs with a CA whose private key is public, and connects to anywhere (trust.md section 5):
// of what it offers only the routing of CONNECT is used.
func TestS34S35NothingOfGoproxysInterceptionIsUsed(t *testing.T) {
	t.Parallel()
	banned := []string{"GoproxyCa", "MitmConnect", "OkConnect", "HTTPMitmConnect", "RejectConnect", "AlwaysMitm", "AlwaysReject", "ConnectMitm", "ConnectHTTPMitm", "ConnectAccept", "TLSConfigFromCA"}
	used := false
	for _, f := range sources(t) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "goproxy" {
				used = true
				if slices.Contains(banned, s.Sel.Name) {
					t.Errorf("%s: goproxy.%s is not to be used", f.at(s), s.Sel.Name)
				}
			}
			return true
		})
	}
	if !used {
		t.Error("goproxy is not found at all: this test looks at nothing")
	}
}
