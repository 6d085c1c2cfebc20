package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed/sseproto"
)

func on(channel string, m sseproto.Message) Message { return Message{channel, m} }

// numbered numbers messages and keeps them.
func numbered(t *testing.T, change func(*Config)) (http.Handler, *[]Message) {
	t.Helper()
	got := new([]Message)
	h, _ := handler(t, func(cfg *Config) {
		cfg.MaxMessageBytes = 64
		cfg.Publish = func(_ context.Context, messages []Message) []PublishResult {
			results := make([]PublishResult, len(messages))
			for i := range messages {
				results[i] = PublishResult{ID: sseproto.ID{Ms: 5, Seq: uint64(len(*got) + i)}.String(), Receivers: 2}
			}
			*got = append(*got, messages...)
			return results
		}
		if change != nil {
			change(cfg)
		}
	})
	return h, got
}

func TestPublishAnswersWithTheResult(t *testing.T) {
	f := func(result PublishResult, status int, body string) {
		t.Helper()
		h, _ := handler(t, func(cfg *Config) {
			cfg.Publish = func(context.Context, []Message) []PublishResult { return []PublishResult{result} }
		})
		r := do(h, "POST", "/publish?channel_id=a", "x")
		require.Equal(t, status, r.StatusCode)
		require.JSONEq(t, body, bodyOf(t, r))
		r = do(h, "POST", "/api/send", `{"channel_id":"a","data":"x"}`)
		require.Equal(t, status, r.StatusCode)
		require.JSONEq(t, body, bodyOf(t, r))
	}
	f(PublishResult{ID: "5-1", Embedded: true}, 200, `{"id":"5-1"}`)
	f(PublishResult{ID: "5-1", Receivers: 3}, 200, `{"id":"5-1","receivers":3}`)
	f(PublishResult{Receivers: 3}, 202, `{"receivers":3}`)
	f(PublishResult{}, 202, `{"receivers":0}`)
	f(PublishResult{Err: errors.New("not confirmed")}, 503, `{"error":"not confirmed"}`)
	f(PublishResult{Err: Refuse(413, "too large")}, 413, `{"error":"too large"}`)
}

func TestPublishTakesTheRestOfAMessageFromTheQuery(t *testing.T) {
	h, got := numbered(t, nil)
	r := do(h, "POST", "/publish?channel_id=a&event=order&id=o-17&retry=1500&other=x", "hello")
	require.Equal(t, 200, r.StatusCode, bodyOf(t, r))
	require.Equal(t, []Message{on("a", sseproto.Message{Event: "order", ID: "o-17", Retry: 1500 * time.Millisecond, Data: "hello"})}, *got)
	*got = nil
	r = do(h, "POST", "/publish?channel_id=a;b&event=x;+%C3%A9&event=second", "hello")
	require.Equal(t, 200, r.StatusCode, bodyOf(t, r))
	require.Equal(t, []Message{on("a;b", sseproto.Message{Event: "x; é", Data: "hello"})}, *got)
}

func TestPublishRefusesWhatNoEventCanHave(t *testing.T) {
	h, got := numbered(t, nil)
	for _, query := range []string{
		"event=gap", "event=a%0Ab", "event=" + strings.Repeat("x", 129), "id=a+b", "id=%C3%A9", "event=%zz",
		"retry=-1", "retry=1.5", "retry=soon", "retry=86400001",
	} {
		require.Equal(t, 400, do(h, "POST", "/publish?channel_id=a&"+query, "x").StatusCode, query)
	}
	require.Empty(t, *got)
}

// FuzzSend: what is taken can be sent.
func FuzzSend(f *testing.F) {
	f.Add(`{"channel_id":"a","data":"x"}`)
	f.Add(`{"channel_id":"a","event_type":"t","data":{"a":[1]},"id":"7","retry":1500}`)
	f.Add(`{"channel_id":"a","data":"\ud800\u0000"}`)
	f.Add(`{"channel_id":"a","data":"x"}{}`)
	a := New(Config{MaxMessageBytes: 32, Metrics: http.NotFoundHandler()})
	f.Fuzz(func(t *testing.T, text string) {
		m, err := a.decode([]byte(text))
		if err != nil {
			status, _ := verdict(err)
			require.Contains(t, []int{400, 413}, status)
			return
		}
		require.True(t, json.Valid([]byte(text)))
		require.NoError(t, m.Check())
		require.NoError(t, checkChannel(m.Channel))
		require.LessOrEqual(t, len(m.Data), 32)
	})
}

