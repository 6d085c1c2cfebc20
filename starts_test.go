package ssed_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/redistest"
	"ssed/sseproto"
)

// numberedFeed publishes messages whose data is their number in their channel, 1, 2, 3….
type numberedFeed struct {
	channels []string
	publish  func(ctx context.Context, messages []ssed.OutMessage) error

	mu    sync.Mutex
	sent  map[string]int         // how many of each channel are published for sure
	times map[string][]time.Time // when each was given away
}

func newNumberedFeed(publish func(context.Context, []ssed.OutMessage) error) *numberedFeed {
	f := &numberedFeed{publish: publish, sent: make(map[string]int), times: make(map[string][]time.Time)}
	for i := range 8 {
		f.channels = append(f.channels, fmt.Sprint("c", i))
	}
	return f
}

// send publishes n messages, to the first channels more than to the others.
func (f *numberedFeed) send(ctx context.Context, rng *rand.Rand, n int) error {
	var messages []ssed.OutMessage
	f.mu.Lock()
	for range n {
		name := f.channels[rng.IntN(1+rng.IntN(len(f.channels)))]
		f.times[name] = append(f.times[name], time.Now())
		data := strconv.Itoa(len(f.times[name])) + strings.Repeat(" ", rng.IntN(400))
		messages = append(messages, ssed.OutMessage{Channel: name, Message: ssed.Message{Data: data}})
	}
	f.mu.Unlock()
	if err := f.publish(ctx, messages); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range messages {
		f.sent[m.Channel]++
	}
	return nil
}

// clientID is in each line of CLIENT LIST.
var clientID = regexp.MustCompile(`\bid=(\d+) `)

// cutOne ends the subscription of one of two instances, if both are linked: what comes while
// nobody is linked is lost. It tells whether it did.
func cutOne(redis rueidis.Client, rng *rand.Rand) (done bool, err error) {
	list, err := redis.Do(context.Background(), redis.B().Arbitrary("CLIENT", "LIST", "TYPE", "pubsub").Build()).ToString()
	if err != nil {
		return false, err
	}
	found := clientID.FindAllStringSubmatch(list, -1)
	if len(found) < 2 {
		return false, nil
	}
	id := found[rng.IntN(len(found))][1]
	return true, redis.Do(context.Background(), redis.B().Arbitrary("CLIENT", "KILL", "ID", id).Build()).Error()
}

// count is how many messages of a channel Redis has taken for sure.
func (f *numberedFeed) count(channel string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent[channel]
}

// given is how many messages of a channel were given to Redis, at most.
func (f *numberedFeed) given(channel string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.times[channel])
}

// firstSince is the first message of a channel that was given to Redis at a time or later.
func (f *numberedFeed) firstSince(channel string, at time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _ := slices.BinarySearchFunc(f.times[channel], at, time.Time.Compare)
	return n + 1
}

// starter is a client with a start in its URL, as an EventSource has it: each time that its
// stream is cut it comes back with that URL and the last ID that it got.
type starter struct {
	gateways []*ssed.Gateway
	query    string
	channels []string

	asked  time.Time // when the head of its first stream had come
	begins func()    // called with the first event
	lastID string
	next   map[string]int      // number of the next message of each channel
	first  map[string]int      // of the first one
	ids    map[string][]uint64 // ms of the IDs that a channel got
}

