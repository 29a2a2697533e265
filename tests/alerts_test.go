package tests

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the rules are tried on, in the format of promtool: each alert where it is due, and a quiet day.
const alertTests = `
rule_files: [%q]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'up{job="pushproxy",instance="a"}', values: '0x60'}
      - {series: 'pushproxy_queue_oldest_age_seconds{instance="a",state="queued"}', values: '4000+60x60'}
      - {series: 'pushproxy_queue_oldest_age_seconds{instance="a",state="parked"}', values: '9000+60x60'}
      - {series: 'pushproxy_queue_jobs{instance="a",state="needs-auth"}', values: '2x60'}
      - {series: 'pushproxy_queue_jobs{instance="a",state="parked"}', values: '1x60'}
      - {series: 'pushproxy_upstream_up{instance="a",upstream="r.test"}', values: '0x60'}
      - {series: 'pushproxy_cache_disk_free_bytes{instance="a"}', values: '100x60'}
      - {series: 'pushproxy_cache_disk_floor_bytes{instance="a"}', values: '60x60'}
      - {series: 'pushproxy_cache_read_only{instance="a"}', values: '1x60'}
      - {series: 'pushproxy_request_duration_seconds_count{instance="a",kind="ping",code_class="5xx"}', values: '0+10x60'}
      - {series: 'pushproxy_request_duration_seconds_count{instance="a",kind="ping",code_class="2xx"}', values: '0+90x60'}
      - {series: 'pushproxy_push_duration_seconds_count{instance="a",upstream="r.test",result="failed"}', values: '0+3x60'}
      - {series: 'pushproxy_push_duration_seconds_count{instance="a",upstream="r.test",result="done"}', values: '0+7x60'}
      - {series: 'pushproxy_push_duration_seconds_bucket{instance="a",upstream="r.test",result="done",le="300"}', values: '0+1x60'}
      - {series: 'pushproxy_push_duration_seconds_bucket{instance="a",upstream="r.test",result="done",le="600"}', values: '0+7x60'}
      - {series: 'pushproxy_push_duration_seconds_bucket{instance="a",upstream="r.test",result="done",le="+Inf"}', values: '0+7x60'}
      - {series: 'pushproxy_cache_damaged_blobs_total{instance="a"}', values: '0+1x60'}
      - {series: 'pushproxy_panics_total{instance="a"}', values: '0+1x60'}
      - {series: 'pushproxy_faults_total{instance="a"}', values: '0x60'}
    promql_expr_test:
      - {expr: 'count(ALERTS{alertstate="firing"})', eval_time: 50m, exp_samples: [{labels: '{}', value: 12}]}
      - {expr: 'count(count by (alertname) (ALERTS{alertstate="firing"}))', eval_time: 50m, exp_samples: [{labels: '{}', value: 12}]}
  - interval: 1m
    input_series:
      - {series: 'up{job="pushproxy",instance="a"}', values: '1x60'}
      - {series: 'pushproxy_queue_oldest_age_seconds{instance="a",state="queued"}', values: '60x60'}
      - {series: 'pushproxy_queue_jobs{instance="a",state="needs-auth"}', values: '0x60'}
      - {series: 'pushproxy_queue_jobs{instance="a",state="queued"}', values: '9x60'}
      - {series: 'pushproxy_upstream_up{instance="a",upstream="r.test"}', values: '1x60'}
      - {series: 'pushproxy_cache_disk_free_bytes{instance="a"}', values: '1000x60'}
      - {series: 'pushproxy_cache_disk_floor_bytes{instance="a"}', values: '60x60'}
      - {series: 'pushproxy_cache_read_only{instance="a"}', values: '0x60'}
      - {series: 'pushproxy_request_duration_seconds_count{instance="a",kind="ping",code_class="5xx"}', values: '0+1x60'}
      - {series: 'pushproxy_request_duration_seconds_count{instance="a",kind="ping",code_class="2xx"}', values: '0+90x60'}
      - {series: 'pushproxy_push_duration_seconds_count{instance="a",upstream="r.test",result="done"}', values: '0+7x60'}
      - {series: 'pushproxy_push_duration_seconds_bucket{instance="a",upstream="r.test",result="done",le="300"}', values: '0+7x60'}
      - {series: 'pushproxy_push_duration_seconds_bucket{instance="a",upstream="r.test",result="done",le="+Inf"}', values: '0+7x60'}
      - {series: 'pushproxy_cache_damaged_blobs_total{instance="a"}', values: '4x60'}
      - {series: 'pushproxy_panics_total{instance="a"}', values: '0x60'}
      - {series: 'pushproxy_faults_total{instance="a"}', values: '0x60'}
    promql_expr_test:
      - {expr: 'ALERTS', eval_time: 50m, exp_samples: []}
`

func TestAlertsFireWhenTheyShouldAndOtherwiseNot(t *testing.T) {
	t.Parallel()
	rules := filepath.Join(root(t), "docs/alerts.yaml")
	promtool(t, "check", "rules", "--lint-fatal", rules)
	promtool(t, "test", "rules", writeFile(t, filepath.Join(t.TempDir(), "test.yaml"), fmt.Sprintf(alertTests, rules), 0o600))
}

func TestTheDashboardAsksWhatPrometheusUnderstands(t *testing.T) {
	t.Parallel()
	raw := readFile(t, filepath.Join(root(t), "docs/grafana/pushproxy.json"))
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(raw), &dashboard); err != nil {
		t.Fatal(err)
	}
	text := "groups:\n- name: dashboard\n  rules:\n"
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$upstream", ".*")
	n := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			n++
			text += fmt.Sprintf("  - {record: 'panel:%d', expr: %q}\n", n, fill.Replace(target.Expr))
		}
	}
	if n == 0 {
		t.Fatal("the dashboard asks for nothing")
	}
	promtool(t, "check", "rules", writeFile(t, filepath.Join(t.TempDir(), "rules.yaml"), text, 0o600))
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), system(t, "promtool"), args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
