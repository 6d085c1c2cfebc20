package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

func TestInboxOfAnotherPrefixIsFound(t *testing.T) {
	r := redistest.Start(t)
	require.Equal(t, OK, ofRedis(t, useOf(r))["redis inbox"].Status)
	do(t, r, "SET", "sse:inbox:owner", "sse:stream:")
	require.Equal(t, OK, ofRedis(t, useOf(r))["redis inbox"].Status)
	do(t, r, "SET", "sse:inbox:owner", "other:")
	result := ofRedis(t, useOf(r))["redis inbox"]
	require.Equal(t, Fail, result.Status)
	require.Contains(t, result.Text, "other:")
	require.Contains(t, result.Text, "sse:stream:")
}

// TestEntriesThatNobodyTakesAreFound: backends still add to the inbox of earlier versions.
func TestEntriesThatNobodyTakesAreFound(t *testing.T) {
	r := redistest.Start(t)
	use := useOf(r)
	use.Prefix, use.Inbox = "chat:", "inbox:chat:"
	require.Equal(t, OK, ofRedis(t, use)["redis inbox"].Status)
	do(t, r, "XADD", "sse:inbox", "*", "channel", "a", "data", "x")
	result := ofRedis(t, use)["redis inbox"]
	require.Equal(t, Warn, result.Status)
	require.Contains(t, result.Fix, "--inbox=sse:inbox")
	do(t, r, "SET", "sse:inbox:owner", "sse:stream:")
	require.Equal(t, OK, ofRedis(t, use)["redis inbox"].Status, "others do")
}
