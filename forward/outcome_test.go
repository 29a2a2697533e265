package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestAnOutcomeIsReportedOnceByItsOwnPrincipal(t *testing.T) {
	t.Parallel()
	var l landings
	key := func(principal string) landingKey { return landingKey{principal, repo("app"), digest.FromString("x")} }
	skipped := Outcome{How: Skipped}
	l.add(key("ann"), Outcome{How: Mounted, From: "ann/private"})
	l.add(key("ann"), skipped)
	if got := l.take(key("bob"), skipped); got != skipped {
		t.Errorf("another principal reports %+v", got)
	}
	if got := l.take(key("ann"), skipped); got.How != Mounted || got.From != "ann/private" {
		t.Errorf("its own principal reports %+v", got)
	}
	if got := l.take(key("ann"), skipped); got != skipped {
		t.Errorf("the second time it is %+v", got)
	}
	l.add(key("ann"), Outcome{How: Mounted})
	if got := l.take(key("ann"), Outcome{How: Uploaded}); got.How != Uploaded {
		t.Errorf("a push that uploaded a blob itself reports %+v", got)
	}
}

func TestOutcomesThatNobodyReportsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l landings
		add := func(s string) { l.add(landingKey{"ann", repo("app"), digest.FromString(s)}, Outcome{How: Uploaded}) }
		add("old")
		time.Sleep(recentFor - time.Second)
		add("new")
		if len(l.recent) != 2 {
			t.Error("an outcome was forgotten too soon")
		}
		time.Sleep(recentFor / 5)
		add("newest")
		if len(l.recent) != 2 {
			t.Errorf("%d outcomes are kept, want the two newer ones", len(l.recent))
		}
	})
}