// read reads one stream until enough says so, or for some events; -1: for ever.
func (c *starter) read(rng *rand.Rand, events int, enough func() bool) error {
	gateway := c.gateways[rng.IntN(len(c.gateways))]
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	url := "http://" + gateway.Addrs()[0].String() + "/sse/connect?tell=channel&" + c.query
	for _, name := range c.channels {
		url += "&channel_id=" + name
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if c.lastID != "" {
		request.Header.Set("Last-Event-ID", c.lastID)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusServiceUnavailable { // its link is cut: there is another
		return c.read(rng, events, enough)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	if c.asked.IsZero() {
		c.asked = time.Now()
	}
	lines := bufio.NewScanner(response.Body)
	var id, channel, data string
	for !enough() && events != 0 && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "id":
			id = value
		case name == "event":
			channel = value
		case name == "data":
			data = value
		case lines.Text() == "" && data != "":
			if err := c.take(id, channel, data); err != nil {
				return fmt.Errorf("%w (%s, last ID %q)", err, url, c.lastID)
			}
			c.lastID, data = id, ""
			events--
		case lines.Text() == "" && id != "": // a position
			c.lastID = id
		}
	}
	if enough() || events == 0 {
		return nil
	}
	return fmt.Errorf("%s ended with next %v: %w", url, c.next, lines.Err())
}

func (c *starter) take(id, channel, data string) error {
	n, err := strconv.Atoi(strings.TrimRight(data, " "))
	if err != nil {
		return fmt.Errorf("%s: %s: %s", id, channel, data) // a gap
	}
	own, _, _ := strings.Cut(id, ".") // of several partitions it has more
	at, err := sseproto.ParseID(own)
	if err != nil {
		return err
	}
	if len(c.next) == 0 && c.begins != nil {
		c.begins()
	}
	if _, ok := c.next[channel]; !ok {
		c.first[channel], c.next[channel] = n, n
	}
	if n != c.next[channel] {
		return fmt.Errorf("%s: message %d of %s, want %d", id, n, channel, c.next[channel])
	}
	c.next[channel]++
	c.ids[channel] = append(c.ids[channel], at.Ms)
	return nil
}

// TestStartsUnderLoad: clients start at random places, on random channels of one of two
// instances, while messages come, and are cut at random; so are the instances from Redis, one
// at a time. Each gets all of what it asked for, once, and then what comes: nothing is lost or
// doubled between the history, the memory of an instance and the present.
func TestStartsUnderLoad(t *testing.T) {
	server := redistest.Start(t)
	gateways, redis := twoOnRedis(t, server, func(cfg *ssed.Config) {
		cfg.History.MaxLen = 100_000
		cfg.Streams.RingBytes = 1 << 20 // a second or so of what comes
	})
	f := newNumberedFeed(func(ctx context.Context, messages []ssed.OutMessage) error {
		var cmds rueidis.Commands
		for _, m := range messages {
			cmds = append(cmds, redis.B().Publish().Channel(m.Channel).Message(m.Data).Build())
		}
		for _, r := range redis.DoMulti(ctx, cmds...) {
			if err := r.Error(); err != nil {
				return err
			}
		}
		return nil
	})
	cuts := 0
	f.tryStarts(t, gateways, func(rng *rand.Rand) error { // what an instance misses comes from the history
		done, err := cutOne(redis, rng)
		if done {
			cuts++
		}
		return err
	})
	resumes := gateways[0].Parts().Engine.Stats()
	t.Logf("%d reads of the history at one instance, %d links cut", resumes.ResumedHistory, cuts)
	require.Positive(t, resumes.ResumedHistory)
	require.Positive(t, cuts)
}

// TestStartsUnderLoadWithoutRedis: the same, from memory alone.
func TestStartsUnderLoadWithoutRedis(t *testing.T) {
	cfg := loopback()
	cfg.History = &ssed.HistoryConfig{MaxLen: 100_000}
	gateway, _ := serve(t, cfg)
	f := newNumberedFeed(func(ctx context.Context, messages []ssed.OutMessage) error {
		for _, result := range gateway.PublishBatch(ctx, messages) {
			if result.Err != nil {
				return result.Err
			}
		}
		return nil
	})
	f.tryStarts(t, []*ssed.Gateway{gateway}, func(*rand.Rand) error { return nil })
}

// tryStarts publishes, and lets clients start meanwhile. It calls disturb now and then.
func (f *numberedFeed) tryStarts(t *testing.T, gateways []*ssed.Gateway, disturb func(rng *rand.Rand) error) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 20 { // not more at once than the writer of the history has the time to take
		require.NoError(t, f.send(t.Context(), rng, 100))
		awaitWritten(t, gateways[0])
	}

	const workers, clientsEach = 8, 12
	var running, publishing sync.WaitGroup
	var done atomic.Bool
	publishing.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		for n := 0; !done.Load(); n++ {
			if n%100 == 99 {
				if err := disturb(rng); err != nil {
					t.Error(err)
				}
			}
			if err := f.send(context.Background(), rng, 1+rng.IntN(20)); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // the load itself
		}
	})
	var kinds [4]atomic.Int64
	for k := range workers {
		running.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(2+k)))
			for range clientsEach {
				kind := rng.IntN(len(kinds))
				kinds[kind].Add(1)
				if err := f.runStarter(rng, gateways, kind); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	done.Store(true)
	publishing.Wait()
	t.Logf("%d starts at the earliest, %d at the last, %d at a time, %d of an age; %d messages in the first channel",
		kinds[0].Load(), kinds[1].Load(), kinds[2].Load(), kinds[3].Load(), f.count("c0"))

	// Now that nothing comes any more, and every instance has all, last is exact.
	for k := range gateways {
		c := newStarter(gateways[k:k+1], "last=1", f.channels)
		require.NoError(t, c.read(rng, -1, func() bool { return c.has(f.count) }))
	}
	for range 20 {
		n := 1 + rng.IntN(300)
		c := newStarter(gateways, fmt.Sprint("last=", n), f.channels)
		require.NoError(t, c.read(rng, -1, func() bool { return c.has(f.count) }))
		for _, name := range f.channels {
			require.Equal(t, max(f.count(name)-n, 0)+1, c.first[name], "last=%d of %d", n, f.count(name))
		}
	}
}

