package status

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"pushproxy/oci"
)

const (
	// journalBytes is how long the file of finished pushes grows before a new one
	// is begun. One old one is kept beside it.
	journalBytes = 16 << 20
	// journalAhead is how many lines may wait to be written. A disk that is slower
	// than that costs lines, not pushes.
	journalAhead = 1024
	// noteBytes is how long a line about a push under way may be. A longer one goes
	// without steps, and without blobs.
	noteBytes = 64 << 10
)

// journal is the file that finished pushes are written to, a line of JSON each,
// and pushes under way now and then, so that one that a kill cuts off is known
// after it. The last line of a push counts. It is written behind everybody's
// back, and without fsync: after a power cut the last lines may be missing, and
// the upstream knows what it has.
type journal struct {
	path  string
	file  *os.File
	size  int64
	last  time.Time // when the process before this one wrote to it; zero: it is new
	lines chan []byte
	end   sync.Once
	done  chan struct{}
}

// openJournal opens the file, and returns what it and the one before it hold,
// oldest first. A last line that was not written to its end is cut off; lines
// that cannot be read are left out. With an error there is no journal.
func openJournal(path string) (*journal, []Push, error) {
	older, err := readJournal(path + ".1")
	if err != nil {
		return nil, nil, err
	}
	j := &journal{path: path, lines: make(chan []byte, journalAhead), done: make(chan struct{})}
	if info, err := os.Lstat(path); err == nil {
		j.last = info.ModTime()
	}
	newer, err := readJournal(path)
	if err != nil {
		return nil, nil, err
	}
	if err := j.open(); err != nil {
		return nil, nil, err
	}
	go func() {
		_ = oci.Guarded(func() error {
			j.run()
			return nil
		})
	}()
	return j, slices.Concat(older, newer), nil
}

// readJournal reads one file, and ends it where its last whole line ends.
func readJournal(path string) (pushes []Push, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the finished pushes: %w", err)
	}
	defer f.Close()
	r, whole := bufio.NewReaderSize(f, 1<<20), int64(0)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the finished pushes: %w", err)
		}
		whole += int64(len(line))
		var p Push
		if json.Unmarshal(line, &p) == nil && p.ID != "" {
			pushes = append(pushes, p)
		}
	}
	if err := f.Truncate(whole); err != nil {
		return nil, fmt.Errorf("the finished pushes: %w", err)
	}
	return pushes, nil
}

func (j *journal) open() error {
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("the finished pushes: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.size = f, info.Size()
	return nil
}

// write puts a push down, some time soon.
func (j *journal) write(p Push) {
	select {
	case j.lines <- line(p):
	default:
	}
}

// note is write for a push under way. Where much waits to be written it is left
// out: the room is for how pushes ended.
func (j *journal) note(p Push) {
	if len(j.lines) > journalAhead/2 {
		return
	}
	text := line(p)
	if len(text) > noteBytes {
		p.Steps = nil
		text = line(p)
	}
	if len(text) > noteBytes {
		p.Blobs = nil
		text = line(p)
	}
	j.lines <- text
}

func line(p Push) []byte {
	var b bytes.Buffer
	// A buffer takes everything, and a Push encodes. One line, since the encoder
	// escapes what would be another.
	_ = json.NewEncoder(&b).Encode(p)
	return b.Bytes()
}

func (j *journal) run() {
	defer close(j.done)
	for line := range j.lines {
		j.append(line)
	}
	_ = j.file.Close()
}

// append writes a line. What a full disk does not take is only not shown after
// the next start.
func (j *journal) append(line []byte) {
	if j.size > 0 && j.size+int64(len(line)) > journalBytes {
		if os.Rename(j.path, j.path+".1") == nil {
			old := j.file
			if j.open() == nil {
				_ = old.Close()
			}
		}
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil && n > 0 && j.file.Truncate(j.size-int64(n)) == nil {
		j.size -= int64(n)
	}
}

// close writes what waits and closes the file.
func (j *journal) close() {
	j.end.Do(func() { close(j.lines) })
	<-j.done
}
