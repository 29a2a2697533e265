package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ticks is how many units of /proc's processor times make a second: on Linux always 100, as user space sees it.
const ticks = 100

// watch samples a process of Linux. On other systems, and for process 0, it sees nothing.
type watch struct {
	pid   int
	start float64
	done  chan struct{}
	wg    sync.WaitGroup
	peak  int64
}

// watchProcess begins to watch; every watch must be stopped.
func watchProcess(pid int) *watch {
	w := &watch{pid: pid, start: processorTime(pid), done: make(chan struct{})}
	w.wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			w.peak = max(w.peak, anonymous(pid))
			select {
			case <-tick.C:
			case <-w.done:
				return
			}
		}
	})
	return w
}

// stop returns the processor seconds since the start and the largest anonymous memory in bytes.
func (w *watch) stop() (cpu float64, peak int64) {
	close(w.done)
	w.wg.Wait()
	return processorTime(w.pid) - w.start, w.peak
}

// processorTime returns the seconds that a process has used in user and kernel mode, 0 when that cannot be read.
func processorTime(pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || pid == 0 {
		return 0
	}
	return parseProcessorTime(string(stat))
}

// parseProcessorTime reads /proc/PID/stat. The name, second and in brackets, may hold anything.
func parseProcessorTime(stat string) float64 {
	_, rest, _ := strings.Cut(stat[strings.LastIndexByte(stat, ')')+1:], " ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return float64(user+system) / ticks
}

// anonymous returns the anonymous resident memory of a process in bytes, 0 when that cannot be read.
func anonymous(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || pid == 0 {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "RssAnon:"); found {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
