package blobcache

// LogForTest logs an error line as badger would: there is no portable way to
// make a real disk fail.
func (s *Badger) LogForTest(format string, args ...any) { s.disk.Watch.Errorf(format, args...) }

// ViewForTest shows fn a value while nobody may take it away.
func (s *Badger) ViewForTest(key string, fn func(value []byte)) error {
	return s.view([]byte(key), fn)
}

// ReadLogForTest reads a chunk from the value log without badger, and reports
// whether that is possible.
func (s *Badger) ReadLogForTest(upload string, n int) (p []byte, whole bool, err error) {
	key := chunkKey(upload, n)
	err = s.viewItem(key, func(item any) bool {
		p, _, whole = s.readLog(item, len(key), nil, checksum(chunkName(upload, n), nil))
		return true
	}, func([]byte) {})
	return p, whole, err
}
