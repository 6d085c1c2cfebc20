package main

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

func TestPublishReachesEveryInstanceWithTheSameID(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := startRedis(t, r), startRedis(t, r)
	p := newPublisher(t, r)
	a, b := connect(t, one, "", "user123"), connect(t, two, "", "user123")
	for _, payload := range payloads {
		p.publish("user123", payload.sent)
		a.want(payload.got)
		b.want(payload.got)
		require.Equal(t, a.lastID, b.lastID)
	}
	answer := one.publish("user123", "by POST")
	require.EqualValues(t, 2, *answer.Receivers)
	a.want("by POST")
	b.want("by POST")
}

func TestPatternsChooseAndOverlapsDeliverOnce(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--patterns", "sse:*,notifications:*", "--patterns", "sse:a*")
	p := newPublisher(t, r)
	s := connect(t, in, "", "sse:abc", "notifications:1", "other")
	p.publish("sse:abc", "1")
	p.publish("other", "not subscribed to")
	p.publish("notifications:1", "2")
	s.want("1", "2")
}

func TestOversizeMessageIsLeftOutAndCounted(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--max-message-bytes", "10")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.publish("a", "0123456789A")
	p.publish("a", "0123456789")
	s.wantGap(sseproto.ReasonOversize)
	s.want("0123456789")
	require.EqualValues(t, 1, in.metric(`ssed_feed_skipped_total{reason="oversize"}`))
}

// TestRollingRestartLosesNothing: both instances are replaced, one after the other.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := startRedis(t, r), startRedis(t, r)
	p := newPublisher(t, r)
	s := connect(t, one, "", "a", "b")
	for i := range 10 {
		p.publish([]string{"a", "b", "unrelated"}[i%3], strconv.Itoa(i))
	}
	s.want("0", "1")
	from := s.lastID
	for _, in := range []*instance{one, two} {
		in.Signal(syscall.SIGTERM)
		require.Equal(t, exitOK, in.wait())
		if in == one {
			one = startRedis(t, r)
		}
	}
	s = connect(t, one, from, "a", "b")
	s.want("3", "4", "6", "7", "9")
	p.publish("b", "10")
	s.want("10")

	entries, err := r.Do("XRANGE", "sse:stream:a", "-", "+")
	require.NoError(t, err)
	require.Len(t, entries, 4)
	ttl, err := r.Do("TTL", "sse:stream:a")
	require.NoError(t, err)
	require.InDelta(t, 3600, ttl, 60)
}

// TestRestartOfTheOnlyInstanceIsTold: what was published meanwhile is gone, so
// there is a gap event, and what was written before is replayed.
func TestRestartOfTheOnlyInstanceIsTold(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, 3)
	s.want("0")
	from := s.lastID
	s.want("1", "2")
	in.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, in.wait())
	p.publish("a", "into the void")

	in = start(t, "--redis-url", r.URL())
	in.waitReady()
	s = connect(t, in, from, "a")
	s.wantGap(sseproto.ReasonOutage)
	s.want("1", "2")
	p.publish("a", "3")
	s.want("3")
}

// written waits until the history holds everything up to id.
func (in *instance) written(r *redistest.Server, id string) {
	in.t.Helper()
	upTo, err := sseproto.ParseID(id)
	require.NoError(in.t, err)
	in.eventually("history written", func() bool {
		text, err := r.Do("HGET", "{sse:stream:}:clock", "watermark")
		require.NoError(in.t, err)
		mark, err := sseproto.ParseID(text.(string))
		require.NoError(in.t, err)
		return !mark.Less(upTo)
	})
}

// forget publishes, at a pace that the writer of the history can follow, until the
// memory of an instance with --ring-bytes 256KiB has only that.
func forget(t *testing.T, in *instance, r *redistest.Server, p *publisher) {
	t.Helper()
	filler := connect(t, in, "", "filler")
	large := strings.Repeat("f", 8<<10)
	for range 8 {
		for range 8 {
			p.publish("filler", large)
			filler.want(large)
		}
		in.written(r, filler.lastID)
	}
}

// leaveBehind publishes n numbers on channel a, of which memory forgets all. From is
// the ID of the first.
func leaveBehind(t *testing.T, n int, historyMax string) (in *instance, p *publisher, from string) {
	r := redistest.Start(t)
	in = startRedis(t, r, "--gap-wait", "250ms", "--ring-bytes", "256KiB", "--history-max", historyMax, "--history-window", "0")
	p = newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, n)
	s.want("0")
	from = s.lastID
	s.wantNumbers(1, n)
	in.written(r, s.lastID)
	forget(t, in, r, p)
	return in, p, from
}

