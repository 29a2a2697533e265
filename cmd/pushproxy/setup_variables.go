package main

import (
	"fmt"
	"path/filepath"
)

// planVariables sets up clients that look for the proxy and for roots in their
// environment: crane, oras, regctl and other programs written in Go.
func planVariables(p *place) (plan, error) {
	made := plan{}
	if err := p.writeVariables(&made); err != nil {
		return made, err
	}
	made.note("With SSL_CERT_FILE alone, %s takes names that begin with %s over TLS, without flags.", p.tool, p.localhost())
	return made, nil
}

// writeVariables adds the file of variables, which a shell reads before the
// client runs: set for everything, they would lead every program here.
func (p *place) writeVariables(made *plan) error {
	proxyURL, err := p.proxyURL()
	if err != nil {
		return err
	}
	file := filepath.Join(p.home, ".config/pushproxy/proxy.env")
	made.write(file, "variables for a shell: the forward-proxy door, and the CA beside the system's (programs in Go keep those)",
		fmt.Sprintf("# Written by `pushproxy setup`. For a command or a shell: . %s\nexport HTTPS_PROXY=%s\nexport NO_PROXY=%s\nexport SSL_CERT_FILE=%s\n",
			file, proxyURL, noProxy, p.bundle))
	made.note("For real names, such as %s/<repository>:<tag>: (. %s; %s …)", p.example(), file, p.tool)
	p.noteOthers(made, "A command run so")
	return nil
}
