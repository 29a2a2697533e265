package metadata

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

// Checked is what Check found.
type Checked struct {
	Records map[string]int `json:"records"` // that are sound, by kind
	Dropped []string       `json:"dropped"` // keys of damaged facts; they are gone
	Kept    []string       `json:"kept"`    // what is wrong with damaged jobs; they are there
}

// Check reads every record. A damaged fact is dropped, unless it was replaced
// meanwhile: it read as absent before, so nobody may see more than they could,
// and what it knew is learned anew. A damaged job stays until somebody removes
// it. Records of kinds that a later version made are left alone. It may run
// beside everything else.
func (db *DB) Check(ctx context.Context) (Checked, error) {
	r := Checked{Records: map[string]int{}, Dropped: []string{}, Kept: []string{}}
	// One kind after the other: what is damaged so that it cannot be listed hides
	// no other kind.
	for _, kind := range []string{"format", "grant", "job", "keyed", "manifest", "presence", "sequence", "session", "source", "tag"} {
		for entry, err := range db.KV.Scan(ctx, makeKey(kind)) {
			if errors.Is(err, ErrDamaged) {
				r.Kept = append(r.Kept, err.Error())
				break
			}
			if err != nil {
				return r, fmt.Errorf("check the metadata: %w", err)
			}
			if err := db.checkRecord(ctx, kind, entry, &r); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

func (db *DB) checkRecord(ctx context.Context, kind string, entry Entry, r *Checked) error {
	err := sound(kind, entry)
	switch {
	case err == nil:
		r.Records[kind]++
		return nil
	case kind == "job":
		r.Kept = append(r.Kept, err.Error())
		return nil
	}
	done, err := db.KV.Swap(ctx, entry.Key, entry.Value, nil)
	if err != nil {
		return fmt.Errorf("drop the damaged %s: %w", entry.Key, err)
	}
	if done {
		r.Dropped = append(r.Dropped, entry.Key)
	}
	return nil
}

// sound reports what is wrong with a record.
func sound(kind string, entry Entry) error {
	switch kind {
	case "job":
		_, err := decodeJob(entry)
		return err
	case "manifest":
		var m Manifest
		raw, err := decode(entry.Key, entry.Value, &m)
		if err != nil {
			return err
		}
		if d, err := lastField(entry.Key); err != nil || !matches(digest.Digest(d), raw) {
			return fmt.Errorf("%s: its bytes have another digest: %w", entry.Key, ErrDamaged)
		}
		return nil
	case "source":
		return sourceSound(entry)
	}
	headers := map[string]any{
		"format": &struct{ Format int }{}, "grant": &grantRecord{}, "keyed": &keyedRecord{}, "presence": &Presence{},
		"sequence": new(uint64), "session": &Session{}, "tag": &Tag{},
	}
	_, err := decode(entry.Key, entry.Value, headers[kind])
	if g, ok := headers[kind].(*grantRecord); err == nil && ok && g.When == (time.Time{}) {
		return fmt.Errorf("%s: since when is not known: %w", entry.Key, ErrDamaged)
	}
	return err
}

func sourceSound(entry Entry) error {
	var sources []oci.Repo
	if _, err := decode(entry.Key, entry.Value, &sources); err != nil {
		return err
	}
	if strings.Count(entry.Key, "/") != 3 || len(sources) == 0 || len(sources) > maxSources {
		return fmt.Errorf("%s: %d repositories: %w", entry.Key, len(sources), ErrDamaged)
	}
	return nil
}