func TestSendTakesOneStrictObject(t *testing.T) {
	h, got := numbered(t, nil)
	f := func(body string, want Message) {
		t.Helper()
		*got = nil
		r := do(h, "POST", "/api/send", body)
		require.Equal(t, 200, r.StatusCode, bodyOf(t, r))
		require.Equal(t, []Message{want}, *got)
	}
	f(`{"channel_id":"a","data":"x"}`, on("a", sseproto.Message{Data: "x"}))
	f(" {\"channel_id\":\"a\",\"data\":\"\"}\r\n", on("a", sseproto.Message{}))
	f(`{"channel_id":"a","event_type":"t","data":"é\n","id":"7","retry":1500}`,
		on("a", sseproto.Message{Event: "t", ID: "7", Retry: 1500 * time.Millisecond, Data: "é\n"}))
	f(`{"channel_id":"a","data":{"n": [1, 2]}}`, on("a", sseproto.Message{Data: `{"n": [1, 2]}`}))
	f(`{"channel_id":"a","data":17}`, on("a", sseproto.Message{Data: "17"}))
	f(`{"channel_id":"a","data":"`+strings.Repeat(`\u0041`, 64)+`"}`, on("a", sseproto.Message{Data: strings.Repeat("A", 64)}))

	refused := func(status int, body string) {
		t.Helper()
		*got = nil
		r := do(h, "POST", "/api/send", body)
		require.Equal(t, status, r.StatusCode, body)
		require.Contains(t, bodyOf(t, r), `"error"`)
		require.Empty(t, *got)
	}
	for _, body := range []string{
		"", "x", "[]", "null", `{"channel_id":"a"}`, `{"data":"x"}`, `{"channel_id":"","data":"x"}`, `{"channel_id":"a","data":null}`,
		`{"channel_id":"a","data":"x"}{}`, `{"channel_id":"a","data":"x"} x`, `{"channel_id":"a","data":"x","unknown":1}`,
		`{"channel_id":7,"data":"x"}`, `{"channel_id":"__ssed:x","data":"x"}`, `{"channel_id":"a\u0000","data":"x"}`,
		`{"channel_id":"a","data":"x","retry":-1}`, `{"channel_id":"a","data":"x","retry":1.5}`, `{"channel_id":"a","data":"x","retry":1e30}`,
		`{"channel_id":"a","data":"x","retry":99999999999999999}`, `{"channel_id":"a","data":"x","retry":86400001}`,
		`{"channel_id":"a","data":"x","event_type":"gap"}`, `{"channel_id":"a","data":"x","event_type":"a
b"}`, `{"channel_id":"a","data":"x","id":"a b"}`,
		`{"channel_id":"` + strings.Repeat("x", 256) + `","data":"x"}`,
	} {
		refused(400, body)
	}
	refused(413, `{"channel_id":"a","data":"`+strings.Repeat("A", 65)+`"}`)
	refused(413, `{"channel_id":"a","data":"`+strings.Repeat("A", 10_000)+`"}`)
}

// lines of a batch and of its answer.
func lines(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}

func TestBatchAnswersLineByLine(t *testing.T) {
	h, got := numbered(t, nil)
	r := do(h, "POST", "/api/batch", `{"channel_id":"a","data":"1"}
oops

{"channel_id":"b","data":"2"}
{"channel_id":"__x","data":"2"}
{"channel_id":"a","data":"3"}`)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "application/x-ndjson", r.Header.Get("Content-Type"))
	answers := strings.Split(strings.TrimSpace(bodyOf(t, r)), "\n")
	require.Len(t, answers, 5, "one per line that is not empty")
	for i, want := range []string{"5-0", "", "5-1", "", "5-2"} {
		var answer struct{ ID, Error string }
		require.NoError(t, json.Unmarshal([]byte(answers[i]), &answer))
		require.Equal(t, want, answer.ID)
		require.Equal(t, want == "", answer.Error != "")
	}
	require.Equal(t, []Message{
		on("a", sseproto.Message{Data: "1"}), on("b", sseproto.Message{Data: "2"}), on("a", sseproto.Message{Data: "3"}),
	}, *got)
}

// TestBatchOfAnArrayIsAnsweredByOne: and where the array is none, nothing is published.
func TestBatchOfAnArrayIsAnsweredByOne(t *testing.T) {
	h, got := numbered(t, nil)
	r := do(h, "POST", "/api/batch", ` [{"channel_id":"a","data":"1"}, 7, {"channel_id":"__x","data":""},
		{"channel_id":"b","data":[1,2]}] `)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	var answers []struct{ ID, Error string }
	require.NoError(t, json.Unmarshal([]byte(bodyOf(t, r)), &answers))
	require.Len(t, answers, 4)
	for i, want := range []string{"5-0", "", "", "5-1"} {
		require.Equal(t, want, answers[i].ID)
		require.Equal(t, want == "", answers[i].Error != "")
	}
	require.Equal(t, []Message{on("a", sseproto.Message{Data: "1"}), on("b", sseproto.Message{Data: "[1,2]"})}, *got)

	*got = nil
	many := strings.Repeat(`{"channel_id":"a","data":""},`, maxBatchLines)
	for body, status := range map[string]int{
		`[`: 400, `[]]`: 400, `[] []`: 400, `[{"channel_id":"a","data":"1"}`: 400, `[{"channel_id":"a","data":"1"}, oops]`: 400,
		`[{"channel_id":"a","data":"1"} {"channel_id":"a","data":"1"}]`: 400, `[` + many + `{}]`: 413,
	} {
		r := do(h, "POST", "/api/batch", body)
		require.Equal(t, status, r.StatusCode, "%.50s", body)
		require.Empty(t, *got)
	}
	r = do(h, "POST", "/api/batch", `[]`)
	require.Equal(t, 200, r.StatusCode)
	require.JSONEq(t, `[]`, bodyOf(t, r))
	require.Equal(t, 200, do(h, "POST", "/api/batch", `[`+strings.TrimSuffix(many, ",")+`]`).StatusCode)
	require.Len(t, *got, maxBatchLines)
}

func TestBatchIsBounded(t *testing.T) {
	h, got := numbered(t, nil)
	f := func(status int, body string) {
		t.Helper()
		*got = nil
		r := do(h, "POST", "/api/batch", body)
		require.Equal(t, status, r.StatusCode)
		text := bodyOf(t, r)
		if status == 200 {
			require.Equal(t, len(*got), strings.Count(text, "\n"))
		} else {
			require.Empty(t, *got, "all or nothing")
		}
	}
	f(200, "")
	require.Empty(t, *got)
	f(200, lines(`{"channel_id":"a","data":"%d"}`, maxBatchLines))
	require.Len(t, *got, maxBatchLines)
	f(413, lines(`{"channel_id":"a","data":"%d"}`, maxBatchLines+1))
	f(200, `{"channel_id":"a","data":"x"}`+strings.Repeat("\n", 5000))
	f(413, strings.Repeat(" ", maxBatchBytes+1))
}
