package ssed

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadinessIsToldWhenItChanges(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	r := readiness{log: slog.New(slog.NewTextHandler(&out, nil)), since: now}
	f := func(after time.Duration, ready bool, reason string, want string) {
		t.Helper()
		out.Reset()
		now = now.Add(after)
		r.look(now, ready, reason)
		require.Equal(t, want, strings.TrimSpace(regexp.MustCompile(`time=\S+ `).ReplaceAllString(out.String(), "")))
	}
	f(0, false, "waiting", "")
	f(900*time.Millisecond, false, "waiting", "")
	f(time.Second, false, "refused", `level=WARN msg="ssed: not ready" reason=refused`)
	f(time.Second, false, "refused", "")
	f(time.Second, false, "another port", "")
	f(10*time.Second, false, "wrong password", `level=WARN msg="ssed: not ready" reason="wrong password"`)
	f(time.Second, true, "", `level=INFO msg="ssed: ready" after=14.9s`)
	f(time.Hour, true, "", "")
	f(time.Second, false, "lost", `level=WARN msg="ssed: not ready" reason=lost`)
	f(8400*time.Millisecond, true, "", `level=INFO msg="ssed: ready" after=8.4s`)

	now = time.Unix(1000, 0)
	r = readiness{log: r.log, since: now}
	f(0, true, "", `level=INFO msg="ssed: ready" after=0s`)
}
