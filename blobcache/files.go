package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"pushproxy/disk"
)

// FilesOptions are the settings of OpenFiles. Zero means the default.
type FilesOptions struct {
	BadgerOptions
	// InBadger makes bodies of new uploads go into badger whatever their size.
	// Uploads that have a file keep it.
	InBadger bool
}

// Files is a Badger whose bodies over 64 KiB are plain files (file.go): writing
// them costs one copy, a full disk is an error, and dropping is unlinking. Make
// it with OpenFiles.
//
// An upload's file is files/<first two digits>/<id> in badger's directory; a
// second one, <id>.2, holds chunks that were replaced. A file is open only while
// a chunk is read or written. Bodies without a file are in badger: small ones,
// and those of a directory whose bodies were to be there (FilesOptions.InBadger);
// each is read wherever it is.
type Files struct {
	*Badger
	dir      string // "": there is no file, and there will be none
	inBadger bool
	space    disk.Space
	seed     maphash.Seed
	locks    [64]sync.RWMutex // by upload: held against readers while a chunk is replaced

	life   sync.RWMutex // held by every call, against them by Close
	closed bool
}

// OpenFiles opens the store in dir as OpenBadger does.
func OpenFiles(dir string, o FilesOptions) (*Files, error) {
	s, err := OpenBadger(dir, o.BadgerOptions)
	if err != nil {
		return nil, err
	}
	bodies := filepath.Join(dir, "files")
	f := &Files{Badger: s, dir: bodies, inBadger: o.InBadger, seed: s.seed, space: disk.Space{Dir: bodies, Floor: s.disk.Space.Floor}}
	if _, err = os.Lstat(f.dir); o.InBadger && errors.Is(err, fs.ErrNotExist) {
		f.dir = ""
		return f, nil
	}
	if err = disk.Prepare(f.dir); err == nil {
		err = checkDirs(f.dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return f, nil
}

// checkDirs returns an error if a file's path could lead out of dir.
func checkDirs(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range append(entries, fs.FileInfoToDirEntry(info)) {
		if !e.IsDir() {
			return fmt.Errorf("cache directory: %s in %s is not a directory: move it away", e.Name(), dir)
		}
	}
	return nil
}

// Close ends the store's use of the directory, as Badger.Close does.
func (s *Files) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	s.closed = true
	return s.Badger.Close()
}

// enter begins a call, which ends with s.life.RUnlock if there is no error.
func (s *Files) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return fmt.Errorf("cache %s is closed", s.disk.Space.Dir)
	}
	return nil
}

// path returns where the upload's file is.
func (s *Files) path(upload string) string { return filepath.Join(s.dir, upload[:2], upload) }

func (s *Files) lock(upload string) *sync.RWMutex {
	return &s.locks[maphash.String(s.seed, upload)%uint64(len(s.locks))]
}

// PutChunk implements Bodies.
func (s *Files) PutChunk(ctx context.Context, upload string, n int, p []byte) error {
	_, err := s.PutAndSwap(ctx, upload, n, p)
	return err
}

// PutAndSwap implements Joint.
func (s *Files) PutAndSwap(ctx context.Context, upload string, n int, p []byte, changes ...Change) (bool, error) {
	if err := checkChunk(upload, n, p); err != nil {
		return false, err
	}
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	defer s.life.RUnlock()
	move, err := s.putFile(upload, n, p)
	if errors.Is(err, errNoFile) {
		return s.Badger.PutAndSwap(ctx, upload, n, p, changes...)
	}
	if err == nil && move {
		err = s.forgetChunk(upload, n)
	}
	if err != nil || len(changes) == 0 {
		return err == nil, err
	}
	return s.SwapAll(ctx, changes...)
}

// errNoFile: the chunk's place is in badger.
var errNoFile = errors.New("the upload has no file")

// putFile stores the chunk in the upload's file. It reports whether badger still
// has one that it replaces.
func (s *Files) putFile(upload string, n int, p []byte) (move bool, err error) {
	if s.dir == "" {
		return false, errNoFile
	}
	if err := s.failed(); err != nil {
		return false, err
	}
	f, err := openBody(s.path(upload), os.O_RDWR)
	create := errors.Is(err, fs.ErrNotExist)
	if create {
		if move, err = s.begins(upload, n, p); err != nil {
			return false, err
		}
	}
	if err == nil {
		err = s.space.Take(int64(len(p)))
	}
	if err == nil && create {
		f, err = createBody(s.path(upload))
	}
	if err == nil {
		err = f.put(s.lock(upload), n, p)
	}
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return false, fmt.Errorf("chunk %s: %w", chunkName(upload, n), full(&s.space, err))
	}
	return move, nil
}

// begins returns errNoFile if the chunk of an upload without a file does not
// begin one, and otherwise whether badger has a chunk that it replaces.
func (s *Files) begins(upload string, n int, p []byte) (move bool, err error) {
	if s.inBadger || n == 0 && len(p) <= smallBuffer {
		return false, errNoFile
	}
	first, rest, err := s.hasChunks(upload)
	if err != nil {
		return false, err
	}
	// A body that began in badger goes on there, but for a small one that is
	// small no more.
	if rest || first && n > 0 {
		return false, errNoFile
	}
	return first, nil
}

// GetChunk implements Bodies.
func (s *Files) GetChunk(ctx context.Context, upload string, n int, buf []byte) (p []byte, err error) {
	p, _, err = s.GetSummed(ctx, upload, n, buf, 0)
	return p, err
}

// GetSummed implements Summed.
func (s *Files) GetSummed(ctx context.Context, upload string, n int, buf []byte, seed uint32) (p []byte, sum uint32, err error) {
	if err := s.enter(ctx); err != nil {
		return nil, 0, err
	}
	defer s.life.RUnlock()
	if _, ok := parseID(upload); ok && n >= 0 && n <= maxChunk && s.dir != "" {
		p, sum, err := s.getFile(upload, n, buf, seed)
		if !errors.Is(err, fs.ErrNotExist) {
			return p, sum, err
		}
	}
	return s.Badger.GetSummed(ctx, upload, n, buf, seed)
}

// getFile is GetSummed for an upload with a file; for others, and chunks that it
// does not hold, the error is fs.ErrNotExist.
func (s *Files) getFile(upload string, n int, buf []byte, seed uint32) (p []byte, sum uint32, err error) {
	lock := s.lock(upload)
	lock.RLock()
	defer lock.RUnlock()
	f, err := openBody(s.path(upload), os.O_RDONLY)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	p, sum, err = f.get(n, buf, seed)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("chunk %s: %w: %w", chunkName(upload, n), ErrDamaged, err)
	}
	return p, sum, err
}
