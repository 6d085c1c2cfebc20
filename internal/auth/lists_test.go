package auth

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAllowAndDenyListsDecideByChannel(t *testing.T) {
	f := func(allow, deny []string, query string, ok bool) {
		t.Helper()
		a := open(t, Config{ChannelsAllow: allow, ChannelsDeny: deny})
		r := asking(t, "/sse/connect?"+query)
		if ok {
			require.Equal(t, r.Channels, admitted(t, a, r).Channels)
			return
		}
		d := refused(t, a, r, http.StatusForbidden, RefusedList)
		require.Empty(t, d.Fields)
	}
	f(nil, nil, "channel_id=anything", true)
	f([]string{"news:*"}, nil, "channel_id=news:a", true)
	f([]string{"news:*", "user:?"}, nil, "channel_id=news:a&channel_id=user:1", true)
	f([]string{"news:*"}, nil, "channel_id=news:a&channel_id=user:1", false)
	f([]string{"news:*"}, nil, "channel_id=user:1", false)
	f(nil, []string{"internal:*"}, "channel_id=news:a", true)
	f(nil, []string{"internal:*"}, "channel_id=news:a&channel_id=internal:x", false)
	f([]string{"*"}, []string{"internal:*"}, "channel_id=internal:x", false) // deny wins
	f([]string{"internal:x"}, []string{"internal:*"}, "channel_id=internal:x", false)
	f(nil, []string{"internal:*"}, "channel_id=%69nternal:x", false)
}

func TestListsComeBeforeTokensAndService(t *testing.T) {
	deny := []string{"user:42"}
	a := withSecret(t, func(cfg *Config) { cfg.ChannelsDeny = deny })
	refused(t, a, withToken(t, hs256(t, good())), http.StatusForbidden, RefusedList)
	refused(t, a, asking(t, forNews), http.StatusForbidden, RefusedList)
	refused(t, a, asking(t, "/sse/connect?channel_id=news:a"), http.StatusUnauthorized, RefusedNoToken)
	admitted(t, a, asking(t, "/sse/connect?channel_id=news:a", "Authorization: Bearer "+hs256(t, good())))

	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer s.Close()
	a = open(t, Config{URL: s.URL, ChannelsDeny: deny})
	refused(t, a, asking(t, forNews), http.StatusForbidden, RefusedList)
	require.Zero(t, asked.Load())
	admitted(t, a, asking(t, "/sse/connect?channel_id=news:a"))
	require.EqualValues(t, 1, asked.Load())
}
