package throttle

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLineComesOncePerPeriodWithTheNumberOfThoseLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Line
		f := func(wantDropped int, want bool) {
			t.Helper()
			dropped, ok := l.Allow()
			require.Equal(t, want, ok)
			require.Equal(t, wantDropped, dropped)
		}
		f(0, true)
		f(0, false)
		f(0, false)
		time.Sleep(Every)
		f(2, true)
		time.Sleep(Every)
		f(0, true)
	})
}

// TestAlternatingOutcomesTakeTwoLinesAMinute: 300 in turns made 298 lines.
func TestAlternatingOutcomesTakeTwoLinesAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outage
		var lines []string
		for i := range 300 { // one a second: five minutes
			if i%2 == 0 {
				if failures, tell := o.Failed(); tell {
					lines = append(lines, fmt.Sprint("failed ", failures))
				}
			} else if o.Worked() {
				lines = append(lines, "works")
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{
			"failed 1", "works", "failed 30", "works", "failed 30", "works", "failed 30", "works", "failed 30", "works",
		}, lines)
	})
}

func TestLastingOutageIsToldEachMinuteAndItsEndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Outage
		require.False(t, o.Worked(), "nothing has failed")
		told := 0
		for range 181 {
			if _, tell := o.Failed(); tell {
				told++
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, 4, told)
		require.True(t, o.Worked())
		require.False(t, o.Worked())
	})
}

func TestHandlerBoundsEachKindOfLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		lines := func() int {
			n := strings.Count(out.String(), "\n")
			out.Reset()
			return n
		}
		for i := range 300 {
			log.Warn("up", "n", i)
			log.With("part", i).Error("down")
			log.WithGroup("part").Info("up") // another level, another kind
		}
		require.Equal(t, 3*burst, lines())
		time.Sleep(refill)
		log.Warn("up")
		log.Warn("up")
		require.Contains(t, out.String(), "left_out=280")
		require.Equal(t, 1, lines())
		time.Sleep(time.Hour)
		for range 300 {
			log.Warn("up")
			log.Debug("all of them")
		}
		require.Equal(t, burst+300, lines())
	})
}

// TestKindsOfLinesAreBounded: a library that puts what it got into its messages.
func TestKindsOfLinesAreBounded(t *testing.T) {
	h := Handler(slog.DiscardHandler).(*handler)
	h.Handler = slog.NewTextHandler(new(bytes.Buffer), nil)
	log := slog.New(h)
	for i := range 3 * maxKinds {
		log.Info(fmt.Sprint("kind ", i))
	}
	require.LessOrEqual(t, len(h.kinds.counts), maxKinds+1)
}
