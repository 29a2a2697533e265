//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v3"

	"pushproxy/blobcache"
	"pushproxy/forward"
)

var descExp = regexp.MustCompile(`fqName: "([^"]*)"`)

// described lists what the rooms say that they export.
func described(t *testing.T) (names []string) {
	t.Helper()
	f := forward.New(nil, nil)
	u, err := newUpstreams(Config{}, "", f)
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(Config{}, &stores{blobs: &blobcache.Files{}}, blobcache.New(blobcache.NewMemory(), blobcache.NewMemory()), u)
	for _, c := range m.rooms() {
		ch := make(chan *prometheus.Desc, 100)
		c.Describe(ch)
		close(ch)
		for d := range ch {
			names = append(names, descExp.FindStringSubmatch(d.String())[1])
		}
	}
	return names
}

const metricsPage = "../../docs/metrics.md"

// The table of docs/metrics.md is what the program exports. -update writes it.
func TestMetricsAreDocumentedAsTheyAre(t *testing.T) {
	s := serveQueue(t)
	s.work()
	_, families := s.scrape()
	for _, name := range described(t) {
		if families[name] == nil {
			t.Errorf("%s is described and was not exported, though everything was done", name)
		}
	}
	var table strings.Builder
	table.WriteString("| Metric | Type | Labels | What it is |\n|---|---|---|---|\n")
	labels := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if !strings.HasPrefix(name, "pushproxy_") {
			continue
		}
		f := families[name]
		own := map[string]bool{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				own["`"+l.GetName()+"`"], labels[l.GetName()] = true, true
			}
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(maps.Keys(own)), ", "), f.GetHelp())
	}
	raw, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(raw), "<!-- table -->\n")
	old, tail, ended := strings.Cut(rest, "<!-- end -->\n")
	if !found || !ended {
		t.Fatalf("%s has no table between its marks", metricsPage)
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(head+"<!-- table -->\n"+table.String()+"<!-- end -->\n"+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != table.String() {
		t.Errorf("%s is not what is exported; go test -run %s -update writes it:\n%s", metricsPage, t.Name(), table.String())
	}
	for label := range labels {
		if !strings.Contains(tail, "- `"+label+"`: ") {
			t.Errorf("%s does not say what the label %s has", metricsPage, label)
		}
	}
}

// expressions returns what the dashboard and the alert rules ask of Prometheus,
// by where they do, and the labels that their texts show.
func expressions(t *testing.T) (all map[string]string, shown map[string][]string) {
	t.Helper()
	all, shown = map[string]string{}, map[string][]string{}
	var dashboard struct {
		Templating struct {
			List []struct{ Name, Definition string }
		}
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	raw, err := os.ReadFile("../../docs/grafana/pushproxy.json")
	if err == nil {
		err = json.Unmarshal(raw, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			all["variable "+v.Name] = v.Definition
		}
	}
	for n, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for i, target := range p.Targets {
			at := fmt.Sprintf("panel %d %q, %d", n, p.Title, i)
			all[at], shown[at] = target.Expr, templates.FindAllString(target.LegendFormat, -1)
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	raw, err = os.ReadFile("../../docs/alerts.yaml")
	if err == nil {
		err = yaml.Unmarshal(raw, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all["alert "+r.Alert] = r.Expr
			for _, text := range r.Annotations {
				shown["alert "+r.Alert] = append(shown["alert "+r.Alert], templates.FindAllString(text, -1)...)
			}
		}
	}
	return all, shown
}

var (
	templates = regexp.MustCompile(`\{\{[^}]*\}\}`)
	selector  = regexp.MustCompile(`\b((?:pushproxy|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher   = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping  = regexp.MustCompile(`by \(([^)]*)\)`)
)

// asked returns the metric that a name in an expression means, and its labels.
func asked(families map[string]*dto.MetricFamily, name string) (*dto.MetricFamily, map[string]map[string]bool) {
	family := families[name]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); family == nil && cut && families[base].GetType() == dto.MetricType_HISTOGRAM {
			family = families[base]
		}
	}
	// What Prometheus adds, and what buckets have.
	labels := map[string]map[string]bool{"instance": nil, "job": nil}
	if strings.HasSuffix(name, "_bucket") {
		labels["le"] = nil
	}
	for _, m := range family.GetMetric() {
		for _, l := range m.GetLabel() {
			if labels[l.GetName()] == nil {
				labels[l.GetName()] = map[string]bool{}
			}
			labels[l.GetName()][l.GetValue()] = true
		}
	}
	return family, labels
}

func TestDashboardAndAlertsAskForWhatIsExported(t *testing.T) {
	s := serveQueue(t)
	s.work()
	_, families := s.scrape()
	all, shown := expressions(t)
	used := map[string]bool{}
	for at, expr := range all {
		known := map[string]bool{}
		for _, m := range selector.FindAllStringSubmatch(grouping.ReplaceAllString(expr, ""), -1) {
			family, labels := asked(families, m[1])
			if family == nil {
				t.Errorf("%s: %s is not exported", at, m[1])
				continue
			}
			used[family.GetName()] = true
			for label := range labels {
				known[label] = true
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if _, has := labels[l[1]]; !has {
					t.Errorf("%s: %s has no label %s", at, m[1], l[1])
				}
			}
		}
		for _, by := range grouping.FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(by[1], ",") {
				if label = strings.TrimSpace(label); !known[label] {
					t.Errorf("%s: what it groups has no label %s", at, label)
				}
			}
		}
		for _, text := range shown[at] {
			label := strings.TrimPrefix(strings.Trim(text, "{} "), "$labels.")
			if !strings.HasPrefix(label, "$value") && !known[label] && !strings.HasPrefix(expr, "up{") {
				t.Errorf("%s shows %s, which its expression does not have", at, text)
			}
		}
	}
	for name := range families {
		if strings.HasPrefix(name, "pushproxy_") && !used[name] {
			t.Errorf("%s is exported, and neither the dashboard nor an alert shows it", name)
		}
	}
}

func TestAlertsNameStatesThatThereAre(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	_, labels, _ := strings.Cut(string(page), "## Labels")
	all, _ := expressions(t)
	for at, expr := range all {
		for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
			if strings.HasPrefix(m[3], "$") || m[1] == "job" {
				continue
			}
			_, line, _ := strings.Cut(labels, "- `"+m[1]+"`: ")
			line, _, _ = strings.Cut(line, "\n- ")
			for v := range strings.SplitSeq(m[3], "|") {
				if !strings.Contains(line, "`"+v+"`") && !(m[1] == "code_class" && v == "5xx") {
					t.Errorf("%s: %s is never %q", at, m[1], v)
				}
			}
		}
	}
}
