package metadata_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pushproxy/disk/disktest"
	"pushproxy/metadata"
	"pushproxy/oci"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("METADATA_TEST_CHILD"); dir != "" {
		fmt.Println(addJobsForever(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(powerCutChild); dir != "" {
		fmt.Fprintln(os.Stderr, swapForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// powerCutChild names the variable that makes the test binary the process on the
// disk that loses power.
const powerCutChild = "METADATA_TEST_POWER_CUT_DIR"

// cutValue is what is stored under a key: with so many pages the file system is
// at work on some of them whenever it dies.
func cutValue(key string) []byte { return []byte(strings.Repeat(key+" ", 60<<10/(len(key)+1))) }

// swapForever prints each key once Swap has said that it is stored, while others
// write to the same disk.
func swapForever(dir string) error {
	kv, err := metadata.OpenBadger(context.Background(), filepath.Join(dir, "meta"), metadata.BadgerOptions{Floor: -1})
	if err != nil {
		return err
	}
	for i := range 3 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("other", i)))
		if err != nil {
			return err
		}
		go func() {
			for err == nil {
				_, err = f.WriteAt(make([]byte, 5000), time.Now().UnixNano()%(16<<20))
				err = errors.Join(err, f.Sync())
			}
		}()
	}
	for i := 0; ; i++ {
		key := fmt.Sprint(time.Now().UnixNano(), "-", i)
		if stored, err := kv.Swap(context.Background(), key, nil, cutValue(key)); err != nil || !stored {
			return err
		}
		fmt.Println(key)
	}
}

// addJobsForever is the child that TestAcknowledgedJobsSurviveAKill kills: it
// prints the ID of each job once AddJob has returned.
func addJobsForever(dir string) error {
	ctx := context.Background()
	kv, err := metadata.OpenBadger(ctx, dir, metadata.BadgerOptions{})
	if err != nil {
		return err
	}
	db := &metadata.DB{KV: kv}
	for {
		j, err := db.AddJob(ctx, job("a"))
		if err != nil {
			return err
		}
		fmt.Println(j.ID)
	}
}

func TestAcknowledgedJobsSurviveAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	var acknowledged []string
	for round := range 3 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), "METADATA_TEST_CHILD="+dir)
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewReader(out)
		read := func() bool {
			line, err := lines.ReadString('\n')
			if err != nil {
				return false
			}
			acknowledged = append(acknowledged, strings.TrimSpace(line))
			return true
		}
		for range 20 + 30*round {
			if !read() {
				t.Fatalf("the child ended: %v", child.Wait())
			}
		}
		_, err = metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint("process ", child.Process.Pid)) {
			t.Errorf("open while the child runs: got %v, want an error with its process id", err)
		}
		must(t, child.Process.Kill())
		for read() {
		}
		_ = child.Wait()
		checkJobs(t, dir, acknowledged)
	}
}

// checkJobs opens dir and looks for jobs, in their order.
func checkJobs(t *testing.T, dir string, acknowledged []string) {
	t.Helper()
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	must(t, err)
	var found []string
	for j, err := range (&metadata.DB{KV: kv}).Jobs(t.Context()) {
		must(t, err)
		if slices.Contains(acknowledged, j.ID) {
			found = append(found, j.ID)
		}
	}
	must(t, kv.Close())
	if !slices.Equal(found, acknowledged) {
		t.Fatalf("after the kill %d of %d acknowledged jobs are there in order", len(found), len(acknowledged))
	}
}

