package tests

import (
	"encoding/xml"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"pushproxy/tests/parts"
)

// outcome counts what the distribution-spec conformance suite reports.
type outcome struct {
	passed, skipped int
	failed          map[string]string // test → message
}

func (o outcome) String() string {
	return fmt.Sprintf("PASS %d FAIL %d SKIP %d", o.passed, len(o.failed), o.skipped)
}

func TestConformanceBeforeOlareg(t *testing.T) {
	t.Parallel()
	suite := conformanceSuite(t)
	pushproxyProgram(t, buildRace)
	reg := startOlareg(t)
	r := startRig(t, reg.URL, func(r *rig) { r.config.Credentials.DockerConfig = emptyDockerConfig(t) })
	alone := conform(t, suite, reg.Host, "alone")
	through := conform(t, suite, fmt.Sprintf("localhost:%d", r.Port), upstreamName+"/through")
	t.Logf("olareg itself: %s; through pushproxy: %s", alone, through)
	for name, message := range through.failed {
		t.Errorf("%s: %s", name, message)
	}
	if through.passed < alone.passed {
		t.Errorf("%d checks pass through pushproxy, %d without it", through.passed, alone.passed)
	}
}

func TestConformanceBeforeDistribution(t *testing.T) {
	t.Parallel()
	suite := conformanceSuite(t)
	pushproxyProgram(t, buildRace)
	reg := startRegistry(t, parts.RegistryConfig{Htpasswd: true})
	r := startRig(t, reg.URL, nil)
	u := parts.Alice()
	alone := conform(t, suite, reg.Host, "alone", "OCI_USERNAME="+u.Name, "OCI_PASSWORD="+u.Password)
	through := conform(t, suite, fmt.Sprintf("localhost:%d", r.Port), upstreamName+"/through")
	t.Logf("distribution itself: %s; through pushproxy: %s", alone, through)
	names := make([]string, 0, len(through.failed))
	for name := range through.failed {
		if _, fails := alone.failed[name]; !fails {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		t.Errorf("only through pushproxy fails %s: %s", name, through.failed[name])
	}
}

// conformanceSuite builds the suite, which is a Go module of its own.
func conformanceSuite(t *testing.T) string {
	t.Helper()
	program, err := parts.Conformance(t.Context())
	if err != nil {
		leftOut(t, "the conformance suite cannot be had: "+err.Error())
	}
	return program
}

// conform runs every workflow of the suite against a registry that speaks plain HTTP.
func conform(t *testing.T, suite, registry, repo string, more ...string) outcome {
	t.Helper()
	if _, err := url.Parse("http://" + registry); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	env := cleanEnv(dir, append([]string{
		"OCI_REGISTRY=" + registry, "OCI_TLS=disabled", "OCI_REPO1=" + repo + "/one", "OCI_REPO2=" + repo + "/two",
		"OCI_VERSION=1.1", "OCI_RESULTS_DIR=" + dir, "OCI_CONFIGURATION=" + os.DevNull,
		"OCI_API_BLOBS_UPLOAD_CANCEL=true",
	}, more...)...)
	// A failed check is an exit code too: the report tells.
	stdout, stderr, err := command{env: env, dir: dir, most: 10 * time.Minute}.try(t, suite)
	report, readErr := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if readErr != nil {
		t.Fatalf("the suite left no report: %v, %v\n%s\n%s", err, readErr, lastLines(stdout, 20), lastLines(stderr, 20))
	}
	return parseReport(t, report)
}

type junitCase struct {
	Name      string       `xml:"name,attr"`
	Classname string       `xml:"classname,attr"`
	Status    string       `xml:"status,attr"`
	Skipped   *junitReason `xml:"skipped"`
	Failure   *junitReason `xml:"failure"`
	Error     *junitReason `xml:"error"`
	Log       string       `xml:"system-err"`
}

type junitReason struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func parseReport(t *testing.T, report []byte) outcome {
	t.Helper()
	var suites struct {
		Suites []struct {
			Cases []junitCase `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(report, &suites); err != nil {
		t.Fatal(err)
	}
	o := outcome{failed: map[string]string{}}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			switch why := c.reason(); {
			case why != "":
				o.failed[strings.TrimSpace(c.Classname+" "+c.Name)] = why
			case c.Skipped != nil || c.Status == "skipped":
				o.skipped++
			default:
				o.passed++
			}
		}
	}
	return o
}

// reason returns why a case failed, or "". The suite sets the status alone.
func (c junitCase) reason() string {
	for _, r := range []*junitReason{c.Failure, c.Error} {
		if r != nil {
			return strings.TrimSpace(c.Status + " " + r.Message + " " + lastLines(r.Text, 3))
		}
	}
	if c.Status != "passed" && c.Status != "skipped" && c.Status != "disabled" {
		return c.Status + " " + lastLines(c.Log, 12)
	}
	return ""
}

func TestTheConformanceReportIsReadRight(t *testing.T) {
	t.Parallel()
	o := parseReport(t, []byte(`<testsuites><testsuite><testcase name="a" status="passed"/><testcase name="b" status="skipped"><skipped message="no"/></testcase>`+
		`<testcase name="c" classname="x" status="failure"><failure message="m">why</failure></testcase><testcase name="d" status="error"><error>e</error></testcase><testcase name="f" status="failure"><system-err>log</system-err></testcase></testsuite></testsuites>`))
	if o.String() != "PASS 1 FAIL 3 SKIP 1" || o.failed["x c"] != "failure m why" || o.failed["f"] != "failure log" {
		t.Errorf("read as %s: %v", o, o.failed)
	}
}