func TestResumeBeyondMemoryReadsTheHistory(t *testing.T) {
	t.Parallel()
	const n = 1000
	in, p, from := leaveBehind(t, n, "2000")
	again := connect(t, in, from, "a")
	again.wantNumbers(1, n)
	p.numbers("a", n, n+10)
	again.wantNumbers(n, n+10)
	require.EqualValues(t, 1, in.metric(`ssed_stream_resumed_total{from="history"}`))
}

// sentBytes is what Redis has sent to its clients.
func sentBytes(t *testing.T, r *redistest.Server) int64 {
	t.Helper()
	info, err := r.Do("INFO", "stats")
	require.NoError(t, err)
	found := regexp.MustCompile(`total_net_output_bytes:(\d+)`).FindStringSubmatch(info.(string))
	require.NotNil(t, found)
	n, err := strconv.ParseInt(found[1], 10, 64)
	require.NoError(t, err)
	return n
}

// A resume of much more than a page: Redis sends each message about once, and what is
// lost is told once, not with each page.
func TestLargeHistoriesAreReadOnceAndTheirLossIsToldOnce(t *testing.T) {
	t.Parallel()
	const channels, each, size = 16, 12, 64 << 10
	r := redistest.Start(t)
	writer := startRedis(t, r, "--gap-wait", "250ms")
	p := newPublisher(t, r)
	var names []string
	for i := range channels {
		names = append(names, fmt.Sprint("large-", i))
	}
	live := connect(t, writer, "", names...)
	payload := strings.Repeat("x", size)
	for range each {
		for _, name := range names {
			p.publish(name, payload)
			live.want(payload)
		}
	}
	writer.written(r, live.lastID)
	in := startRedis(t, r, "--gap-wait", "250ms") // has nothing of it in its ring
	before := sentBytes(t, r)
	s := connect(t, in, "0-0", names...)
	s.wantGap(sseproto.ReasonOutage) // before the first instance came
	for range channels * each {
		s.want(payload)
	}
	sent := sentBytes(t, r) - before
	require.Less(t, sent, int64(2*channels*each*size+1<<20))
	require.EqualValues(t, 1, in.metric(`ssed_stream_gaps_total{reason="outage"}`))
}

func TestBroadcastChannelReachesEveryStream(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--ring-bytes", "256KiB", "--patterns", "a*,filler*,everybody",
		"--broadcast-channel", "everybody", "--channels-allow", "a*,filler", "--max-channels-per-connection", "1")
	p := newPublisher(t, r)
	one, two := connect(t, in, "", "a1"), connect(t, in, "", "a2")
	p.publish("a1", "for one")
	p.publish("everybody", "news")
	p.publish("a2", "for two")
	one.want("for one", "news")
	two.want("news", "for two")
	from := two.lastID
	two.close()
	p.publish("everybody", "more news")
	p.publish("a2", "more")
	one.want("more news")
	connect(t, in, from, "a2").want("more news", "more")
	in.written(r, one.lastID)
	forget(t, in, r, p)
	history := connect(t, in, from, "a2")
	history.want("more news", "more")
	p.publish("everybody", "the end")
	history.want("the end")
	require.EqualValues(t, 1, in.metric(`ssed_stream_resumed_total{from="history"}`))
}

func TestBroadcastChannelMustBeAmongThePatterns(t *testing.T) {
	code, _, stderr := readFlags(t, nil, "--broadcast-channel", "everybody", "--patterns", "user:*,news")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--broadcast-channel: \"everybody\" matches none of --patterns")
}

func TestTrimmedHistoryIsTold(t *testing.T) {
	t.Parallel()
	const n = 1000
	in, _, from := leaveBehind(t, n, "100")
	again := connect(t, in, from, "a")
	gap := again.wantGap(sseproto.ReasonTrimmed)
	require.Contains(t, gap.data, fmt.Sprintf("%q:%q", "requested", from))
	m, ok := again.next()
	require.True(t, ok)
	first, err := strconv.Atoi(m.data)
	require.NoError(t, err)
	require.Greater(t, first, 1)
	require.LessOrEqual(t, first, n-100)
	again.wantNumbers(first+1, n)
}

