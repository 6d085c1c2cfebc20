package ssed_test

import (
	"bufio"
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed"
)

// named grants everything to the subject that the request names.
type named struct{}

func (named) Authorize(_ context.Context, r *ssed.AuthRequest) (ssed.Grant, error) {
	return ssed.Grant{Channels: r.Channels, Subject: string(r.Request.Header("Subject"))}, nil
}

func TestDisconnectClosesAndKeepsOut(t *testing.T) {
	cfg := loopback()
	cfg.Auth, cfg.Feed.Instance = named{}, "alone"
	gateway, _ := serve(t, cfg)
	open := func(subject string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+gateway.Addrs()[0].String()+"/sse/connect?channel_id=a", nil)
		require.NoError(t, err)
		req.Header.Set("Subject", subject)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	anna, bert := open("anna"), open("bert")
	line, err := bufio.NewReader(bert.Body).ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^retry: \d+\n$`, line)
	f := func(m ssed.Match, keepOut time.Duration, want int64) {
		t.Helper()
		require.Eventually(t, func() bool { return gateway.Stats().Streams == gateway.Stats().Connections }, time.Minute, time.Millisecond)
		d, err := gateway.Disconnect(t.Context(), m, keepOut)
		require.NoError(t, err)
		require.Equal(t, ssed.Disconnected{Streams: want, Asked: 1, Instances: []ssed.DisconnectedAt{{Instance: "alone", Streams: want}}}, d)
	}
	f(ssed.Match{Subject: "carl"}, 0, 0)
	f(ssed.Match{Subject: "anna"}, time.Hour, 1)
	_, err = bufio.NewReader(anna.Body).ReadString('\x00')
	require.Error(t, err, "it has ended")
	require.Equal(t, http.StatusForbidden, open("anna").StatusCode)
	f(ssed.Match{Channel: "a", Subject: "bert"}, 0, 1)

	for m, keepOut := range map[ssed.Match]time.Duration{
		{Channel: "a"}:               time.Minute,
		{Subject: "a", Token: "b"}:   time.Minute,
		{Subject: "a"}:               -time.Minute,
		{Token: "a"}:                 ssed.MaxKeepOut + 1,
		{Subject: "a", Channel: "b"}: time.Minute,
	} {
		_, err := gateway.Disconnect(t.Context(), m, keepOut)
		require.ErrorIs(t, err, ssed.ErrKeepOut)
	}
	_, err = gateway.Disconnect(t.Context(), ssed.Match{}, 0)
	require.ErrorIs(t, err, ssed.ErrMatchesAll)
}
