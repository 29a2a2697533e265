package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() Report {
	return Report{
		Facts: []Fact{{"machine", "2 × Example CPU"}, {"command", "make bench"}},
		Plot:  "benchmarks.svg",
		Rows: []Row{
			{
				Key: "first-docker", Name: "first push, docker", Unit: "s", A: 0.85, B: 0.75, Floor: 4, FloorB: 1.05,
				Base: Series{Name: "direct", Values: []float64{5, 5.5, 7.25}, Cost: Cost{Requests: []float64{39, 39, 40}, Megabytes: []float64{42.41, 42.4, 42.4}}},
				Ours: Series{Name: "pushproxy", Values: []float64{4.25, 4.125, 4.5}, Cost: Cost{
					Requests: []float64{28, 28, 28}, Megabytes: []float64{42.4, 42.4, 42.4}, CPU: []float64{3, 2, 4}, Anonymous: []float64{80, 85, 90},
				}},
			},
			{
				Key: "ingest", Name: "ingest <16×64 MiB>, badger", Unit: "MB/s", More: true, A: 0.6, B: 0.8,
				Base: Series{Name: "distribution", Values: []float64{450, 460}},
				Ours: Series{Name: "pushproxy", Values: []float64{200, 210}},
			},
			{Key: "cpu", Name: "forwarded, badger", Unit: "CPU-s/GiB", A: 3.2, B: 2.6, Ours: Series{Name: "pushproxy", Values: []float64{2.9}}},
			{Key: "repeat", Name: "repeat push", Unit: "s", A: 0.25, B: 0.12,
				Base: Series{Name: "direct", Values: []float64{0.66, 0.64}}, Ours: Series{Name: "pushproxy", Values: []float64{0.0771}, Failed: 1}},
			{Key: "crane", Name: "first push, crane", Unit: "s", A: 1, B: 0.9,
				Base: Series{Name: "direct", Values: []float64{4}}, Ours: Series{Name: "pushproxy", Values: []float64{4.01}}},
			{Key: "stall", Name: "memory in a stall", Unit: "MiB", A: 1.25,
				Base: Series{Name: "steady", Values: []float64{45}}, Ours: Series{Name: "pushproxy", Values: []float64{46}}},
			{Key: "head", Name: "HEAD", Unit: "req/s", More: true, A: 3.5, B: 4.5,
				Base: Series{Name: "distribution", Values: []float64{2598}}, Ours: Series{Name: "pushproxy", Failed: 2}},
		},
		Remarks: []string{"left out: storage files | not there", "failed: repeat push: exit status 1\nunexpected EOF"},
	}
}

func TestReportsLookAsTheyDid(t *testing.T) {
	t.Parallel()
	r := sample()
	for _, c := range []struct {
		file  string
		write func(io.Writer) error
	}{{"report.txt", r.Text}, {"report.md", r.Markdown}, {"report.svg", r.SVG}} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			if err := c.write(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", c.file)
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("got\n%s\nwant\n%s", got.Bytes(), want)
			}
		})
	}
}

func TestThePlotIsWellFormed(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Report{"a full report": sample(), "a report without rows": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if err := r.SVG(&b); err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(&b); ; {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					return
				} else if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestWhatPeopleWroteSurvivesTheNextRun(t *testing.T) {
	t.Parallel()
	render := func(r Report) string {
		var b bytes.Buffer
		if err := r.Markdown(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first := render(sample())
	if got := Written(first); got != "" {
		t.Errorf("a document that nobody wrote in has %q", got)
	}
	const words = "\n## Where a target is missed\n\nBecause.\n"
	next := Report{Remarks: []string{"busy"}, Written: Written(first + words)}
	if got := render(next); !strings.HasSuffix(got, "- busy\n"+words) || Written(got) != words {
		t.Errorf("the next document ends with %q", got[max(0, len(got)-100):])
	}
}

func TestMedianIsTheMiddle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"of one value it is that", []float64{3}, 3},
		{"of an odd number it is the middle, in whatever order", []float64{9, 1, 5}, 5},
		{"of an even number it is between the middle two", []float64{4, 1, 2, 100}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := Median(c.values); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("of no values it is %v, want not a number", got)
	}
}

func TestARowSaysWhetherItsBoundIsMissed(t *testing.T) {
	t.Parallel()
	series := func(v ...float64) Series { return Series{Name: "x", Values: v} }
	for _, c := range []struct {
		name   string
		row    Row
		missed bool
	}{
		{"a time within its bound holds", Row{A: 0.85, Base: series(10), Ours: series(8.5)}, false},
		{"a time beyond it does not", Row{A: 0.85, Base: series(10), Ours: series(8.6)}, true},
		{"a speed above its bound holds", Row{A: 4, More: true, Base: series(10), Ours: series(41)}, false},
		{"a speed below it does not", Row{A: 4, More: true, Base: series(10), Ours: series(39)}, true},
		{"a value without a base is held against the bound itself", Row{A: 200, Ours: series(201)}, true},
		{"a row that failed is missed", Row{Ours: Series{Name: "x", Values: []float64{1}, Failed: 1}}, true},
		{"a row that was not measured is not", Row{A: 1}, false},
		{"a row without a bound is not", Row{Base: series(1), Ours: series(9)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := c.row.Missed(); got != c.missed {
				t.Errorf("got %v, want %v", got, c.missed)
			}
		})
	}
}