// Redis removes the history of the channel to make room for keys of others.
func TestEvictedHistoryIsTold(t *testing.T) {
	t.Parallel()
	in, p, from := leaveBehind(t, 10, "100")
	do := func(args ...string) rueidis.RedisResult {
		r := p.client.Do(t.Context(), p.client.B().Arbitrary(args...).Build())
		require.NoError(t, r.Error())
		return r
	}
	do("CONFIG", "SET", "maxmemory-policy", "volatile-random")
	do("CONFIG", "SET", "maxmemory", "4mb")
	for i := 0; ; i++ {
		if n, err := do("EXISTS", "sse:stream:a").AsInt64(); err != nil || n == 0 {
			break
		}
		require.Less(t, i, 10_000, "nothing was evicted")
		do("SET", "other:"+strconv.Itoa(i), strings.Repeat("x", 10_000), "EX", "3600")
	}
	connect(t, in, from, "a").wantGap(sseproto.ReasonEvicted)
}

// Instances are replaced one after the other with a longer --history-ttl. What the old
// ones wrote has expired all the same.
func TestHistoryThatExpiredUnderAShorterTTLIsTold(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one := startRedis(t, r, "--history-ttl", "1s")
	p := newPublisher(t, r)
	s := connect(t, one, "", "a")
	p.numbers("a", 0, 6)
	s.want("0")
	from := s.lastID
	s.wantNumbers(1, 6)
	one.written(r, s.lastID)
	two := startRedis(t, r, "--history-ttl", "1h")
	one.Signal(15)
	require.Equal(t, exitOK, one.wait())
	two.eventually("the history expired", func() bool {
		n, err := r.Do("EXISTS", "sse:stream:a")
		require.NoError(t, err)
		return n == int64(0)
	})
	p.publish("a", "6")
	again := connect(t, two, from, "a")
	again.wantGap(sseproto.ReasonExpired)
	again.want("6")
}

func TestHistoryOffResumesFromMemoryOnly(t *testing.T) {
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--history", "off")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, 3)
	s.want("0")
	connect(t, in, s.lastID, "a").want("1", "2")
	keys, err := r.Do("KEYS", "sse:stream:*")
	require.NoError(t, err)
	require.Empty(t, keys)
}

func TestTenThousandMessagesArriveInOrder(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms")
	s := connect(t, in, "", "a")
	p := newPublisher(t, r)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { p.numbers("a", 0, n) })
	var last sseproto.ID
	for i := range n {
		s.want(strconv.Itoa(i))
		id, err := sseproto.ParseID(s.lastID)
		require.NoError(t, err)
		require.True(t, last.Less(id))
		last = id
	}
}

func TestMetricsTellOfDeliveriesAndHistory(t *testing.T) {
	t.Parallel()
	const n = 200
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--shards", "1", "--ring-bytes", "1MiB")
	s := connect(t, in, "", "a")
	newPublisher(t, r).numbers("a", 0, n)
	for i := range n {
		s.want(strconv.Itoa(i))
	}
	in.eventually("the history is written", func() bool { return in.metric("ssed_history_batch_messages_sum") == n })
	require.EqualValues(t, in.metric("ssed_history_batches_total"), in.metric("ssed_history_batch_messages_count"))
	require.Positive(t, in.metric("ssed_history_write_seconds_sum"))
	require.EqualValues(t, n, in.metric("ssed_delivery_lag_seconds_count"))
	require.Less(t, in.metric("ssed_delivery_lag_seconds_sum"), n*patience.Seconds())
	require.Positive(t, in.metric(`ssed_shard_busy_seconds_total{shard="0"}`))
	require.EqualValues(t, 1, in.metric("ssed_redis_up"))
	require.EqualValues(t, 0, in.metric("ssed_slow_streams"))
	require.EqualValues(t, 1<<20, in.metric("ssed_log_limit_bytes"))
	require.Positive(t, in.metric("ssed_log_oldest_seconds"))
	in.eventually("the watermark follows", func() bool { return in.metric("ssed_history_watermark_lag_seconds") < 1 })
	r.Stop()
	in.eventually("the loss of Redis is seen", func() bool { return in.metric("ssed_redis_up") == 0 })
}