func TestEverythingIsThereAfterReopening(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	raw := bytes.Repeat([]byte("manifest"), oci.MaxManifest/8)
	d := digestOf(raw)
	for round := range 3 {
		kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
		must(t, err)
		db, ctx := &metadata.DB{KV: kv}, t.Context()
		if round == 0 {
			must(t, db.PutManifest(ctx, app("a"), d, metadata.Manifest{Raw: raw}))
		}
		if m, ok, err := db.Manifest(ctx, app("a"), d); err != nil || !ok || !bytes.Equal(m.Raw, raw) {
			t.Errorf("round %d: manifest: got %d bytes, %v, %v", round, len(m.Raw), ok, err)
		}
		for n := range 3 {
			wantGranted(t, db, "a", n, n < round)
		}
		must(t, db.Grant(ctx, "a", numbered(round)))
		must(t, db.Grant(ctx, "b", numbered(round)))
		must(t, db.Revoke(ctx, "b", numbered(round)))
		must(t, kv.Close())
		must(t, kv.Close())
	}
	db := &metadata.DB{KV: openBadger(t, dir)}
	for n := range 3 {
		wantGranted(t, db, "a", n, true)
		wantGranted(t, db, "b", n, false)
	}
}

func TestDirectoriesThatAreRefused(t *testing.T) {
	t.Parallel()
	type refusal struct {
		name string
		make func(t *testing.T, dir string)
		want string
	}
	cases := []refusal{
		{"open to other users", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)); must(t, os.Chmod(dir, 0o755)) }, "chmod 700 "},
		{"not a directory", func(t *testing.T, dir string) { must(t, os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
		{"below a file", func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Dir(dir), nil, 0o600)) }, "choose another data_dir"},
		{"held by this process", func(t *testing.T, dir string) { openBadger(t, dir) }, fmt.Sprintf("in use by process %d;", os.Getpid())},
	}
	// Nothing is unwritable to root, and nobody else can give a directory away.
	if os.Geteuid() == 0 {
		cases = append(cases, refusal{"of another user", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o700))
			must(t, os.Chown(dir, 12345, 12345))
		}, "belongs to user 12345"})
	} else {
		cases = append(cases, refusal{"not writable", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o500)) }, "not writable"})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			if c.name == "below a file" {
				parent = filepath.Join(parent, "file")
			}
			dir := filepath.Join(parent, "meta")
			c.make(t, dir)
			kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
			if err == nil {
				_ = kv.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestAMemtableThatAKillLeftWithoutASizeIsNoDamage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	must(t, err)
	must(t, (&metadata.DB{KV: kv}).Grant(t.Context(), "a", numbered(1)))
	must(t, kv.Close())
	must(t, os.WriteFile(filepath.Join(dir, "00099.mem"), nil, 0o600))
	kv, err = metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	must(t, err)
	wantGranted(t, &metadata.DB{KV: kv}, "a", 1, true)
	must(t, kv.Close())
}

func TestANewDirectoryIsForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data", "meta")
	openBadger(t, dir)
	for _, dir := range []string{dir, filepath.Dir(dir)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want mode 0700", dir, info.Mode(), err)
		}
	}
}

func TestBelowTheFloorOnlyWritesThatAddAreRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{Floor: -1})
	must(t, err)
	db, ctx := &metadata.DB{KV: kv}, t.Context()
	must(t, db.Grant(ctx, "a", numbered(1)))
	j, err := db.AddJob(ctx, job("a"))
	must(t, err)
	must(t, kv.Close())

	kv, err = metadata.OpenBadger(ctx, dir, metadata.BadgerOptions{Floor: math.MaxInt64})
	must(t, err)
	defer kv.Close()
	db = &metadata.DB{KV: kv}
	if err := db.Grant(ctx, "a", numbered(2)); !errors.Is(err, metadata.ErrFull) || !strings.Contains(err.Error(), dir) {
		t.Errorf("grant: got %v, want ErrFull that names the directory", err)
	}
	if got := oci.AsError(db.Grant(ctx, "a", numbered(2))); got.Status != 507 {
		t.Errorf("a client would see status %d, want 507", got.Status)
	}
	if _, err := db.AddJob(ctx, job("b")); !errors.Is(err, metadata.ErrFull) {
		t.Errorf("job: got %v, want ErrFull", err)
	}
	wantGranted(t, db, "a", 1, true)
	wantGranted(t, db, "a", 2, false)
	j.Error, j.Attempts = strings.Repeat("disk full ", 20), 10
	_, err = db.UpdateJob(ctx, j)
	must(t, err)
	must(t, db.RemoveJob(ctx, j.ID))
	must(t, db.Revoke(ctx, "a", numbered(1)))
	wantGranted(t, db, "a", 1, false)
}

