// Command bench proves how fast pushproxy is: it pushes the same kind of image with docker, skopeo, crane and containerd
// straight to a registry and through pushproxy, in turns, over an emulated line and over loopback, and holds pushproxy's own
// speed, processor time and memory against distribution's. It prints a table and, when every row was measured, writes
// docs/benchmarks.md and its plot.
//
// A step is something timed; a scenario is a list of steps with the sides that take turns at it; a row of the table is one
// value of a step, compared between two sides.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"pushproxy/tests/bench/link"
	"pushproxy/tests/bench/report"
	"pushproxy/tests/parts"
)

// options are the flags.
type options struct {
	rows    string
	rounds  int
	quick   bool
	storage string
	out     string
	program string
	bin     string
	rtt     time.Duration
	mbit    float64
	list    bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, parseFlags())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.rows, "rows", "", "comma-separated `keys` of the rows to measure, or beginnings of keys (default all)")
	flag.IntVar(&o.rounds, "n", 5, "`rounds` of every row")
	flag.BoolVar(&o.quick, "quick", false, "a quarter of the bytes and at most two rounds: to see that it works")
	flag.StringVar(&o.storage, "storage", "badger,files", "`storages` that ingest rows compare; the other rows use the first")
	flag.StringVar(&o.out, "out", "", "Markdown `file` to write, its plot beside it (default docs/benchmarks.md when every row is measured in full)")
	flag.StringVar(&o.program, "pushproxy", "", "`program` to measure (default: built from this checkout)")
	flag.StringVar(&o.bin, "bin", "", "`directory` whose docker, dockerd, skopeo, ctr and containerd are used before the system's")
	flag.DurationVar(&o.rtt, "rtt", 50*time.Millisecond, "round trip `time` of the line")
	flag.Float64Var(&o.mbit, "rate", 100, "`Mbit/s` of the line in each direction")
	flag.BoolVar(&o.list, "list", false, "print the rows and their targets, measure nothing")
	flag.Parse()
	if o.out == "" && o.rows == "" && !o.quick {
		o.out = filepath.Join("docs", "benchmarks.md")
	}
	if o.quick {
		o.rounds = min(o.rounds, 2)
	}
	return o
}

func (o options) storages() []string { return strings.Split(o.storage, ",") }

// find returns the path of a client's program: the one of -bin, else the system's.
func (o options) find(program string) (string, error) {
	if o.bin != "" {
		if path, err := filepath.Abs(filepath.Join(o.bin, program)); err == nil {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return parts.Find(program)
}

func (o options) line() link.Profile {
	return link.Profile{RTT: o.rtt, Rate: int64(o.mbit * 1e6 / 8)}
}

// size is how many of full bytes or things are moved.
func (o options) size(full int) int {
	if o.quick {
		return full / 4
	}
	return full
}

func run(ctx context.Context, o options) error {
	if flag.NArg() > 0 || o.rounds < 1 || o.mbit <= 0 || o.rtt < 0 {
		return errors.New("no arguments beside flags, at least one round, a line with a rate: see -help")
	}
	rows, err := chosen(allRows(o), o.rows)
	if err != nil {
		return err
	}
	if o.list {
		for _, r := range rows {
			fmt.Printf("%-28s %s\n", r.key, r.name)
		}
		return nil
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.checkStorages(ctx); err != nil {
		return err
	}
	started := b.facts(ctx)
	b.doubts()
	b.measure(ctx, rows)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	out := report.Report{Facts: append(started, b.peers(ctx)), Rows: b.results(rows), Remarks: b.remarks}
	if err := out.Text(os.Stdout); err != nil {
		return err
	}
	if o.out != "" {
		if err := write(out, o.out); err != nil {
			return err
		}
	}
	if b.failures > 0 {
		return fmt.Errorf("%d measurements failed, see above", b.failures)
	}
	return nil
}

// write stores the report at path and its plot beside it. What people wrote in an earlier one stays.
func write(r report.Report, path string) error {
	if before, err := os.ReadFile(path); err == nil {
		r.Written = report.Written(string(before))
	}
	plot := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
	r.Plot = filepath.Base(plot)
	text, err := os.Create(path)
	if err != nil {
		return err
	}
	picture, err := os.Create(plot)
	if err != nil {
		return errors.Join(err, text.Close())
	}
	return errors.Join(r.Markdown(text), text.Close(), r.SVG(picture), picture.Close())
}

// bench is what all scenarios share.
type bench struct {
	options
	dir      string // temporary
	tools    string // where distribution and crane are
	program  string // pushproxy
	clients  map[string]client
	absent   map[string]error // clients that cannot be used, and why
	unknown  []string         // storages that this pushproxy does not know
	samples  []sample
	remarks  []string
	failures int
	scenes   int
}

func newBench(ctx context.Context, o options) (*bench, error) {
	tools, err := parts.Tools(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ppbench")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, dir: dir, tools: tools, program: o.program, clients: map[string]client{}, absent: map[string]error{}}
	if b.program == "" {
		if b.program, err = parts.BuildPushproxy(ctx, dir, false); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if b.program, err = filepath.Abs(b.program); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

// checkStorages leaves out the storages that this pushproxy does not know.
func (b *bench) checkStorages(ctx context.Context) error {
	for _, storage := range b.storages() {
		file := filepath.Join(b.dir, "check.yaml")
		if err := b.config(b.dir, 5001, "http://127.0.0.1:5000", storage).Write(file); err != nil {
			return err
		}
		if err := (command{b.program, cleanEnv(b.dir)}).run(ctx, "config", "check", "--config", file); err != nil {
			b.unknown = append(b.unknown, storage)
			b.remark("left out: storage %s: %v", storage, err)
		}
	}
	if slices.Contains(b.unknown, b.storages()[0]) {
		return fmt.Errorf("pushproxy does not know the storage %s", b.storages()[0])
	}
	return nil
}

func (b *bench) close() {
	for _, c := range b.clients {
		c.stop()
	}
	_ = os.RemoveAll(b.dir)
}

// remark notes something for the reader of the report, once.
func (b *bench) remark(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), b.dir, "DIR")
	for _, r := range b.remarks {
		if r == text {
			return
		}
	}
	b.remarks = append(b.remarks, text)
	fmt.Fprintln(os.Stderr, text)
}
