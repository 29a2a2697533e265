package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// hardening is what a service manager of a user may take away as well.
const hardening = `NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
UMask=0077
LimitCORE=0
LimitNOFILE=65536
`

// systemHardening is for the machine's own service, which runs as nobody in
// particular and reads no home.
const systemHardening = `DynamicUser=yes
StateDirectory=pushproxy
StateDirectoryMode=0700
ConfigurationDirectory=pushproxy
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictNamespaces=yes
RemoveIPC=yes
CapabilityBoundingSet=
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
`

// planSystemd writes units that start pushproxy at the first connection: the
// sockets are the service manager's, so nobody else can take the ports.
func planSystemd(p *place) (plan, error) {
	made := plan{}
	program, err := p.program(&made)
	if err != nil {
		return made, err
	}
	dir, user, args := filepath.Join(p.home, ".config/systemd/user"), " --user", ""
	if p.system {
		dir, user = "/etc/systemd/system", ""
		args = " --data-dir /var/lib/pushproxy"
		if p.has("/etc/pushproxy/config.yaml") {
			args += " --config /etc/pushproxy/config.yaml"
		}
	}
	sockets := "pushproxy.socket"
	made.write(filepath.Join(dir, "pushproxy.socket"), "holds the ports of the registry door", socketUnit("registry door", "registry", p.Listen))
	if len(p.ForwardProxy.Listen) > 0 {
		sockets += " pushproxy-proxy.socket"
		made.write(filepath.Join(dir, "pushproxy-proxy.socket"), "holds the port of the forward-proxy door", socketUnit("forward-proxy door", "forward-proxy", p.ForwardProxy.Listen))
	}
	made.write(filepath.Join(dir, "pushproxy.service"), "runs pushproxy when somebody connects, and again when it hangs", p.serviceUnit(program+" serve"+args, sockets))
	made.note("Then: systemctl%s daemon-reload && systemctl%s enable --now %s", user, user, sockets)
	if p.system {
		made.note("The machine's own service has its own credentials: name them in /etc/pushproxy/config.yaml (credentials); it reads nobody's home.")
		made.note("Its CA is its own as well: set clients up with pushproxy setup CLIENT --apply --data-dir /var/lib/pushproxy, after its first start.")
	} else {
		made.note("It runs while you are logged in; for always: loginctl enable-linger")
	}
	return made, nil
}

func socketUnit(what, name string, addresses []string) string {
	unit := "# Written by `pushproxy setup systemd`.\n[Unit]\nDescription=pushproxy, " + what + "\n\n[Socket]\n"
	for _, a := range addresses {
		unit += "ListenStream=" + strings.Replace(a, "localhost:", "127.0.0.1:", 1) + "\n"
	}
	return unit + "FileDescriptorName=" + name + "\nService=pushproxy.service\n\n[Install]\nWantedBy=sockets.target\n"
}

func (p *place) serviceUnit(command, sockets string) string {
	unit := "# Written by `pushproxy setup systemd`.\n[Unit]\nDescription=pushproxy, a push proxy for container images\n" +
		"Requires=" + sockets + "\nAfter=" + sockets + " network.target\n\n[Service]\nType=notify\nNotifyAccess=main\n" +
		"ExecStart=" + command + "\nRestart=on-failure\nRestartSec=2\nWatchdogSec=60\nTimeoutStopSec=40\n" + hardening
	if p.system {
		return unit + systemHardening
	}
	return unit
}

// program is where this one is, for a service to start.
func (p *place) program(made *plan) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	if strings.Contains(program, "go-build") {
		made.note("This program was built by `go run` and is gone when it ends: go install ./cmd/pushproxy first, and use that one.")
	}
	if strings.ContainsAny(program, " \t\"'\\%$\n") {
		return "", fmt.Errorf("the path of this program, %q, has characters that service managers read otherwise: move it", program)
	}
	return program, nil
}

// planLaunchd writes an agent for macOS.
func planLaunchd(p *place) (plan, error) {
	made := plan{}
	program, err := p.program(&made)
	if err != nil {
		return made, err
	}
	file := filepath.Join(p.home, "Library/LaunchAgents/pushproxy.plist")
	log := filepath.Join(p.home, "Library/Logs/pushproxy.log")
	made.write(file, "launchd runs pushproxy while you are logged in", `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key><string>pushproxy</string>
	<key>ProgramArguments</key>
	<array><string>`+escaped(program)+`</string><string>serve</string></array>
	<key>RunAtLoad</key><true/>
	<key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
	<key>ProcessType</key><string>Interactive</string>
	<key>Umask</key><integer>63</integer>
	<key>StandardErrorPath</key><string>`+escaped(log)+`</string>
</dict>
</plist>
`)
	made.note("Then: launchctl bootstrap gui/$(id -u) %s", file)
	return made, nil
}

func escaped(text string) string {
	var b strings.Builder
	// A builder cannot fail.
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}