// TestLateRedisIsWaitedFor: without Redis the process runs, says that it is not
// ready and why, and sends browsers away softly.
func TestLateRedisIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.Stop()
	in := start(t, "--redis-url", r.URL(), "--retry", "2s-5s")
	status, _ := in.get(in.public + "/health")
	require.Equal(t, 200, status)
	status, body := in.get(in.public + "/ready")
	require.Equal(t, 503, status)
	require.Equal(t, "not linked to Redis\n", body, "its address is not for everybody")
	in.eventually("the reason", func() bool {
		status, body := in.get(in.admin + "/ready")
		require.Equal(t, 503, status)
		return strings.Contains(body, r.Addr())
	})
	in.eventually("the reason in the log", func() bool {
		return strings.Contains(in.Log(), `"msg":"ssed: not ready","reason":"redis: dial tcp `+r.Addr())
	})
	require.NotContains(t, in.Log(), `"ssed: ready"`)
	early := connect(t, in, "", "a")
	early.wantEnd()
	require.GreaterOrEqual(t, early.retry.Load(), int64(2000))
	resp, err := httpClient.Post(in.admin+"/publish?channel_id=a", "", strings.NewReader("x"))
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)

	require.NoError(t, r.Restart())
	in.waitReady()
	s := connect(t, in, "", "a")
	newPublisher(t, r).publish("a", "at last")
	s.want("at last")
	told := regexp.MustCompile(`"msg":"ssed: ready","after":"[0-9.]+m?s"`)
	in.eventually("the end of it in the log", func() bool { return told.MatchString(in.Log()) })
}

// TestRedisRestartsUnderOpenStreams: streams stay open, are told of the stretch
// that nobody saw, and go on.
func TestRedisRestartsUnderOpenStreams(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"data lost": nil, "data kept": {"--appendonly", "yes"}} {
		t.Run(name, func(t *testing.T) {
			r := redistest.Start(t, args...)
			in := startRedis(t, r, "--gap-wait", "250ms")
			s := connect(t, in, "", "a")
			newPublisher(t, r).publish("a", "before")
			s.want("before")

			require.NoError(t, r.Restart())
			in.eventually("resync", func() bool { return in.metric("ssed_log_spans_total") == 2 && in.isReady() })
			newPublisher(t, r).publish("a", "after")
			s.wantAfterGap("after")
			back := connect(t, in, s.lastID, "a")
			newPublisher(t, r).publish("a", "more")
			s.want("more")
			back.want("more")
		})
	}
}

func TestFlushAllUnderOpenStreams(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.publish("a", "before")
	s.want("before")
	_, err := r.Do("FLUSHALL")
	require.NoError(t, err)
	in.eventually("new epoch", func() bool { return in.metric("ssed_feed_epochs_total") > 0 })
	p.publish("a", "after")
	s.wantAfterGap("after")
	from := s.lastID
	p.publish("a", "more")
	s.want("more")
	connect(t, in, from, "a").want("more")
}

// wantAfterGap takes gap events until the message comes.
func (s *eventStream) wantAfterGap(data string) {
	s.t.Helper()
	for {
		m, ok := s.next()
		require.True(s.t, ok, "the stream ended before %q", data)
		if m.kind == sseproto.EventGap {
			continue
		}
		require.Equal(s.t, data, m.data)
		return
	}
}

// TestKilledLinksLoseNothing: while another instance is linked and writes the
// history, the streams of the one whose links are cut go on without a hole.
func TestKilledLinksLoseNothing(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one, two := startRedis(t, r, "--history-max", "100000"), startRedis(t, r, "--history-max", "100000")
	p := newPublisher(t, r)
	a, b := connect(t, one, "", "a"), connect(t, two, "", "a")
	var enough atomic.Bool
	published := 0
	var work sync.WaitGroup
	work.Go(func() {
		for !enough.Load() {
			p.numbers("a", published, published+20)
			published += 20
		}
	})
	for cuts := range 4 {
		killFirstSubscriber(t, r) // the other instance than last time: the new link is the youngest
		one.eventually("linked again", func() bool {
			spans := one.metric("ssed_log_spans_total") + two.metric("ssed_log_spans_total")
			return spans >= float64(3+cuts) && one.metric("ssed_feed_links")+two.metric("ssed_feed_links") == 2
		})
	}
	enough.Store(true)
	work.Wait()
	a.wantNumbers(0, published)
	b.wantNumbers(0, published)
	require.Equal(t, a.lastID, b.lastID)
	require.GreaterOrEqual(t, one.metric("ssed_feed_resyncs_total")+two.metric("ssed_feed_resyncs_total"), 4.0)
}

// killFirstSubscriber cuts the oldest pub/sub link.
func killFirstSubscriber(t *testing.T, r *redistest.Server) {
	list, err := r.Do("CLIENT", "LIST", "TYPE", "pubsub")
	require.NoError(t, err)
	for field := range strings.FieldsSeq(list.(string)) {
		if id, found := strings.CutPrefix(field, "id="); found {
			_, err := r.Do("CLIENT", "KILL", "ID", id)
			require.NoError(t, err)
			return
		}
	}
	t.Error("no subscriber to kill")
}

