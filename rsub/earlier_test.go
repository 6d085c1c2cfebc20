package rsub

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redisconn"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// The scripts of the version that was first released, as they were.
var (
	//go:embed testdata/earlier/inbox.lua
	earlierInboxLua string
	//go:embed testdata/earlier/tick.lua
	earlierTickLua string
	earlierScript  = redisconn.NewScript(redisconn.AllowOOM, earlierInboxLua, earlierTickLua)
)

// earlierInstance is one of that version: it numbers what comes between ticks of the
// one control channel that it knows, and may lead.
type earlierInstance struct {
	t                        testing.TB
	name                     string
	client                   rueidis.Client
	keys                     redisconn.Keys
	fingerprint, description string
	stop                     func()

	mu  sync.Mutex // guards the rest
	seq sequencer
	ids map[string]sseproto.ID // by payload
	at  time.Time              // of the last tick
}

func startEarlier(t testing.TB, url, name string) *earlierInstance {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	require.NoError(t, err)
	e := &earlierInstance{t: t, name: name, keys: redisconn.MakeKeys(testPrefix), ids: map[string]sseproto.ID{}}
	e.fingerprint, e.description = Fingerprint([]string{"*"}, Rules{})
	e.seq.fingerprint = e.fingerprint
	e.client, err = rueidis.NewClient(redisconn.Options(option))
	require.NoError(t, err)
	conn, _ := e.client.Dedicate()
	info, err := conn.Do(t.Context(), conn.B().Info().Section("server").Build()).ToString()
	require.NoError(t, err)
	conn.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: e.onMessage})
	for _, res := range conn.DoMulti(t.Context(), conn.B().Subscribe().Channel(e.keys.Control).Build(), conn.B().Psubscribe().Pattern("*").Build()) {
		require.NoError(t, res.Error())
	}
	e.mu.Lock()
	e.seq.subscribe(redisconn.ParseInfo(info).RunID(), "")
	e.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { e.tick(ctx) })
	e.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		conn.Close()
		e.client.Close()
	})
	t.Cleanup(e.stop)
	return e
}

func (e *earlierInstance) onMessage(m rueidis.PubSubMessage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case m.Pattern == "":
		if t, err := parseTick(m.Message); err == nil {
			t.term = "" // that version does not read it
			e.seq.tick(t)
			e.at = time.Now()
		}
	case !Reserved(m.Channel):
		if id, ok := e.seq.message(m.Channel, m.Message); ok {
			e.ids[m.Message] = id
		}
	}
}

// tick joins, and then leads while nobody else does.
func (e *earlierInstance) tick(ctx context.Context) {
	mode := modeJoin
	ticker := time.NewTicker(DefaultTickInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		e.mu.Lock()
		last := e.seq.last.Ms
		e.mu.Unlock()
		words, err := earlierScript.Run(ctx, e.client, []string{e.keys.Clock}, []string{
			mode, e.name, "300", strconv.FormatUint(last, 10), "abcdef", e.fingerprint, e.description, "-", e.keys.Control, "0", "5000",
		}).AsStrSlice()
		if ctx.Err() == nil {
			require.NoError(e.t, err)
			require.Contains(e.t, []string{"tick", "led"}, words[0])
		}
		mode = modeLead
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// agree compares the numbers of what both have.
func (e *earlierInstance) agree(in *instance) (common int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range in.sink.all() {
		if id, ok := e.ids[m.payload]; ok {
			require.Equal(e.t, id, m.id, "%s and %s: %s", e.name, in.cfg.Instance, m.payload)
			common++
		}
	}
	return common
}

// TestTickOfAnEarlierVersionCountsBeforeTheFirstAnswer: it follows our own first tick, whose
// answer is not read yet. One of another database has another epoch.
func TestTickOfAnEarlierVersionCountsBeforeTheFirstAnswer(t *testing.T) {
	f, err := New(testConfig(t, "redis://127.0.0.1:1/3", "me"), discard{})
	require.NoError(t, err)
	s := f.subscriptions[0]
	s.node, s.ready = "n1", make(chan struct{})
	s.onSubscription(rueidis.PubSubSubscription{Kind: "subscribe"})
	s.onSubscription(rueidis.PubSubSubscription{Kind: "psubscribe"})
	earlier := func(ms uint64, epoch string) {
		s.onMessage(pubsub("", f.keys.EarlierControl, fmt.Sprintf("tick %d %s 0-0 %s n1 - x", ms, epoch, f.fingerprint)))
	}
	earlier(5, "e")
	require.Equal(t, unsynced, s.seq.state, "whose it is nobody knows yet")
	s.tickNow(10)
	earlier(15, "e")
	require.Equal(t, sseproto.ID{Ms: 15}, s.seq.last)
	earlier(20, "another")
	require.Equal(t, sseproto.ID{Ms: 15}, s.seq.last)
	earlier(15, "e")
	require.Equal(t, synced, s.seq.state, "what both channels brought counts once")
	require.Nil(t, f.epoch.Load())
}

// TestFleetOfTwoVersionsNumbersAlike: instances of the earlier one are replaced one by
// one, and it is gone back to, while messages come. In a database of its own, too.
func TestFleetOfTwoVersionsNumbersAlike(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"/0", "/3"} {
		t.Run("database "+db, func(t *testing.T) {
			s := redistest.Start(t)
			url := s.URL() + db
			neighbour := start(t, s.URL()+"/7", "neighbour")
			first := startEarlier(t, url, "first")
			stop := noise(t, s, 2, 20, "m")
			new1 := start(t, url, "new1")
			waitSynced(t, new1)
			second := startEarlier(t, url, "second")
			enough := func(e *earlierInstance, in *instance) {
				t.Helper()
				more := e.agree(in) + 200
				eventually(t, func() bool { return e.agree(in) > more }, "no messages in common")
			}
			enough(first, new1) // the earlier one leads
			enough(second, new1)
			first.stop()
			second.stop()
			eventually(t, func() bool { return new1.Stats().Leading }, "does not take over")
			new2 := start(t, url, "new2")
			waitSynced(t, new2)
			third := startEarlier(t, url, "third") // back, while the new one leads
			enough(third, new1)
			enough(third, new2)
			require.NoError(t, new1.stop())
			require.NoError(t, new2.stop())
			new3 := start(t, url, "new3")
			waitSynced(t, new3)
			enough(third, new3)
			stop()
			for _, in := range []*instance{new1, new2, new3} {
				require.Empty(t, in.Stats().RefusedTicks, in.cfg.Instance)
			}
			spans, _, _ := neighbour.sink.counts()
			require.Equal(t, 1, spans, "another database is not disturbed")
		})
	}
}
