package main

import (
	"fmt"
	"slices"
	"strings"

	"pushproxy/tests/bench/report"
)

// row is one value of a step, compared between two sides or held against bounds.
type row struct {
	key, name, unit  string
	step, base, ours string // base "" is none
	more             bool   // more is better
	a, b             float64
	floor            float64 // bound on the ratio to the line's floor
	upstream         bool    // what the upstream saw says something
	value            func(sample) float64
}

func seconds(s sample) float64   { return s.seconds }
func speed(s sample) float64     { return float64(s.bytes) / 1e6 / s.seconds }
func rate(s sample) float64      { return float64(s.count) / s.seconds }
func perGiB(s sample) float64    { return s.cpu / (float64(s.bytes) / (1 << 30)) }
func memoryMiB(s sample) float64 { return float64(s.anonymous) / (1 << 20) }

// allRows returns the rows in the order of the table of targets (issue 3).
func allRows(o options) []row {
	line := fmt.Sprintf("%d ms %.4g Mbit/s", o.rtt.Milliseconds(), o.mbit)
	rows := []row{{key: "floor", name: "floor of the line, " + line, unit: "s", step: "floor", ours: "sink", upstream: true, value: seconds}}
	push := func(key, name, step string, a, b, floor float64) {
		rows = append(rows, row{key: key, name: name, unit: "s", step: step, base: "direct", ours: "pushproxy", a: a, b: b, floor: floor, upstream: true, value: seconds})
	}
	push("first-docker", "first push, docker, "+line, "docker line first", 0.85, 0.75, 1.05)
	push("first-skopeo", "first push, skopeo, "+line, "skopeo line first", 0.50, 0.40, 0)
	push("first-crane", "first push, crane, "+line, "crane line first", 1.0, 0.90, 0)
	push("first-containerd", "first push, containerd, "+line, "containerd line first", 1.0, 0.90, 0)
	for _, name := range clientNames() {
		push("loopback-"+name, "first push, "+name+", loopback", name+" loopback first", 1.25, 1.05, 0)
	}
	push("repeat", "repeat push, docker", "docker line repeat", 0.25, 0.12, 0)
	push("layer", "one new small layer, docker", "docker line layer", 0.40, 0.20, 0)
	push("other", "another repository, docker", "docker line other", 0.25, 0.13, 0)
	return append(append(rows, ingestRows(o)...), costRows(o)...)
}

// storageBounds are the targets that depend on where blobs live.
type storageBounds struct{ ingestA, ingestB, cpuA, cpuB float64 }

func boundsOf(storage string) storageBounds {
	if storage == "files" {
		return storageBounds{1.0, 1.2, 2.0, 1.7}
	}
	return storageBounds{0.6, 0.8, 3.2, 2.6}
}

func ingestRows(o options) []row {
	var rows []row
	against := func(key, name, unit, step, ours string, a, b float64, value func(sample) float64) {
		rows = append(rows, row{key: key, name: name, unit: unit, step: step, base: "distribution", ours: ours, more: true, a: a, b: b, value: value})
	}
	for _, storage := range o.storages() {
		bounds := boundsOf(storage)
		against("ingest-1-"+storage, "ingest 1×"+o.named("1 GiB")+", "+storage, "MB/s", "ingest 1 GiB", storage, bounds.ingestA, bounds.ingestB, speed)
		against("ingest-16-"+storage, "ingest 16×"+o.named("64 MiB")+", 4 at a time, "+storage, "MB/s", "ingest 16", storage, bounds.ingestA, bounds.ingestB, speed)
	}
	first := o.storages()[0]
	against("ingest-2000", fmt.Sprintf("ingest %d×16 KiB, 8 at a time, %s", o.size(2000), first), "blobs/s", "ingest 2000", first, 4, 6, rate)
	rows = append(rows, row{key: "head", name: "HEAD, 8 at a time, " + first, unit: "req/s", step: "head", base: "uncached distribution", ours: first, more: true, a: 3.5, b: 4.5, value: rate})
	against("head-cached", "HEAD, against the registry's own cache, "+first, "req/s", "head", first, 0, 0, rate)
	against("pull", "pull 16×"+o.named("64 MiB")+", 4 at a time, "+first, "MB/s", "pull", first, 1.5, 2, speed)
	return rows
}