// TestKilledWriterIsReplaced: the instance that writes the history dies; another
// one takes over with nothing lost or doubled.
func TestKilledWriterIsReplaced(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	one := startRedis(t, r, "--history-max", "1000")
	two := startRedis(t, r, "--history-max", "1000")
	p := newPublisher(t, r)
	s := connect(t, two, "", "a")
	p.numbers("a", 0, 200)
	one.kill()
	p.numbers("a", 200, 400)
	s.want("0")
	from := s.lastID
	s.wantNumbers(1, 400)
	two.written(r, s.lastID)
	require.EqualValues(t, 1, two.metric("ssed_history_writer"))
	entries, err := r.Do("XLEN", "sse:stream:a")
	require.NoError(t, err)
	require.EqualValues(t, 400, entries)
	connect(t, two, from, "a").wantNumbers(1, 400)
}

// TestReconnectingClientGetsEachMessageOnce: a client leaves and comes back twelve
// times under load, each time to the other instance.
func TestReconnectingClientGetsEachMessageOnce(t *testing.T) {
	t.Parallel()
	const n, visits = 9000, 13
	r := redistest.Start(t)
	instances := []*instance{
		startRedis(t, r, "--history-max", "10000"),
		startRedis(t, r, "--history-max", "10000", "--ring-bytes", "256KiB"),
	}
	p := newPublisher(t, r)
	s := connect(t, instances[0], "", "a", "b")
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() {
		for i := range n / 10 {
			p.numbers([]string{"a", "b"}[i%2], 10*i, 10*(i+1))
		}
	})
	next := 0
	for visit := range visits {
		leave := (visit + 1) * n / visits
		s.wantNumbers(next, leave)
		next = leave
		if visit < visits-1 {
			s.close()
			s = connect(t, instances[(visit+1)%2], s.lastID, "a", "b")
		}
	}
	require.Equal(t, n, next)
}

func TestForeignPatternsAreRefusedAtStart(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	startRedis(t, r)
	in := launch(t, "--redis-url", r.URL(), "--patterns", "other:*")
	require.Equal(t, exitFailed, in.wait())
	require.Contains(t, in.Log(), "other:*")
}

// TestDrainFlushesTheHistory: what came in until the end is in Redis.
func TestDrainFlushesTheHistory(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms", "--flush-interval", "1s", "--history-max", "1000")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.numbers("a", 0, 500)
	s.wantNumbers(0, 500)
	in.endKeeping(t, r, 500)
}

// endKeeping ends the instance in order, and finds so many messages of the channel a in the history.
func (in *instance) endKeeping(t *testing.T, r *redistest.Server, messages int) {
	t.Helper()
	in.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, in.wait())
	length, err := r.Do("XLEN", "sse:stream:a")
	require.NoError(t, err)
	require.EqualValues(t, messages, length)
}

// TestStopRightAfterABurstKeepsIt: nobody has committed it, and nobody else will write it.
func TestStopRightAfterABurstKeepsIt(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--tick-interval", "5s", "--probe-timeout", "20s", "--history-max", "1000", "--drain", "1ms")
	newPublisher(t, r).numbers("a", 0, 500)
	in.endKeeping(t, r, 500)
}

func TestDrainEndsInTimeWithRedisFrozen(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms")
	connect(t, in, "", "a")
	newPublisher(t, r).publish("a", "x")
	require.NoError(t, r.Pause())
	defer func() { require.NoError(t, r.Resume()) }()
	in.Signal(syscall.SIGTERM)
	require.Equal(t, exitOK, in.wait(), "a drain that hangs does not end so")
}

// TestOperatorsAreToldNoNamesOfPackages: in the log, at /ready and in the answer to a message,
// while the history cannot be written and when Redis is away.
func TestOperatorsAreToldNoNamesOfPackages(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--log-level", "debug")
	var told []string
	_, err := r.Do("EVAL", "redis.call('DEL', KEYS[1]) return redis.call('SADD', KEYS[1], 'of another type')", "1", "{sse:stream:}:writer")
	require.NoError(t, err)
	in.eventually("the reason", func() bool {
		_, body := in.get(in.admin + "/ready")
		told = append(told, body)
		return strings.Contains(body, "the history is not written")
	})
	r.Stop()
	in.eventually("not ready", func() bool {
		status, body := in.get(in.admin + "/ready")
		told = append(told, body)
		return status == http.StatusServiceUnavailable
	})
	resp, err := httpClient.Post(in.admin+"/publish?channel_id=a", "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	in.eventually("it is logged", func() bool { return strings.Contains(in.Log(), "ssed: not ready") })
	for _, text := range append(told, string(body), in.Log()) {
		require.NotRegexp(t, `\b(rsub|rstore|engine|fleet|front|redisconn): `, text)
	}
}
