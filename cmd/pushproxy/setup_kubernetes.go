package main

import (
	"fmt"
	"path/filepath"
)

// planKubernetes writes the config map by which clusters in docker tell tools of
// a registry on the developer's machine (KEP-1755).
func planKubernetes(p *place) (plan, error) {
	made := plan{}
	file := filepath.Join(p.home, ".config/pushproxy/local-registry-hosting.yaml")
	made.write(file, "tells tools such as tilt and skaffold where to push (KEP-1755)", fmt.Sprintf(`# Written by "pushproxy setup kubernetes".
apiVersion: v1
kind: ConfigMap
metadata:
  name: local-registry-hosting
  namespace: kube-public
data:
  localRegistryHosting.v1: |
    host: "%s"
    help: "pushproxy forwards what is pushed here; pull it by the name of its registry"
`, p.localhost()))
	if p.DefaultUpstream == "" {
		made.note("Tools push %s/<image> then, without a registry in the name: say where that goes with default_upstream in the configuration.", p.localhost())
	}
	made.note("Then: kubectl apply -f %s", file)
	made.note("Nodes pull from the registry itself, by its real name, with its own pull secret: an image has landed there when its push has ended.")
	return made, nil
}