// awaitWritten returns when the history, if there is one, has all that the instance has.
func awaitWritten(t *testing.T, gateway *ssed.Gateway) {
	t.Helper()
	if gateway.Parts().Stores == nil {
		return
	}
	for q, p := range gateway.Partitions() {
		last := p.Last // what comes after it has to wait for the next tick
		require.Eventually(t, func() bool { return last.Less(gateway.Partitions()[q].Written) }, time.Minute, 5*time.Millisecond)
	}
}

func newStarter(gateways []*ssed.Gateway, query string, channels []string) *starter {
	return &starter{gateways: gateways, query: query, channels: channels, next: map[string]int{}, first: map[string]int{}, ids: map[string][]uint64{}}
}

// has reports whether the client got as many messages of each channel.
func (c *starter) has(count func(channel string) int) bool {
	for _, name := range c.channels {
		if c.next[name] <= count(name) {
			return false
		}
	}
	return true
}

// runStarter is one client, from its start until it has some messages of the present.
func (f *numberedFeed) runStarter(rng *rand.Rand, gateways []*ssed.Gateway, kind int) error {
	channels := slices.Clone(f.channels)
	rng.Shuffle(len(channels), func(a, b int) { channels[a], channels[b] = channels[b], channels[a] })
	channels = channels[:1+rng.IntN(4)]
	now := time.Now()
	last, at := 1+rng.IntN(400), now.Add(-time.Duration(rng.IntN(5000))*time.Millisecond)
	query := "since=earliest"
	switch kind {
	case 1:
		query = fmt.Sprint("last=", last)
	case 2:
		query = fmt.Sprint("since=", at.UnixMilli())
	case 3:
		query = fmt.Sprint("since=", now.Sub(at))
	}
	if rng.IntN(2) == 0 { // as an EventSource is given it
		query += "&start=id"
	}
	c := newStarter(gateways, query, channels)
	counted := make(map[string]int) // not before last=n has been counted
	c.begins = func() {
		for _, name := range channels {
			counted[name] = f.given(name)
		}
	}
	for range rng.IntN(4) {
		if err := c.read(rng, 1+rng.IntN(300), func() bool { return c.has(f.count) }); err != nil {
			return err
		}
	}
	target := make(map[string]int)
	for _, name := range channels {
		target[name] = f.count(name) + 5
	}
	if err := c.read(rng, -1, func() bool { return c.has(func(name string) int { return target[name] }) }); err != nil {
		return err
	}
	for _, name := range channels {
		latest := 1 // the first message may not be a later one
		switch kind {
		case 1:
			latest = max(counted[name]-last, 0) + 1
		case 2:
			latest = f.firstSince(name, at)
		case 3: // the age counts from the request
			latest = f.firstSince(name, at.Add(c.asked.Sub(now)))
		}
		if c.first[name] > latest {
			return fmt.Errorf("%s on %v: %s begins with %d, want %d or less", query, channels, name, c.first[name], latest)
		}
		if kind == 2 && c.oldTicks(name, uint64(at.UnixMilli())) > 1 && len(channels) == 1 {
			return fmt.Errorf("%s on %s: messages of several ticks before that time", query, name)
		}
	}
	return nil
}

// oldTicks counts the ticks at a time or before of which the client got messages.
func (c *starter) oldTicks(channel string, ms uint64) int {
	ticks := slices.Compact(slices.Clone(c.ids[channel]))
	n, _ := slices.BinarySearch(ticks, ms+1)
	return n
}

// TestStartOnAChannelThatIsNotKept: the stream begins with what memory has, and nothing is
// told of what it has not.
func TestStartOnAChannelThatIsNotKept(t *testing.T) {
	server := redistest.Start(t)
	cfg := onRedis(t, server)
	cfg.Policies = []ssed.Policy{{Match: "off:*", NoHistory: true}}
	gateway, _ := serve(t, cfg)
	awaitReady(gateway)
	for i := range 5 {
		for _, channel := range []string{"off:1", "kept"} {
			_, err := gateway.Publish(t.Context(), channel, ssed.Message{Data: strconv.Itoa(i)})
			require.NoError(t, err)
		}
	}
	f := func(query string, want ...string) {
		t.Helper()
		c := open(gateway, query, "")
		defer c.close()
		for _, data := range want {
			_, got := c.event()
			require.Equal(t, data, got, query)
		}
	}
	for _, since := range []string{"earliest", "1h", "0"} {
		f("off:1&since="+since, "0", "1", "2", "3", "4")
		f("off:1&channel_id=kept&since="+since, "0", "0", "1", "1", "2", "2", "3", "3", "4", "4")
	}
	f("off:1&last=2", "3", "4")
	f("off:1&channel_id=kept&last=2", "3", "3", "4", "4")
	f("off:1&last=100", "0", "1", "2", "3", "4")
}
