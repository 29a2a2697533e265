package blobcache

// LogForTest logs an error line as badger would: there is no portable way to
// make a real disk fail.
func (s *Badger) LogForTest(format string, args ...any) { s.watch.Errorf(format, args...) }
