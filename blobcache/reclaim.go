package blobcache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Drop implements Bodies. Writers wait while the chunks are dropped and while a
// file is rewritten, at most half of ValueLogFileSize, with a break after each.
// It is ErrFull on a disk without room for what badger writes meanwhile.
func (s *Badger) Drop(ctx context.Context, uploads ...string) error {
	if err := errors.Join(ctx.Err(), s.failed()); err != nil || len(uploads) == 0 {
		return err
	}
	prefixes := make([][]byte, len(uploads))
	for i, upload := range uploads {
		prefixes[i] = []byte(chunkPrefix + upload + "/")
	}
	s.reclaim.Lock()
	defer s.reclaim.Unlock()
	if s.db.IsClosed() {
		return errors.New("drop: the store is closed")
	}
	s.gate.Lock()
	// Badger begins a memtable and writes tables, and cannot go back half-way.
	err := s.full(errors.Join(s.disk.Room(4*s.disk.MemtableFile()), s.disk.Ready(0, true)))
	if err == nil {
		err = s.db.DropPrefix(prefixes...)
	}
	s.gate.Unlock()
	if err != nil {
		return fmt.Errorf("dropping %d uploads: %w", len(uploads), err)
	}
	for ctx.Err() == nil {
		if more, err := s.collect(); err != nil {
			return fmt.Errorf("value log: %w", err)
		} else if !more {
			return nil
		}
	}
	return ctx.Err()
}

// prepareMove makes room for what the next collection of a value log moves. It
// needs the gate for itself.
func (s *Badger) prepareMove() error {
	moves := s.moves()
	if moves == 0 {
		return nil
	}
	if err := errors.Join(s.disk.Room(moves+2*s.disk.MemtableFile()), s.disk.Ready(0, true)); err != nil {
		return s.full(err)
	}
	tail := &s.disk.Tail
	tail.Find()
	// Badger would go on in a new file, without room: it does so now.
	for tail.Left() <= moves && moves < s.logSize/2+ChunkSize {
		if _, err := tail.Reserve(padSize, 1); err != nil {
			return s.full(err)
		}
		if err := s.write([]byte(padKey), make([]byte, padSize), nil); err != nil {
			return s.full(err)
		}
		tail.Find()
	}
	_, err := tail.Reserve(moves, 0)
	return s.full(err)
}

const (
	padKey  = "pad" // has no meaning: its values are garbage that fills a value log
	padSize = 1 << 20
)

// moves returns how many bytes are not garbage in the value log that badger
// would collect next, 0 where there is none to collect. In the file DISCARD
// badger keeps the number of each log, and how many of its bytes are garbage.
func (s *Badger) moves() int64 {
	discard, err := os.ReadFile(filepath.Join(s.disk.Space.Dir, "DISCARD"))
	if err != nil {
		return 0
	}
	var moves, most int64
	for ; len(discard) >= 16; discard = discard[16:] {
		log, garbage := binary.BigEndian.Uint64(discard), int64(binary.BigEndian.Uint64(discard[8:]))
		info, err := os.Stat(filepath.Join(s.disk.Space.Dir, fmt.Sprintf("%06d.vlog", log)))
		if log == 0 {
			break
		}
		if err == nil && garbage > most {
			most, moves = garbage, max(0, info.Size()-garbage)
			if moves > garbage {
				moves = 0
			}
		}
	}
	return moves
}