func costRows(o options) []row {
	var rows []row
	for _, storage := range o.storages() {
		bounds := boundsOf(storage)
		rows = append(rows, row{key: "cpu-" + storage, name: "ingested and forwarded, " + storage, unit: "CPU-s/GiB", step: "forward", ours: storage, a: bounds.cpuA, b: bounds.cpuB, value: perGiB})
	}
	first := o.storages()[0]
	rows = append(rows, row{key: "memory-16k", name: fmt.Sprintf("memory, %d×16 KiB, 8 at once, %s", o.size(2000), first), unit: "MiB", step: "ingest 2000", ours: first, a: 200, b: 100, value: memoryMiB})
	for _, size := range []string{"64", "512"} {
		rows = append(rows, row{key: "memory-" + size, name: "memory, 8×" + o.named(size+" MiB") + " at once, " + first, unit: "MiB", step: "memory " + size, ours: "pushproxy", a: 200, b: 100, value: memoryMiB})
	}
	for _, name := range []string{"docker", "containerd"} {
		// "Unchanged": the peaks of two equal runs differ by up to a quarter.
		rows = append(rows, row{key: "stall-" + name, name: fmt.Sprintf("memory, upstream stalls %v, %s", stallFor, name), unit: "MiB", step: "stall " + name, base: "steady", ours: "stalled", a: 1.25, upstream: true, value: memoryMiB})
	}
	return rows
}

// named is a size of the targets, with what a quick run makes of it.
func (o options) named(size string) string {
	if o.quick {
		return "¼ " + size
	}
	return size
}

// chosen returns the rows whose key is in the comma-separated list or begins with one of its words; all for "".
func chosen(rows []row, list string) ([]row, error) {
	if list == "" {
		return rows, nil
	}
	picked := map[string]bool{}
	for word := range strings.SplitSeq(list, ",") {
		found := false
		for _, r := range rows {
			if r.key == word || strings.HasPrefix(r.key, word+"-") {
				picked[r.key], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("-rows: there is no row %q: see -list", word)
		}
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !picked[r.key] }), nil
}

// results turns samples into the rows of the report. A row that nobody measured is left out.
func (b *bench) results(rows []row) []report.Row {
	floor := b.series(row{step: "floor", value: seconds}, "sink", "floor")
	var out []report.Row
	for _, r := range rows {
		name := "pushproxy"
		if r.ours == "sink" {
			name = r.ours
		}
		ours := b.series(r, r.ours, name)
		if len(ours.Values) == 0 && ours.Failed == 0 {
			continue
		}
		line := report.Row{Key: r.key, Name: r.name, Unit: r.unit, More: r.more, A: r.a, B: r.b, Ours: ours}
		if r.base != "" {
			line.Base = b.series(r, r.base, r.base)
		}
		if r.floor != 0 {
			line.Floor, line.FloorB = report.Median(floor.Values), r.floor
		}
		out = append(out, line)
	}
	return out
}

// series collects what a row wants of one side.
func (b *bench) series(r row, side, name string) report.Series {
	out := report.Series{Name: name}
	for _, s := range b.of(r.step, side) {
		if s.err != nil {
			out.Failed++
			continue
		}
		out.Values = append(out.Values, r.value(s))
		if r.upstream {
			out.Cost.Requests = append(out.Cost.Requests, float64(s.requests))
			if s.sent > 0 {
				out.Cost.Megabytes = append(out.Cost.Megabytes, float64(s.sent)/1e6)
			}
		}
		if s.watched {
			out.Cost.Anonymous = append(out.Cost.Anonymous, memoryMiB(s))
		}
		if s.watched && s.bytes > 0 {
			out.Cost.CPU = append(out.Cost.CPU, perGiB(s))
		}
	}
	return out
}
