package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// noProxy keeps localhost, where the registry door is, away from the proxy.
const noProxy = "localhost,127.0.0.1,::1"

// planDocker sets up a dockerd of this machine: it pushes and pulls for its
// clients, so it is the daemon that needs the proxy and the CA.
func planDocker(p *place) (plan, error) {
	var made plan
	if vm := p.virtualMachine(); vm != nil {
		return vm(p)
	}
	proxyURL, err := p.proxyURL()
	if err != nil {
		return made, err
	}
	units, certs := "/etc/systemd/system/docker.service.d", "/etc/docker/certs.d"
	reload := "systemctl daemon-reload && systemctl restart docker"
	if p.rootless() {
		units, certs = filepath.Join(p.home, ".config/systemd/user/docker.service.d"), filepath.Join(p.home, ".config/docker/certs.d")
		reload = "systemctl --user daemon-reload && systemctl --user restart docker"
		made.note("Rootless docker runs in a network of its own: its 127.0.0.1 is not this one unless it is started with --net=host or slirp4netns' host loopback is allowed.")
	}
	unit := "# Written by `pushproxy setup docker`.\n[Service]\n" +
		fmt.Sprintf("Environment=\"HTTPS_PROXY=%s\" \"NO_PROXY=%s\"\n", proxyURL, noProxy)
	if p.pushesTo(hubHost) {
		// Docker looks for no certs.d of its own Hub.
		file := filepath.Join(filepath.Dir(certs), "pushproxy-ca.pem")
		unit += fmt.Sprintf("Environment=\"SSL_CERT_FILE=%s\"\n", file)
		made.write(file, "the CA, which dockerd needs to trust in the place of Docker Hub's; the system's own stay trusted by their directory", p.rootsText())
	}
	made.write(filepath.Join(units, "pushproxy.conf"), "dockerd reaches registries through pushproxy's forward-proxy door", unit)
	for _, host := range p.certHosts() {
		made.write(filepath.Join(certs, host, "pushproxy.crt"), "dockerd trusts pushproxy's CA for "+host+" and nothing else", p.rootsText())
	}
	made.note("Then, which ends running containers unless live-restore is on: %s", reload)
	made.note("After that docker push and docker pull work with real names, such as %s/<repository>.", p.example())
	p.noteOthers(&made, "dockerd")
	if !p.ForwardProxy.TunnelOthers {
		made.note("dockerd makes logins, too: `docker login` of a further registry, and pulls from registries without a login, need that.")
	}
	return made, nil
}

// virtualMachine returns the set-up of the engine that stands for docker here,
// when it is in a virtual machine: docker has left nothing of its own in /etc.
func (p *place) virtualMachine() func(*place) (plan, error) {
	switch {
	case p.has("/etc/docker"):
		return nil
	case p.has(filepath.Join(p.home, ".docker/desktop")):
		return planDockerDesktop
	case p.has(filepath.Join(p.home, ".colima")):
		return planColima
	}
	return nil
}

// planDockerDesktop explains what only the program's own window can change.
func planDockerDesktop(p *place) (plan, error) {
	made := plan{}
	if err := p.vmNotes(&made, "host.docker.internal"); err != nil {
		return made, err
	}
	for _, host := range p.certHosts() {
		made.write(filepath.Join(p.home, ".docker/certs.d", host, "pushproxy.crt"), "Docker Desktop copies it to its virtual machine when it starts", p.rootsText())
	}
	made.note("In Docker Desktop: Settings, Resources, Proxies, manual: Secure web server (HTTPS) http://host.docker.internal:%s; then restart it.", p.proxyPort())
	p.noteOthers(&made, "Docker Desktop")
	return made, nil
}

func planColima(p *place) (plan, error) {
	made := plan{}
	if err := p.vmNotes(&made, "host.lima.internal (192.168.5.2)"); err != nil {
		return made, err
	}
	for _, host := range p.certHosts() {
		made.write(filepath.Join(p.home, ".docker/certs.d", host, "pushproxy.crt"), "Colima copies it to its virtual machine when it starts", p.rootsText())
	}
	made.note("Then: colima stop && colima start --env HTTPS_PROXY=http://192.168.5.2:%s --env NO_PROXY=%s", p.proxyPort(), noProxy)
	p.noteOthers(&made, "Colima")
	return made, nil
}

// vmNotes says why an engine in a virtual machine is different.
func (p *place) vmNotes(made *plan, address string) error {
	if _, err := p.proxyURL(); err != nil {
		return err
	}
	made.note("The engine runs in a virtual machine: its localhost is not this one, so localhost:%s does not lead here. It reaches this machine as %s;", p.port(), address)
	made.note("the forward-proxy door at port %s takes its connections, and images keep their real names.", p.proxyPort())
	return nil
}

// noteOthers says what a program that uses the proxy for everything needs.
func (p *place) noteOthers(made *plan, who string) {
	if p.ForwardProxy.TunnelOthers {
		made.note("Hosts that are not your registries are passed through untouched (forward_proxy.tunnel_others).")
		return
	}
	made.note("%s then reaches your registries only (%s): to let it reach others too, set `forward_proxy: {tunnel_others: true}` in the configuration.", who, strings.Join(p.registries, " "))
}

// rootless tells whether the daemon is this user's own.
func (p *place) rootless() bool {
	return !p.system && p.has(filepath.Join(p.home, ".config/systemd/user/docker.service"))
}

const hubHost = "docker.io"

// certHosts are the names by which clients look for certificates of registries.
func (p *place) certHosts() (hosts []string) {
	for _, host := range p.registries {
		hosts = append(hosts, host)
		if host == hubHost {
			hosts = append(hosts, "registry-1.docker.io")
		}
	}
	return hosts
}

func (p *place) pushesTo(host string) bool {
	for _, h := range p.registries {
		if h == host {
			return true
		}
	}
	return false
}

// example is a registry to show a name with.
func (p *place) example() string {
	if len(p.registries) > 0 {
		return p.registries[0]
	}
	return "ghcr.io"
}

// rootsText is the content of a file that holds the CA.
func (p *place) rootsText() string {
	if p.roots == "" {
		return "(the root of pushproxy's CA, which --apply makes)\n"
	}
	return p.roots
}

func (p *place) proxyPort() string {
	if i := strings.LastIndex(p.ForwardProxy.Listen[0], ":"); i >= 0 {
		return p.ForwardProxy.Listen[0][i+1:]
	}
	return "5002"
}
