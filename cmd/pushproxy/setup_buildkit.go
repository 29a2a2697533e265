package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// planBuildkit lets buildkitd trust the CA for real names, and says how it gets
// the proxy: mirrors in its configuration are for pulls alone.
func planBuildkit(p *place) (plan, error) {
	made := plan{}
	proxyURL, err := p.proxyURL()
	if err != nil {
		return made, err
	}
	file := "/etc/buildkit/buildkitd.toml"
	if !p.system {
		file = filepath.Join(p.home, ".config/buildkit/buildkitd.toml")
	}
	made.files = append(made.files, change{
		path: file, mode: 0o644, why: "buildkitd trusts pushproxy's CA for your registries",
		content: func(old []byte) ([]byte, error) { return p.buildkitFile(string(old)) },
	})
	made.note("buildkitd needs the proxy in its environment: HTTPS_PROXY=%s NO_PROXY=%s buildkitd …", proxyURL, noProxy)
	made.note("docker buildx: docker buildx create --use --name pushproxy --driver docker-container --buildkitd-config %s \\\n"+
		"  --driver-opt network=host --driver-opt env.HTTPS_PROXY=%s --driver-opt '\"env.NO_PROXY=%s\"'", file, proxyURL, noProxy)
	made.note("docker's own builder needs nothing but `pushproxy setup docker`.")
	p.noteOthers(&made, "buildkitd")
	return made, nil
}

func (p *place) buildkitFile(old string) ([]byte, error) {
	block := blockBegin + "\n"
	for _, host := range p.certHosts() {
		table := fmt.Sprintf("[registry.%q]", host)
		if strings.Contains(old, table) {
			return nil, fmt.Errorf("it has a table %s already, which cannot be there twice: add  ca = [%q]  to it by hand", table, p.bundle)
		}
		block += fmt.Sprintf("%s\n  ca = [%q]\n", table, p.bundle)
	}
	if old != "" && !strings.HasSuffix(old, "\n") {
		old += "\n"
	}
	return []byte(old + block + blockEnd + "\n"), nil
}
