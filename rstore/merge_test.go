package rstore

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

// mergedWorld is a history of some channels that the test has made entry by entry.
type mergedWorld struct {
	*world
	s        *Store
	channels []string
	upTo     sseproto.ID
}

// merged makes a history of the messages, which are in order.
func (w *world) merged(channels int, messages []message) *mergedWorld {
	w.t.Helper()
	upTo := w.id(100_000, 0)
	m := &mergedWorld{world: w, upTo: upTo}
	for i := range channels {
		m.channels = append(m.channels, fmt.Sprint("ch", i))
	}
	cfg := w.config("a")
	cfg.LeaseTTL = time.Hour // so that it runs no script while those of reads are counted
	m.s = w.written(cfg, upTo)
	for part := range slices.Chunk(messages, 500) {
		var cmds rueidis.Commands
		for _, e := range part {
			cmds = append(cmds, w.redis.B().Arbitrary("XADD", testPrefix+e.channel, e.id.String(), "event_type", "message", "data", e.data).Build())
		}
		for _, res := range w.redis.DoMulti(w.ctx(), cmds...) {
			require.NoError(w.t, res.Error())
		}
	}
	return m
}

// pages reads all behind after, page by page, and checks what holds for each.
func (m *mergedWorld) pages(after sseproto.ID, limit int64) (all []message, lost map[int][]string, pages int) {
	m.t.Helper()
	lost = make(map[int][]string)
	for after.Less(m.upTo) {
		r := &inOrder{recorder: newRecorder()}
		through, err := m.s.Merge(m.t.Context(), m.channels, nil, after, m.upTo, limit, r)
		require.NoError(m.t, err)
		require.True(m.t, after.Less(through), "a page gets on")
		for _, e := range r.all {
			if !after.Less(e.id) || through.Less(e.id) {
				require.Fail(m.t, "a page has another range", "%v is not in (%v, %v]", e.id, after, through)
			}
		}
		require.True(m.t, slices.IsSortedFunc(r.all, func(a, b message) int { return a.id.Compare(b.id) }))
		all = append(all, r.all...)
		for ch, list := range r.lost {
			lost[ch] = append(lost[ch], list...)
		}
		after = through
		pages++
	}
	return all, lost, pages
}

// inOrder records the events of all channels as they come.
type inOrder struct {
	*recorder
	all []message
}

func (r *inOrder) Event(ch int, id sseproto.ID, m sseproto.Message) {
	r.all = append(r.all, message{id, fmt.Sprint("ch", ch), strings.Clone(m.Data)})
}

// sentBytes is what Redis has sent to its clients so far.
func (w *world) sentBytes() int64 {
	w.t.Helper()
	info, err := w.do("INFO", "stats").ToString()
	require.NoError(w.t, err)
	_, rest, _ := strings.Cut(info, "total_net_output_bytes:")
	n, err := strconv.ParseInt(strings.TrimSpace(rest[:strings.IndexByte(rest, '\r')]), 10, 64)
	require.NoError(w.t, err)
	return n
}

func TestMergedPagesAreTheWholeHistoryInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var messages []message
	for i := range 3000 {
		ch := rng.IntN(8)
		if rng.IntN(3) == 0 {
			ch = 0 // one is larger than the others
		}
		messages = append(messages, message{w.id(1+i/700, 1+i%700), fmt.Sprint("ch", ch), strings.Repeat("x", 1<<rng.IntN(13))})
	}
	m := w.merged(10, messages) // two have nothing
	require.Greater(t, len(m.channels), glanceChannels)
	for _, limit := range []int64{1, 5_000, 200_000, 1 << 30} {
		all, lost, pages := m.pages(w.id(0, 0), limit)
		require.Equal(t, messages, all)
		require.Empty(t, lost)
		t.Logf("limit %d: %d pages", limit, pages)
	}
	all, _, _ := m.pages(messages[1234].id, 10_000)
	require.Equal(t, messages[1235:], all)
	for _, few := range []int{1, 3, 8} { // where the first look may be enough
		m.channels = m.channels[:few]
		want := slices.DeleteFunc(slices.Clone(messages), func(e message) bool { return !slices.Contains(m.channels, e.channel) })
		for _, after := range []sseproto.ID{w.id(0, 0), want[len(want)/2].id, want[len(want)-9].id} {
			for _, size := range []int64{0, glanceBytes + 1} {
				m.s.messageBytes.Store(size)
				all, lost, _ := m.pages(after, 20_000)
				require.Equal(t, slices.DeleteFunc(slices.Clone(want), func(e message) bool { return !after.Less(e.id) }), all)
				require.Empty(t, lost)
			}
		}
		m.channels = m.channels[:cap(m.channels)][:10]
	}
}

// The usual resume, few messages of few channels, takes no script; large ones take no
// second look in vain.
func TestSmallResumesAreReadAtAGlance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var messages []message
	for i := range 10 {
		messages = append(messages, message{w.id(1+i, 0), fmt.Sprint("ch", i%2), "small"})
	}
	for i := range 200 {
		messages = append(messages, message{w.id(100+i, 0), fmt.Sprint("ch", 2+i%2), strings.Repeat("x", 64<<10)})
	}
	m := w.merged(4, messages)
	all := m.channels
	require.NoError(t, w.do("CONFIG", "RESETSTAT").Error())
	m.channels = all[:2]
	for range 5 {
		got, _, _ := m.pages(w.id(0, 0), 1<<20)
		require.Len(t, got, 10)
	}
	require.Zero(t, w.calls("evalsha"))
	m.channels = all[2:]
	before := w.sentBytes()
	got, _, _ := m.pages(w.id(0, 0), 1<<20)
	require.Len(t, got, 200)
	require.Less(t, w.sentBytes()-before, int64(200*64<<10+4<<20), "one glance, of 2 MiB, and all once")
}

