package admin

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheLastTenMinutesAreKept: a page that is opened later shows them at once.
func TestTheLastTenMinutesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		a := New(Config{Sample: func() Stats {
			return Stats{Now: time.Now(), Lag: Histogram{Bounds: []float64{1}, Counts: []uint64{0, 0}}, Closed: map[string]uint64{"client": 7}}
		}})
		kept := func() []Stats {
			var answer struct{ Stats []Stats }
			require.NoError(t, json.Unmarshal([]byte(bodyOf(t, do(a, "GET", "/api/stats/recent", ""))), &answer))
			return answer.Stats
		}
		require.Empty(t, kept())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.Record()
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, kept(), 21)
		require.WithinDuration(t, begin, kept()[0].Now, 0)
		time.Sleep(time.Hour)
		synctest.Wait()
		list := kept()
		require.Len(t, list, maxRecent)
		require.WithinDuration(t, time.Now(), list[maxRecent-1].Now, 0)
		require.WithinDuration(t, time.Now().Add(-(maxRecent-1)*recentPeriod), list[0].Now, 0)
		require.EqualValues(t, 7, list[0].Closed["client"])
		a.Close()
		<-ended
	})
}
