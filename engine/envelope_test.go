package engine

import (
	"bufio"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func withEnvelopes(cfg *Config) { cfg.Envelope = true }

// given collects what a history writer would get, with its strings copied.
func given(l *Log, after sseproto.ID) (all []sseproto.Message) {
	l.ReadCommitted(after, 1000, 1<<20, func(_ sseproto.ID, _ string, m sseproto.Message, _ sseproto.ID) {
		all = append(all, sseproto.Message{Event: strings.Clone(m.Event), ID: strings.Clone(m.ID), Retry: m.Retry, Data: strings.Clone(m.Data)})
	})
	return all
}

// TestHistoryWriterGetsWhatThePublisherGave, also what its frame cannot tell.
func TestHistoryWriterGetsWhatThePublisherGave(t *testing.T) {
	messages := []sseproto.Message{
		{Data: "plain"},
		{Data: "two\r\nlines\r"},
		{Event: "order.paid", ID: "order-17", Retry: 5 * time.Second, Data: "x"},
		{Event: "order.paid", ID: "a/b", Data: "\r\n"},
		{Event: "é", Data: "one\ntwo\n"},
		{Retry: time.Millisecond},
	}
	e := startEngine(t, withEnvelopes)
	f := startFeed(e, 1000)
	for _, m := range messages {
		f.publish("a", string(sseproto.AppendEnvelope(nil, m)))
	}
	f.publish("a", "raw \xff\r")
	f.tick(sseproto.ID{})
	require.Equal(t, append(messages, sseproto.Message{Data: "raw \xff\r"}), given(e.log, sseproto.ID{Ms: 1000}))
	require.EqualValues(t, len(messages), e.Stats().Log.Unwrapped)
}

func TestRefusedEnvelopesAreDeliveredAsTheyAreAndCounted(t *testing.T) {
	e := startEngine(t, withEnvelopes)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	for _, payload := range []string{`{"event":"gap","data":"x"}`, `{"id":"a b","data":"x"}`, `{"data":"x","text":"y"}`} {
		id := f.publish("a", payload)
		require.Equal(t, event{id.String(), "message", payload}, c.next(1)[0])
	}
	require.EqualValues(t, 2, e.Stats().Log.Refused)
	require.Zero(t, e.Stats().Log.Unwrapped)
}

func TestEnvelopesStayClosedByDefault(t *testing.T) {
	e := startEngine(t, nil)
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	const payload = `{"event":"e","data":"x"}`
	f.publish("a", payload)
	require.Equal(t, payload, c.next(1)[0].data)
}

// TestHeldBackEnvelopesAreTakenApartOnce: what comes in while a discontinuity is backfilled
// is a typed event afterwards too.
func TestHeldBackEnvelopesAreTakenApartOnce(t *testing.T) {
	h := newMemoryHistory()
	h.block = make(chan struct{})
	e := startEngine(t, func(cfg *Config) { cfg.History, cfg.Envelope = h, true })
	f := startFeed(e, 1000)
	c := joined(t, e, resumePoint{}, "a")
	f.tick(sseproto.ID{Ms: 1000})
	e.log.CloseSpan(sseproto.ID{Ms: 1100})
	missed := sseproto.Message{Event: "missed", ID: "m/1", Retry: time.Second, Data: "1\r"}
	h.store(sseproto.ID{Ms: 1200, Seq: 1}, "a", missed)
	again := startFeed(e, 2000)
	heldBack := sseproto.Message{Event: "staged", ID: "s/1", Data: "2"}
	id := again.publish("a", string(sseproto.AppendEnvelope(nil, heldBack)))
	again.tick(sseproto.ID{Ms: 2000})
	close(h.block)
	require.Equal(t, []event{decoded(sseproto.ID{Ms: 1200, Seq: 1}, missed), decoded(id, heldBack)}, c.next(2))
	require.EqualValues(t, 1, e.Stats().Log.Unwrapped)
	require.Equal(t, []sseproto.Message{heldBack}, given(e.log, sseproto.ID{Ms: 2000}))
}

// TestRecordsOfMessagesDoNotGrow: the ring has one for each message.
func TestRecordsOfMessagesDoNotGrow(t *testing.T) {
	require.Equal(t, 48, entryBytes)
}

// linesAfter returns the first lines of a stream that goes on from an ID, without the
// retry line, asked for by the header and by the query.
func linesAfter(t *testing.T, s *served, lastID string, n int) string {
	t.Helper()
	byHeader := getStream("a", "Last-Event-ID: "+lastID)
	byQuery := getStream("a&last_event_id=" + strings.ReplaceAll(lastID, "/", "%2F"))
	var got [2]string
	for i, request := range []string{byHeader, byQuery} {
		w := s.dial().Send(request)
		body := bufio.NewReader(w.Answer("GET").Body)
		for k := range n + 1 {
			line, err := body.ReadString('\n')
			require.NoError(t, err)
			if k > 0 {
				got[i] += line
			}
		}
		require.NoError(t, w.Close())
	}
	require.Equal(t, got[0], got[1])
	return got[0]
}

func TestPublishersIDDoesNotMoveAClient(t *testing.T) {
	s := serveEngine(t, Config{Envelope: true})
	f := startFeed(s.Engine, 1000)
	f.publish("a", `{"id":"order/17","data":"1"}`)
	f.publish("a", `{"id":"order/18","data":"2"}`)
	long := strings.Repeat("~", sseproto.MaxPublisherIDBytes)
	for _, lastID := range []string{"1000-1", "1000-1/order/17", "1000-1/another", "1000-1/", "1000-1/" + long} {
		require.Equal(t, "id: 1000-2/order/18\ndata: 2\n\n", linesAfter(t, s, lastID, 3), lastID)
	}
	told := linesAfter(t, s, "999-1/"+long, 4)
	require.Equal(t, "id: 1000-0\nevent: gap\n"+
		`data: {"reason":"trimmed","requested":"999-1/`+long+`","oldest":"1000-0"}`+"\n\n", told)
	require.Contains(t, linesAfter(t, s, "order/17", 4), `{"reason":"unknown-id","requested":"order/17"}`)
}
