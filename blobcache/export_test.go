package blobcache

// LogForTest logs an error line as badger would: there is no portable way to
// make a real disk fail.
func (s *Badger) LogForTest(format string, args ...any) { s.disk.Watch.Errorf(format, args...) }

// ViewForTest shows fn a value while nobody may take it away.
func (s *Badger) ViewForTest(key string, fn func(value []byte)) error {
	return s.view([]byte(key), fn)
}
