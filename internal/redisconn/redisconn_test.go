package redisconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redislua"
	"ssed/internal/redistest"
)

func TestUselessOptionsAreNamed(t *testing.T) {
	f := func(url string, want ...error) {
		t.Helper()
		o, err := rueidis.ParseURL(url)
		require.NoError(t, err)
		require.Equal(t, want, Check(o))
	}
	f("redis://a")
	f("redis://a?addr=b")
	f("redis://a/1?addr=b", ErrDatabase)
	f("redis://a/1?addr=b&master_set=m")
	f("redis://a?addr=b&master_set=m")
	f("redis://a?protocol=2", ErrRESP2)
	f("redis://a/1?addr=b&protocol=2", ErrDatabase, ErrRESP2)
	require.Equal(t, []error{ErrNoAddress}, Check(rueidis.ClientOption{}))
}

func TestOptionsThatTheCallerSetsStay(t *testing.T) {
	var o rueidis.ClientOption
	o.Dialer.Timeout, o.Dialer.KeepAlive, o.ConnWriteTimeout = 1, 2, 3
	o.Sentinel.MasterSet, o.Sentinel.TopologyRefreshInterval = "m", 4
	got := Options(o)
	require.EqualValues(t, 1, got.Dialer.Timeout)
	require.EqualValues(t, 2, got.Dialer.KeepAlive)
	require.EqualValues(t, 3, got.ConnWriteTimeout)
	require.EqualValues(t, 4, got.Sentinel.TopologyRefreshInterval)
	require.False(t, got.ForceSingleClient)
}

// TestSentinelsAreAskedAgain: their message may be missed.
func TestSentinelsAreAskedAgain(t *testing.T) {
	var o rueidis.ClientOption
	require.Zero(t, Options(o).Sentinel.TopologyRefreshInterval)
	o.Sentinel.MasterSet = "m"
	require.Equal(t, 5*time.Second, Options(o).Sentinel.TopologyRefreshInterval)
}

// TestSilentSentinelIsGivenUpAsSoonAsAServer: the network is divided, and the first one in the
// list is on the other side.
func TestSilentSentinelIsGivenUpAsSoonAsAServer(t *testing.T) {
	dialled := make(map[string]time.Duration)
	var o rueidis.ClientOption
	o.Sentinel.MasterSet = "m"
	o.InitAddress = []string{"127.0.0.1:1", "127.0.0.1:2"}
	o.DialCtxFn = func(_ context.Context, addr string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
		dialled[addr] = d.Timeout
		return nil, errors.New("out of reach")
	}
	o = Options(o)
	_, err := rueidis.NewClient(o)
	require.Error(t, err)
	require.Equal(t, map[string]time.Duration{"127.0.0.1:1": connTimeout, "127.0.0.1:2": connTimeout}, dialled)
	require.Equal(t, o.Dialer.KeepAlive, o.Sentinel.Dialer.KeepAlive)
	o.Sentinel.Dialer.Timeout, o.Sentinel.Dialer.KeepAlive = 5, 6
	require.Equal(t, o.Sentinel.Dialer, Options(o).Sentinel.Dialer, "what the caller sets stays")
}

func TestErrorCodeIsTheFirstWordOfTheAnswer(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		require.Equal(t, want, CodeOf(text))
	}
	f("READONLY You can't write", CodeReadOnly)
	f("no such key", "ERR")
	f("", "")
	require.Empty(t, Code(nil))
	require.Empty(t, Code(errors.New("READONLY")), "no answer of Redis")
}

// TestScriptRunsWithoutTheRightToLoadOne, and after the server has forgotten it.
func TestScriptRunsWithoutTheRightToLoadOne(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin := connect(t, s, "")
	do(t, admin, "ACL", "SETUSER", "u", "on", ">u", "~*", "+@all", "-script")
	c := connect(t, s, "u")
	script := NewScript(AllowOOM, "return redis.call('RPUSH', KEYS[1], ARGV[1])")
	for want := 1; want < 8; want += 3 {
		for i, r := range script.RunAll(t.Context(), c, Call{[]string{"k"}, []string{"a"}}, Call{[]string{"k"}, []string{"b"}}, Call{[]string{"k"}, []string{"c"}}) {
			n, err := r.AsInt64()
			require.NoError(t, err)
			require.EqualValues(t, want+i, n, "each once, in order")
		}
		do(t, admin, "SCRIPT", "FLUSH")
	}
	n, err := script.Run(t.Context(), c, []string{"k"}, []string{"d"}).AsInt64()
	require.NoError(t, err)
	require.EqualValues(t, 10, n)
}

func TestErrorOfAScriptIsOfItsCallAlone(t *testing.T) {
	t.Parallel()
	c := connect(t, redistest.Start(t), "")
	script := NewScript("return redis.call(ARGV[1], KEYS[1])")
	results := script.RunAll(t.Context(), c, Call{[]string{"k"}, []string{"INCR"}}, Call{[]string{"k"}, []string{"LLEN"}}, Call{[]string{"k"}, []string{"INCR"}})
	require.NoError(t, results[0].Error())
	require.Equal(t, CodeWrongType, Code(results[1].Error()))
	n, err := results[2].AsInt64()
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
}

