package rsub

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
)

func withPrefix(prefix string) option { return func(c *Config) { c.Prefix = prefix } }

// TestDatabasesOfOneRedisDoNotShareTicks: Pub/Sub knows no databases.
func TestDatabasesOfOneRedisDoNotShareTicks(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	var all []*instance
	for _, db := range []string{"/0", "/1", "/2"} {
		for _, name := range []string{"a", "b"} {
			all = append(all, start(t, s.URL()+db, name))
		}
	}
	waitSynced(t, all...)
	publish(dial(t, s), 2, 1000, "m")
	flush(t, s, "end", all...)
	for i, in := range all {
		spans, _, _ := in.sink.counts()
		require.Equal(t, 1, spans, i)
		require.Zero(t, in.Stats().EpochChanges, i)
		require.Empty(t, in.Stats().RefusedTicks, i)
	}
	for i := 0; i < len(all); i += 2 {
		require.Equal(t, tail(all[i].sink.all(), all[i+1].sink.spans[0].low), tail(all[i+1].sink.all(), all[i].sink.spans[0].low))
	}
}

// TestUserWithoutTheEarlierControlChannelIsSynced: only instances of earlier versions need it.
func TestUserWithoutTheEarlierControlChannelIsSynced(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "ACL", "SETUSER", "u", "on", ">x", "~*", "+@all")
	do(t, s, "ACL", "SETUSER", "u", "resetchannels", "&__ssed:{"+testPrefix+"}:db1", "&c")
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr()}, SelectDB: 1, ForceSingleClient: true, DisableCache: true})
	require.NoError(t, err)
	defer client.Close()
	// An earlier version has ticked here: it is to be told, which this user may not.
	require.NoError(t, client.Do(t.Context(), client.B().Hset().Key("{"+testPrefix+"}:clock").FieldValue().FieldValue("t", "1").Build()).Error())
	in := start(t, s.URL()+"/1", "in", withPatterns("c"), func(c *Config) { c.Client.Username, c.Client.Password = "u", "x" })
	waitSynced(t, in)
	do(t, s, "PUBLISH", "c", "m")
	eventually(t, func() bool { return in.has("m") }, "not delivered")
}

// TestInboxOfAnotherPrefixIsRefused: each of two would take a part of the entries.
func TestInboxOfAnotherPrefixIsRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	first := startGateway(t, s, "first")
	eventually(t, func() bool { return do(t, s, "GET", redisconn.InboxOwner(testInbox)) == testPrefix }, "no owner")
	second, err := New(testConfig(t, s.URL(), "second", withInbox, withPrefix("other:")), discard{})
	require.NoError(t, err)
	err = second.Run(context.Background())
	require.ErrorIs(t, err, ErrInboxOwned)
	for _, part := range []string{testInbox, testPrefix, "other:"} {
		require.ErrorContains(t, err, part)
	}
	add(t, s, "channel", "c", "data", "m")
	waitEmpty(t, s)
	require.Len(t, streamOf(t, s, "c"), 1, "the first fleet is not disturbed")

	// It is free when nobody has renewed it for a minute.
	first.stop()
	require.Equal(t, int64(1), do(t, s, "DEL", redisconn.InboxOwner(testInbox)))
	startGateway(t, s, "third", withPrefix("other:"))
	eventually(t, func() bool { return do(t, s, "GET", redisconn.InboxOwner(testInbox)) == "other:" }, "no owner")
}

// TestInboxThatIsTakenAwayStandsStill, and ticks go on.
func TestInboxThatIsTakenAwayStandsStill(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	g := startGateway(t, s, "g")
	eventually(t, func() bool { return do(t, s, "GET", redisconn.InboxOwner(testInbox)) != nil }, "no owner")
	do(t, s, "SET", redisconn.InboxOwner(testInbox), "other:")
	eventually(t, func() bool { return g.Stats().Inbox.Failures > 0 }, "not noticed")
	add(t, s, "channel", "c", "data", "m")
	sent := g.Stats().TicksSent
	eventually(t, func() bool { return g.Stats().TicksSent > sent+5 }, "no ticks")
	require.EqualValues(t, 1, do(t, s, "XLEN", testInbox))
	do(t, s, "DEL", redisconn.InboxOwner(testInbox))
	waitEmpty(t, s)
}

// TestWhoHasTheInboxMovesItsEntries, though an instance without it leads the ticks.
func TestWhoHasTheInboxMovesItsEntries(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	seldom := func(c *Config) { c.TickInterval, c.ProbeTimeout = time.Second, time.Minute } // a busy machine is too late for others
	without := start(t, s.URL(), "without", seldom)
	eventually(t, func() bool { return without.Stats().Leading }, "does not lead")
	add(t, s, "channel", "c", "data", "m")
	with := startGateway(t, s, "with", seldom)
	waitEmpty(t, s)
	require.Len(t, streamOf(t, s, "c"), 1)
	eventually(t, func() bool { return with.Stats().Leading && !without.Stats().Leading }, "two lead")
	takeOvers := with.Stats().TakeOvers + without.Stats().TakeOvers
	// The lead stays there, also when one joins that does without.
	waitSynced(t, start(t, s.URL(), "another", seldom))
	sent := with.Stats().TicksSent
	eventually(t, func() bool { return with.Stats().TicksSent > sent+4 }, "no ticks")
	require.Equal(t, takeOvers, with.Stats().TakeOvers+without.Stats().TakeOvers)
}

// TestInboxIsMovedWithoutTheRightToItsOwnerKey: users made for earlier versions have none.
func TestInboxIsMovedWithoutTheRightToItsOwnerKey(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	do(t, s, "ACL", "SETUSER", "u", "on", "nopass", "resetkeys", "~"+testPrefix+"*", "~{"+testPrefix+"}:*", "~"+testInbox, "~"+redisconn.Refused(testInbox), "&*", "+@all")
	startGateway(t, s, "g", func(c *Config) { c.Client.Username, c.Client.Password = "u", "x" })
	add(t, s, "channel", "c", "data", "m")
	waitEmpty(t, s)
	require.Nil(t, do(t, s, "GET", redisconn.InboxOwner(testInbox)))
}