// Large messages on many channels: Redis sends each of them about once.
func TestMergeOfLargeHistoriesReadsThemOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const channels, each, size = 32, 12, 64 << 10
	var messages []message
	for i := range channels * each {
		messages = append(messages, message{w.id(1+i, 0), fmt.Sprint("ch", i%channels), strings.Repeat("x", size)})
	}
	slices.SortFunc(messages, func(a, b message) int { return cmp.Or(a.id.Compare(b.id)) })
	m := w.merged(channels, messages)
	before := w.sentBytes()
	const page = 1 << 20
	all, _, pages := m.pages(w.id(0, 0), page)
	sent := w.sentBytes() - before
	require.Len(t, all, len(messages))
	t.Logf("%d MiB in %d pages: Redis sent %d MiB", channels*each*size>>20, pages, sent>>20)
	require.Less(t, sent, int64(2*channels*each*size+page))
	require.LessOrEqual(t, pages, channels*each*size/page+1)
}

// 32 channels of 1,250 messages: ten times as many commands as for a tenth of it, not a hundred
// times.
func TestMergeOfLongHistoriesIsLinear(t *testing.T) {
	t.Parallel()
	commands := func(each int) (runs, entries int64) {
		w := newWorld(t)
		const channels = 32
		m := w.merged(channels, nil)
		fill := `for i = 1, ARGV[2] do for c = 0, 31 do
			redis.call('XADD', ARGV[1] .. c, (ARGV[3] + i) .. '-' .. (c + 1), 'data', 'some forty bytes that somebody may have sent')
		end end return 1`
		require.NoError(t, w.do("EVAL", fill, "0", testPrefix+"ch", fmt.Sprint(each), fmt.Sprint(w.base)).Error())
		require.NoError(t, w.do("CONFIG", "RESETSTAT").Error())
		all, _, _ := m.pages(w.id(0, 0), 1<<20)
		require.Len(t, all, channels*each)
		return w.calls("evalsha"), w.calls("xrange")
	}
	fewRuns, fewSteps := commands(125)
	manyRuns, manySteps := commands(1250)
	t.Logf("4,000 messages: %d runs, %d steps; 40,000: %d runs, %d steps", fewRuns, fewSteps, manyRuns, manySteps)
	require.LessOrEqual(t, manyRuns, 12*fewRuns)
	require.LessOrEqual(t, manySteps, 12*fewSteps)
}

// calls is how often a command was called since the last reset.
func (w *world) calls(command string) int64 {
	w.t.Helper()
	info, err := w.do("INFO", "commandstats").ToString()
	require.NoError(w.t, err)
	_, rest, found := strings.Cut(info, "cmdstat_"+command+":calls=")
	if !found {
		return 0
	}
	n, err := strconv.ParseInt(rest[:strings.IndexByte(rest, ',')], 10, 64)
	require.NoError(w.t, err)
	return n
}

// A resume with 32 channels takes a handful of commands, not two for each channel.
func TestMergeOfManyChannelsIsOneRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.merged(32, nil)
	require.NoError(t, w.do("CONFIG", "RESETSTAT").Error())
	_, _, pages := m.pages(w.id(0, 0), 1<<20)
	require.Equal(t, 1, pages)
	require.NoError(t, w.do("CONFIG", "RESETSTAT").Error())
	m.pages(w.id(0, 0), 1<<20)
	require.EqualValues(t, 1, w.calls("evalsha"))
	require.Zero(t, w.calls("eval"), "the server has the script")
}

// What is lost is told with the page in whose range it lies, once.
func TestLossIsToldWithItsPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var messages []message
	for i := range 40 {
		messages = append(messages, message{w.id(10*(i+1), 1), fmt.Sprint("ch", i%2), strings.Repeat("x", 1000)})
	}
	m := w.merged(3, messages)
	marker := fmt.Sprintf("%s %s outage a 1", w.id(201, 0), w.id(202, 0))
	require.NoError(t, w.do("RPUSH", "{"+testPrefix+"}:gaps", marker).Error())
	var told []sseproto.ID
	for after := w.id(0, 0); after.Less(m.upTo); {
		r := newRecorder()
		through, err := m.s.Merge(t.Context(), m.channels, nil, after, m.upTo, 3000, r)
		require.NoError(t, err)
		if len(r.lost) > 0 {
			told = append(told, after)
			require.Len(t, r.lost, 3, "all channels")
			require.True(t, after.Less(w.id(202, 0)) && w.id(201, 0).Less(through))
		}
		after = through
	}
	require.Len(t, told, 1)
}

func TestMergeTellsOfKeysThatAreNoStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.merged(glanceChannels+1, []message{{w.id(1, 1), "ch0", "a"}})
	require.NoError(t, w.do("SET", testPrefix+"ch1", "x").Error())
	for range 2 {
		all, lost, _ := m.pages(w.id(0, 0), 1<<20)
		require.Len(t, all, 1)
		require.Equal(t, map[int][]string{1: {sseproto.ReasonUnavailable}}, lost)
		m.channels = m.channels[:3] // at a glance
	}
}

func TestMergeWhenTheServerForgetsTheScript(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.merged(glanceChannels+1, []message{{w.id(1, 1), "ch0", "a"}})
	for range 3 {
		all, lost, _ := m.pages(w.id(0, 0), 1<<20)
		require.Len(t, all, 1)
		require.Empty(t, lost)
		require.NoError(t, w.do("SCRIPT", "FLUSH").Error())
	}
}
