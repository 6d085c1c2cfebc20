package sseproto

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestChannelIDsAreDecodedAndFolded(t *testing.T) {
	f := func(query string, want ...string) {
		t.Helper()
		got, err := ChannelIDs([]string{"kept"}, []byte(query), 3)
		require.NoError(t, err, query)
		require.Equal(t, append([]string{"kept"}, want...), got, query)
	}
	f("channel_id=a", "a")
	f("foo=1&channel_id=a&&bar", "a")
	f("channel_id=b&channel_id=a&channel_id=b&channel_id=%61&channel_id=c", "b", "a", "c")
	f("%63hannel_id=a&channel%5Fid=b", "a", "b")
	f("channel_id=a%2Bb+c%20d", "a+b c d")
	f("channel_id=%7euser%7E", "~user~")
	f("channel_id=a=b", "a=b")
	f("channel_id=*[^?]\\;x", "*[^?]\\;x")
	f("channel_id=%0a%0d%ff", "\n\r\xff")
	f("channel_id=I\xe2\x80\x99m", "I’m")
	f("channel_id=kept", "kept")
	f("channel_id[]=a&channel_id%5B%5D=b&channel_id=c&channel_id[]=a", "a", "b", "c")
	f("channel_id="+strings.Repeat("%63", 255), strings.Repeat("c", 255))
}

func TestChannelIDsRefusals(t *testing.T) {
	f := func(query string, want error) {
		t.Helper()
		got, err := ChannelIDs([]string{"kept"}, []byte(query), 3)
		require.ErrorIs(t, err, want, query)
		require.Equal(t, 400, StatusOf(err))
		require.Equal(t, []string{"kept"}, got)
	}
	f("", ErrNoChannel)
	f("channel_id[0]=a&channel_id[=a", ErrNoChannel)
	f("channel_id2=a&Channel_id=a&channel_i=a&=a&channel+id=a", ErrNoChannel)
	f("channel_id", ErrBadChannel)
	f("channel_id=", ErrBadChannel)
	f("channel_id=a&channel_id=", ErrBadChannel)
	f("channel_id=a%00b", ErrBadChannel)
	f("channel_id="+strings.Repeat("c", 256), ErrBadChannel)
	f("channel_id="+strings.Repeat("c", 4000), ErrBadChannel)
	f("channel_id=a&channel_id=b&channel_id=c&channel_id=d", ErrTooManyChannels)
	for _, bad := range []string{"%", "%4", "%zz", "%4g", "%%41", "%-1", "%u0041"} {
		f("channel_id=a"+bad, ErrBadEscape)
		f("channel_id=a&other="+bad, ErrBadEscape)
		f("channel_id=a&"+bad+"=x", ErrBadEscape)
	}
}

func TestQueryParamFindsTheFirst(t *testing.T) {
	f := func(query, name, want string, ok bool) {
		t.Helper()
		got, gotOK := QueryParam([]byte(">"), []byte(query), name)
		require.Equal(t, ok, gotOK, query)
		require.Equal(t, ">"+want, string(got), query)
	}
	f("a=1&token=x%2Fy&token=z", "token", "x/y", true)
	f("t%6Fken=", "token", "", true)
	f("token", "token", "", true)
	f("tokens=1&toke=2", "token", "", false)
	f("", "token", "", false)
	f("=x", "", "x", true)
}

func TestLastEventIDPrefersTheHeader(t *testing.T) {
	f := func(query, lines, want string) {
		t.Helper()
		req := mustParse(t, "GET /?"+query+" HTTP/1.1\r\nHost: h\r\n"+lines+"\r\n")
		got, ok := req.LastEventID(nil)
		require.Equal(t, want != "", ok)
		require.Equal(t, want, string(got))
	}
	f("", "", "")
	f("last_event_id=5-1", "", "5-1")
	f("lastEventId=5%2D1", "", "5-1")
	f("lastEventId=6&last_event_id=5", "", "5")
	f("lastEventId=6&last_event_id=", "", "6")
	f("last_event_id=5", "last-event-id: 7\r\n", "7")
	f("last_event_id=5", "Last-Event-ID:\r\n", "5")
	f("", "Last-Event-ID: \xff\xfe\r\n", "\xff\xfe")
}

func FuzzQuery(f *testing.F) {
	for _, q := range []string{"channel_id=a&channel_id=b", "%63hannel_id=a+b%2B", "a=%zz", "channel_id=%00", "a;b=c", "&&=&a", "last_event_id=1"} {
		f.Add([]byte(q))
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		ids, err := ChannelIDs(nil, query, 8)
		theirs, theirErr := url.ParseQuery(string(query))
		require.Equal(t, CheckQuery(query) != nil, err == ErrBadEscape) //nolint:errorlint // identity is what is promised
		if err == nil {
			require.NotEmpty(t, ids)
			for _, id := range ids {
				require.True(t, len(id) > 0 && len(id) <= MaxChannelBytes && !strings.ContainsRune(id, 0))
			}
		}
		if theirErr != nil || CheckQuery(query) != nil {
			return
		}
		// net/http agrees pair by pair, also on what is no channel.
		seen := map[string]int{}
		for rawName, rawValue := range QueryParams(query) {
			name := string(AppendUnescaped(nil, rawName))
			value := string(AppendUnescaped(nil, rawValue))
			require.Less(t, seen[name], len(theirs[name]))
			require.Equal(t, theirs[name][seen[name]], value)
			require.True(t, unescapesTo(rawName, name))
			if seen[name] == 0 {
				first, ok := QueryParam(nil, query, name)
				require.True(t, ok)
				require.Equal(t, value, string(first))
			}
			seen[name]++
		}
		require.Len(t, theirs, len(seen))
		if err == nil {
			require.Subset(t, theirs[ParamChannelID], ids)
		}
		require.Equal(t, utf8.Valid(query), utf8.ValidString(string(query)))
	})
}
