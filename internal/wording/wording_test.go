package wording

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNamesOfPackagesAreLeftOut(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		require.Equal(t, want, Plain(text))
	}
	f("rsub: publish: EOF", "publish: EOF")
	f("not confirmed by Redis: rsub: publish: rstore: xrange: EOF", "not confirmed by Redis: publish: xrange: EOF")
	f("redis: dial tcp 127.0.0.1:6379: connect: connection refused", "redis: dial tcp 127.0.0.1:6379: connect: connection refused")
	f("", "")
}
