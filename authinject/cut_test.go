package authinject

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// gone is what a transport says that knows of no way to a host.
type gone struct{}

func (gone) Error() string { return "there is no connection to it" }
func (gone) CutOff() bool  { return true }

func TestATokenServerThatIsCutOffIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr, w := newTransport(&registry{realm: "https://auth.registry.test/token"}, fixed{"": bob})
		asked := 0
		tr.Base = opaque(func(r *http.Request) (*http.Response, error) {
			if strings.HasPrefix(r.URL.Host, "auth.") {
				asked++
				return nil, gone{}
			}
			return w.RoundTrip(r)
		})
		began := time.Now()
		_, err := send(t, tr, "GET", manifest, "")
		if !errors.Is(err, gone{}) || asked != 1 || time.Since(began) > 0 {
			t.Errorf("%v, after %s and %d questions", err, time.Since(began), asked)
		}
	})
}