// flip changes every copy of text in the files of a closed database that match
// a pattern, and returns how many there were.
func flip(t *testing.T, dir, pattern, text string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	count := 0
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		data, err := io.ReadAll(f)
		must(t, err)
		for at := 0; ; at++ {
			next := bytes.Index(data[at:], []byte(text))
			if next < 0 {
				break
			}
			at += next
			_, err := f.WriteAt([]byte{text[0] ^ 1}, int64(at))
			must(t, err)
			count++
		}
		must(t, f.Close())
	}
	return count
}

func TestDamageOnTheDiskIsNeverTakenForTruth(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	must(t, err)
	db, ctx := &metadata.DB{KV: kv}, t.Context()
	raw := append(bytes.Repeat([]byte{' '}, 2<<20), "in the value log"...)
	must(t, db.PutManifest(ctx, app("a"), digestOf(raw), metadata.Manifest{Raw: raw}))
	must(t, db.SetTag(ctx, app("a"), "latest", metadata.Tag{Digest: numbered(1), MediaType: "spoilt tag"}))
	spoilt := job("a")
	spoilt.Error = "spoilt job"
	spoilt, err = db.AddJob(ctx, spoilt)
	must(t, err)
	whole, err := db.AddJob(ctx, job("b"))
	must(t, err)
	must(t, kv.Close())
	if n := flip(t, dir, "*.vlog", "in the value log"); n != 1 {
		t.Fatalf("found the manifest %d times in the value log, want once", n)
	}
	if flip(t, dir, "*.sst", "spoilt tag") == 0 || flip(t, dir, "*.sst", "spoilt job") == 0 {
		t.Fatal("the records are not in the tables")
	}

	db = &metadata.DB{KV: openBadger(t, dir)}
	if m, ok, err := db.Manifest(ctx, app("a"), digestOf(raw)); ok || err != nil {
		t.Errorf("manifest: got %d bytes, %v, %v, want a miss", len(m.Raw), ok, err)
	}
	if tag, ok, err := db.Tag(ctx, app("a"), "latest"); ok || err != nil {
		t.Errorf("tag: got %+v, %v, %v, want a miss", tag, ok, err)
	}
	if j, ok, err := db.Job(ctx, spoilt.ID); ok || !errors.Is(err, metadata.ErrDamaged) {
		t.Errorf("damaged job: got %+v, %v, %v, want ErrDamaged", j, ok, err)
	}
	if j, ok, err := db.Job(ctx, whole.ID); !ok || err != nil || j.Repo != app("b") {
		t.Errorf("its neighbour: got %+v, %v, %v", j, ok, err)
	}
	var errs []bool
	for _, err := range db.Jobs(ctx) {
		errs = append(errs, errors.Is(err, metadata.ErrDamaged))
	}
	if !slices.Equal(errs, []bool{true, false}) {
		t.Errorf("list of jobs: got damage %v, want [true false]", errs)
	}
	must(t, db.PutManifest(ctx, app("a"), digestOf(raw), metadata.Manifest{Raw: raw}))
	if _, ok, err := db.Manifest(ctx, app("a"), digestOf(raw)); !ok || err != nil {
		t.Errorf("manifest pushed again: got %v, %v", ok, err)
	}
}

// TestATableThatIsDamagedAtItsEndIsAnErrorWithARemedy: badger reads the ends of its
// tables when it opens, in goroutines where a panic would end the process.
func TestATableThatIsDamagedAtItsEndIsAnErrorWithARemedy(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "meta")
	kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
	must(t, err)
	must(t, (&metadata.DB{KV: kv}).Grant(t.Context(), "a", numbered(1)))
	must(t, kv.Close())
	disktest.DamageTables(t, dir, func() (bool, error) {
		kv, err := metadata.OpenBadger(t.Context(), dir, metadata.BadgerOptions{})
		if err != nil {
			return false, err
		}
		return true, kv.Close()
	})
}
