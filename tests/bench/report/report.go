// Package report turns measured values into what people read: a table of medians and ratios, as text and as Markdown, and
// a plot of the ratios as SVG. It measures nothing.
package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Report is one run of the benchmark.
type Report struct {
	Facts   []Fact // machine, date, command: in this order
	Rows    []Row
	Remarks []string // what was left out, what failed
	Plot    string   // file name of the plot, beside the Markdown file; "" for none
	Written string   // what people wrote about earlier runs, as Written returns it; Markdown ends with it
}

// Fact is one line about the run.
type Fact struct{ Name, Value string }

// Row compares two series of values, or holds one against fixed bounds where Base is empty.
type Row struct {
	Key  string // how the row is selected
	Name string
	Unit string
	Base Series
	Ours Series
	More bool // more is better, as with speeds
	// A and B bound the ratio of the medians, or the median itself where there is no base; 0 is no bound. The ratio must
	// be at most the bound, at least where More.
	A, B float64
	// Floor is the least that the line allows, 0 where that says nothing; FloorB bounds the median's ratio to it.
	Floor, FloorB float64
}

// Series is the values of one contestant, one per round that succeeded, and what they cost.
type Series struct {
	Name   string
	Values []float64
	Failed int // rounds without a value
	Cost   Cost
}

// Cost is what rounds cost, one value per round; what was not measured is empty.
type Cost struct {
	Requests  []float64 // that the upstream saw
	Megabytes []float64 // of 1,000,000 bytes, that the upstream was sent
	CPU       []float64 // seconds per GiB, of the server that is measured
	Anonymous []float64 // peak MiB of the same server
}

// Median returns the middle value, the mean of the middle two where their number is even, NaN of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Ratio returns the ratio of the medians, NaN where one is missing.
func (r Row) Ratio() float64 { return Median(r.Ours.Values) / Median(r.Base.Values) }

// Gain returns how many times better than the base: above 1 is better, whatever the unit.
func (r Row) Gain() float64 {
	if r.More {
		return r.Ratio()
	}
	return 1 / r.Ratio()
}

// compared tells whether the row has a base.
func (r Row) compared() bool { return r.Base.Name != "" }

// judged is what the bounds apply to.
func (r Row) judged() float64 {
	if r.compared() {
		return r.Ratio()
	}
	return Median(r.Ours.Values)
}

// met tells whether a bound holds; a row without values meets none.
func (r Row) met(bound float64) bool {
	if r.More {
		return r.judged() >= bound
	}
	return r.judged() <= bound
}

// Missed tells whether the row was measured and its A does not hold, or a contestant of ours failed.
func (r Row) Missed() bool {
	return r.Ours.Failed > 0 || r.A != 0 && len(r.Ours.Values) > 0 && !r.met(r.A)
}

var head = []string{"what", "unit", "against", "pushproxy", "ratio [pairs]", "A", "B", "requests", "MB sent", "CPU-s/GiB", "anon MiB"}

func (r Row) cells() []string {
	return []string{
		r.Name, r.Unit, r.Base.text(), r.Ours.text(), r.ratios(), r.bound(r.A, ""), r.bound(r.B, r.floor()),
		both(r.Base.Cost.Requests, r.Ours.Cost.Requests, 0), both(r.Base.Cost.Megabytes, r.Ours.Cost.Megabytes, 1),
		both(r.Base.Cost.CPU, r.Ours.Cost.CPU, 2), both(r.Base.Cost.Anonymous, r.Ours.Cost.Anonymous, 0),
	}
}

// text is the median with the extremes, and the name where it is not the usual one.
func (s Series) text() string {
	if s.Name == "" {
		return "–"
	}
	if len(s.Values) == 0 {
		return s.label() + "failed"
	}
	text := s.label() + figure(Median(s.Values))
	if len(s.Values) > 1 {
		text += fmt.Sprintf(" [%s–%s]", figure(slices.Min(s.Values)), figure(slices.Max(s.Values)))
	}
	if s.Failed > 0 {
		text += fmt.Sprintf(" (%d failed)", s.Failed)
	}
	return text
}

func (s Series) label() string {
	if s.Name == "pushproxy" {
		return ""
	}
	return s.Name + " "
}

// ratios is the ratio of the medians with the extremes of the rounds' own ratios.
func (r Row) ratios() string {
	if math.IsNaN(r.Ratio()) {
		return "–"
	}
	text := fmt.Sprintf("%.*f×", r.digits(), r.Ratio())
	var pairs []float64
	for i := range min(len(r.Base.Values), len(r.Ours.Values)) {
		pairs = append(pairs, r.Ours.Values[i]/r.Base.Values[i])
	}
	if len(pairs) > 1 && r.Base.Failed+r.Ours.Failed == 0 {
		text += fmt.Sprintf(" [%.2f–%.2f]", slices.Min(pairs), slices.Max(pairs))
	}
	return text
}

// digits is two, or three where two would show a ratio as its bound that is not.
func (r Row) digits() int {
	for _, bound := range []float64{r.A, r.B} {
		if d := math.Abs(r.Ratio() - bound); d > 0 && d < 0.005 {
			return 3
		}
	}
	return 2
}

// bound is a bound and whether it holds.
func (r Row) bound(bound float64, more string) string {
	if bound == 0 {
		return "–"
	}
	sign, unit := "≤", "×"
	if r.More {
		sign = "≥"
	}
	if !r.compared() {
		unit = ""
	}
	return fmt.Sprintf("%s %s%s %s%s", sign, figure(bound), unit, mark(r.met(bound)), more)
}

func (r Row) floor() string {
	if r.FloorB == 0 || math.IsNaN(r.Floor) || r.Floor == 0 {
		return ""
	}
	over := Median(r.Ours.Values) / r.Floor
	return fmt.Sprintf(", floor ≤ %.2f×: %.2f× %s", r.FloorB, over, mark(over <= r.FloorB))
}

func mark(met bool) string {
	if met {
		return "✓"
	}
	return "✗"
}

func both(base, ours []float64, digits int) string {
	one := func(v []float64) string {
		if len(v) == 0 {
			return "–"
		}
		return fmt.Sprintf("%.*f", digits, Median(v))
	}
	if len(base) == 0 {
		return one(ours)
	}
	return one(base) + " → " + one(ours)
}

// figure prints three digits or more, without an exponent.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case a == 0 || a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return trim(fmt.Sprintf("%.1f", v))
	case a >= 1:
		return trim(fmt.Sprintf("%.2f", v))
	}
	return trim(fmt.Sprintf("%.3f", v))
}

func trim(s string) string { return strings.TrimRight(strings.TrimRight(s, "0"), ".") }
