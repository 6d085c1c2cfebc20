package sseproto

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSinceAndLastSayWhereAStreamStarts(t *testing.T) {
	f := func(query string, want StartPoint) {
		t.Helper()
		o, err := ParseOptions([]byte(query), 100)
		require.NoError(t, err, query)
		require.Equal(t, want, o.From, query)
	}
	at := func(ms uint64) StartPoint { return StartPoint{Kind: FromTime, Time: ms} }
	age := func(d time.Duration) StartPoint { return StartPoint{Kind: FromAge, Age: d} }
	last := func(n int) StartPoint { return StartPoint{Kind: FromLast, Count: n} }

	f("", StartPoint{})
	f("channel_id=since&sinc=1&lasts=3", StartPoint{})
	f("channel_id=a&since=earliest", StartPoint{Kind: FromEarliest})
	f("s%69nce=%65arliest", StartPoint{Kind: FromEarliest})

	f("since=10m", age(10*time.Minute))
	f("since=1h30m", age(90*time.Minute))
	f("since=0.5s", age(500*time.Millisecond))
	f("since=250ms", age(250*time.Millisecond))
	f("since=0s", age(0))

	f("since=1790000000", at(1790000000000))
	f("since=1790000000123", at(1790000000123))
	f("since=99999999999", at(99999999999000))
	f("since=100000000000", at(100000000000))
	f("since=0", at(0))

	f("since=2026-11-30T10:00:00Z", at(1796032800000))
	f("since=2026-11-30t10:00:00.25z", at(1796032800250))
	f("since=2026-11-30T11:00:00%2B01:00", at(1796032800000))
	f("since=2026-11-30T11:00:00+01:00", at(1796032800000)) // the + is a space
	f("since=2026-11-30T09:00:00-01:00", at(1796032800000))
	f("since=1969-12-31T23:59:59Z", at(0))

	f("last=1", last(1))
	f("last=100&channel_id=a", last(100))
	f("last=007", last(7))
	f("last=3&last=x", last(3)) // the first one counts, as of all parameters
}

func TestStartsWithoutAMeaningAreRefusedByName(t *testing.T) {
	f := func(query string, want error, text string) {
		t.Helper()
		o, err := ParseOptions([]byte(query), 100)
		require.ErrorIs(t, err, want, query)
		require.Zero(t, o, query)
		require.Equal(t, http.StatusBadRequest, StatusOf(err), query)
		require.Contains(t, err.Error(), text, query)
	}
	for _, value := range []string{
		"", "now", "latest", "EARLIEST", "earliest%20", "10+m", "-10m", "%2B10m", "10d", "1e3", "1.5", "0x10",
		"99999999999999999999", "2026-11-30", "2026-11-30T10:00:00", "2026-13-30T10:00:00Z", "1-0",
		strings.Repeat("0", 65), strings.Repeat("%30", 500), "\x00",
	} {
		f("since="+value, ErrBadSince, "since is not earliest, a duration as 10m")
	}
	f("since", ErrBadSince, "a Unix time in seconds or milliseconds")
	for _, value := range []string{"", "0", "-1", "%2B1", "101", "1.5", "all", "1e1", "99999999999999999999", " 1", strings.Repeat("1", 300)} {
		f("last="+value, ErrBadLast, "last is not a number from 1 to 100")
	}
	f("last", ErrBadLast, "from 1 to 100")
	f("since=10m&last=5", ErrSinceAndLast, "use one of them")
	f("last=&since=", ErrSinceAndLast, "use one of them")
}

func TestAStreamWithoutOptionsCostsNoAllocation(t *testing.T) {
	query := []byte("channel_id=a&channel_id=b")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if o, err := ParseOptions(query, 100); err != nil || !o.From.IsNow() {
			panic("not now")
		}
	}))
}

func FuzzStartPoint(f *testing.F) {
	for _, s := range []string{"earliest", "10m", "1790000000", "2026-11-30T10:00:00Z", "2026-11-30T11:00:00 01:00", "-1", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		p, err := StartPointOf([]byte(value), nil, 10)
		if err != nil {
			require.ErrorIs(t, err, ErrBadSince)
			require.Zero(t, p)
			return
		}
		require.NotEqual(t, FromNow, p.Kind)
		require.GreaterOrEqual(t, p.Age, time.Duration(0))
		require.Less(t, p.Time, uint64(1)<<63)
	})
}

// BenchmarkOptions reads those of a request that has none: what every connect pays.
func BenchmarkOptions(b *testing.B) {
	query := []byte("channel_id=user%3A12345&channel_id=news")
	for b.Loop() {
		_, _ = ParseOptions(query, 100)
	}
}