func TestClientIsMadeOnceAndAnew(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := New(Options(rueidis.ClientOption{InitAddress: []string{s.Addr()}}), 0)
	_, err := l.Current()
	require.ErrorIs(t, err, ErrNotConnected)
	l.DiscardCurrent() // there is none

	var wg sync.WaitGroup
	got := make([]rueidis.Client, 8)
	for i := range got {
		wg.Go(func() { got[i], _ = l.Get(context.Background()) })
	}
	wg.Wait()
	first, err := l.Current()
	require.NoError(t, err)
	for _, c := range got {
		require.Same(t, first, c)
	}

	l.Discard(first)
	_, err = l.Current()
	require.ErrorIs(t, err, ErrNotConnected)
	second, err := l.Get(t.Context())
	require.NoError(t, err)
	require.NotSame(t, first, second)
	l.Discard(first) // of the past: the one in use stays
	third, err := l.Get(t.Context())
	require.NoError(t, err)
	require.Same(t, second, third)

	l.Close()
	_, err = l.Get(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = l.Current()
	require.ErrorIs(t, err, ErrClosed)
}

// TestWaitForADialEndsWithTheCaller: the server takes the connection and is silent.
func TestWaitForADialEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	require.NoError(t, s.Pause())
	t.Cleanup(func() { _ = s.Resume() })
	l := New(Options(rueidis.ClientOption{InitAddress: []string{s.Addr()}}), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Get(ctx)
	require.ErrorIs(t, err, context.Canceled)
	l.Close() // waits for the dial
}

func TestServerThatCannotBeUsedIsNamed(t *testing.T) {
	f := func(info string, want error) {
		t.Helper()
		require.ErrorIs(t, ParseInfo(info).Check(false), want)
	}
	f("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\n", nil)
	f("redis_version:6.2.14\r\nredis_mode:standalone\r\nrun_id:abc\r\n", ErrTooOld)
	f("redis_version:7.2.4\r\nserver_name:valkey\r\nredis_mode:sentinel\r\nrun_id:abc\r\n", nil)
	f("redis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:abc\r\n", ErrCluster)
	f("redis_version:7.2.4\r\nserver_name:valkey\r\nserver_mode:cluster\r\nrun_id:abc\r\n", ErrCluster)
	f("redis_version:7.0.15\r\n", errRunID)
	require.Equal(t, "abc", ParseInfo("run_id:abc\r\n").RunID())
}

// TestComparisonOfIDsIsExact beyond the 53 bits of a number of Lua.
func TestComparisonOfIDsIsExact(t *testing.T) {
	t.Parallel()
	c := connect(t, redistest.Start(t), "")
	script := NewScript(redislua.IDs, "return less(ARGV[1], ARGV[2]) and 1 or 0")
	less := func(a, b string) bool {
		n, err := script.Run(t.Context(), c, nil, []string{a, b}).AsInt64()
		require.NoError(t, err)
		return n == 1
	}
	ascending := []string{
		"0-0", "0-1", "0-9", "0-10", "9-0", "10-0", "9007199254740992-0", "9007199254740993-0",
		"18446744073709551614-18446744073709551615", "18446744073709551615-18446744073709551614", "18446744073709551615-18446744073709551615",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			require.Equal(t, i < j, less(a, b), "%s < %s", a, b)
		}
	}
}

func TestNoteIsReadAsWritten(t *testing.T) {
	t.Parallel()
	c := connect(t, redistest.Start(t), "")
	script := NewScript(redislua.InboxNotes, `
		local note = make_note(ARGV[1], {ARGV[2], no_entry}, ARGV[3], ARGV[4] == '1')
		local t, ids, key, is_reclaimed = parse_note(note)
		return {note, t, ids[1], ids[2], key, is_reclaimed and '1' or '0', position(t, #ids)}`)
	f := func(is string, note string) {
		t.Helper()
		got, err := script.Run(t.Context(), c, nil, []string{"1700000000000", "5-1", "an inbox", is}).AsStrSlice()
		require.NoError(t, err)
		require.Equal(t, []string{note, "1700000000000", "5-1", "0-0", "an inbox", is, "1700000000000-2"}, got)
	}
	f("0", "1700000000000 5-1,0-0 an inbox")
	f("1", "1700000000000 ?5-1,0-0 an inbox")
}

func TestKeyNamesFollowThePrefix(t *testing.T) {
	k := MakeKeys("sse:stream:")
	require.Equal(t, []string{
		"{sse:stream:}:clock", "{sse:stream:}:writer", "{sse:stream:}:gaps", "{sse:stream:}:holes", "{sse:stream:}:inbox",
		"{sse:stream:}:instances", "__ssed:{sse:stream:}", "ssed:prefixes", "sse:{8209}", "sse:inbox", "sse:stream:user123", "{sse:stream:}:instance:a", "{sse:stream:}:reply:f", "{sse:stream:}:doctor:f",
	}, []string{
		k.Clock, k.Lease, k.Gaps, k.Rejected, k.InboxNotes,
		k.Instances, k.Control, k.Prefixes, k.Messages, k.Inbox("sse:inbox"), k.Stream("user123"), k.Instance("a"), k.Reply("f"), k.Doctor("f"),
	})
	require.Equal(t, "sse:inbox:refused", Refused("sse:inbox"))
	require.Equal(t, "sse:inbox:owner", InboxOwner("sse:inbox"))
	require.Equal(t, "{sse:stream:}:owner:a", k.Owner("a"))
	require.Equal(t, "sse:inbox", DefaultInbox("sse:stream:"))
	require.Equal(t, "inbox:chat:", DefaultInbox("chat:"))
}

// TestDatabaseIsInTheControlChannelAlone: keys are apart already.
func TestDatabaseIsInTheControlChannelAlone(t *testing.T) {
	k := MakeKeys("sse:stream:")
	require.Equal(t, k, k.InDatabase(0))
	other := k.InDatabase(2)
	require.Equal(t, "__ssed:{sse:stream:}:db2", other.Control)
	require.Equal(t, k.Control, other.EarlierControl)
	other.Control, other.EarlierControl = k.Control, ""
	require.Equal(t, k, other)
}
