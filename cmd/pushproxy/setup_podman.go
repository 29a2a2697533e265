package main

import (
	"fmt"
	"path/filepath"
)

// planPodman sets up what is built on containers/image: podman, buildah and
// skopeo. They trust a directory per registry, and take the proxy from their
// environment only; podman would hand a proxy in its own configuration on to
// containers, where 127.0.0.1 is another place.
func planPodman(p *place) (plan, error) {
	made := plan{}
	certs := filepath.Join(p.home, ".config/containers/certs.d")
	hosts := p.certHosts()
	if p.TLS == "auto" {
		hosts = append(hosts, p.localhost(), "127.0.0.1:"+p.port())
	} else {
		snippet := "# Written by `pushproxy setup`.\n"
		for _, location := range []string{p.localhost(), "127.0.0.1:" + p.port()} {
			snippet += fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", location)
		}
		made.write(filepath.Join(p.home, ".config/containers/registries.conf.d/pushproxy.conf"),
			"plain HTTP to the registry door without --tls-verify=false, since TLS is off (tls: off)", snippet)
	}
	for _, host := range hosts {
		made.write(filepath.Join(certs, host, "pushproxy.crt"), p.tool+" trusts pushproxy's CA for "+host+" and nothing else", p.rootsText())
	}
	if p.has(filepath.Join(p.home, ".config/containers/podman/machine")) {
		made.note("There is a podman machine here: what runs in it needs `pushproxy setup podman-machine` as well.")
	}
	push := p.tool + " push … "
	if p.tool == "skopeo" {
		push = "skopeo copy … docker://"
	}
	made.note("%s%s/%s/<repository>:<tag> needs no flag then.", push, p.localhost(), p.example())
	if len(p.ForwardProxy.Listen) > 0 {
		if err := p.writeVariables(&made); err != nil {
			return made, err
		}
	}
	return made, nil
}

func planPodmanMachine(p *place) (plan, error) {
	made := plan{}
	if err := p.vmNotes(&made, "host.containers.internal"); err != nil {
		return made, err
	}
	for _, host := range p.certHosts() {
		made.note("podman machine ssh 'sudo mkdir -p /etc/containers/certs.d/%s && sudo tee /etc/containers/certs.d/%s/pushproxy.crt >/dev/null' < %s", host, host, p.bundle)
	}
	made.note("Then: podman machine stop && HTTPS_PROXY=http://host.containers.internal:%s podman machine start", p.proxyPort())
	p.noteOthers(&made, "The machine")
	return made, nil
}
