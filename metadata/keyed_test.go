package metadata

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"pushproxy/oci"
)

func TestS21SourcesOfAnotherSecretAreForgottenAndNothingElse(t *testing.T) {
	t.Parallel()
	db := &DB{KV: &Memory{}}
	ctx, d, repo := t.Context(), digest.FromString("x"), oci.Repo{Host: "a.test", Name: "b"}
	add := func() {
		for i := range 200 {
			if err := db.AddSource(ctx, Owner{byte(i)}, d, repo); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func() (n int) {
		for i := range 200 {
			sources, err := db.Sources(ctx, Owner{byte(i)}, d, "a.test")
			if err != nil {
				t.Fatal(err)
			}
			n += len(sources)
		}
		return n
	}
	if err := db.Grant(ctx, "alice", d); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		by      string
		changed bool
		left    int
	}{{"one", false, 0}, {"one", false, 200}, {"two", true, 0}, {"two", false, 200}} {
		add()
		changed, err := db.KeyedBy(ctx, step.by)
		if n := count(); err != nil || changed != step.changed || n != step.left {
			t.Errorf("step %d: changed %v with %d sources left, %v", i, changed, n, err)
		}
	}
	if granted, err := db.Granted(ctx, "alice", d); err != nil || !granted {
		t.Errorf("the grant is gone: %v", err)
	}
}
