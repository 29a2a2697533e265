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
	if err := errors.Join(ctx.Err(), s.watch.err()); err != nil || len(uploads) == 0 {
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
	err := errors.Join(s.roomFor(4*s.spare.size), s.space.explain(s.spare.ready(0, true)))
	if err == nil {
		err = s.dropPrefixes(prefixes)
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
	if err := errors.Join(s.roomFor(moves+2*s.spare.size), s.space.explain(s.spare.ready(0, true))); err != nil {
		return err
	}
	s.ahead.find()
	// Badger would go on in a new file, without room: it does so now.
	for s.ahead.room() <= moves && moves < s.ahead.limit/2+ChunkSize {
		if _, err := s.ahead.reserve(padSize, 1); err != nil {
			return s.space.explain(err)
		}
		if err := s.write([]byte(padKey), make([]byte, padSize), nil); err != nil {
			return s.space.explain(err)
		}
		s.ahead.find()
	}
	_, err := s.ahead.reserve(moves, 0)
	return s.space.explain(err)
}

const (
	padKey  = "pad" // has no meaning: its values are garbage that fills a value log
	padSize = 1 << 20
)

// moves returns how many bytes are not garbage in the value log that badger
// would collect next, 0 where there is none to collect. In the file DISCARD
// badger keeps the number of each log, and how many of its bytes are garbage.
func (s *Badger) moves() int64 {
	discard, err := os.ReadFile(filepath.Join(s.space.dir, "DISCARD"))
	if err != nil {
		return 0
	}
	var moves, most int64
	for ; len(discard) >= 16; discard = discard[16:] {
		log, garbage := binary.BigEndian.Uint64(discard), int64(binary.BigEndian.Uint64(discard[8:]))
		info, err := os.Stat(filepath.Join(s.space.dir, fmt.Sprintf("%06d.vlog", log)))
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

// roomFor returns ErrFull where n bytes do not fit on the disk.
func (s *Badger) roomFor(n int64) error {
	return (&space{dir: s.space.dir}).admit(n)
}
