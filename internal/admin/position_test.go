package admin

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPositionIsThatOfTheLog(t *testing.T) {
	known := false
	h, _ := handler(t, func(cfg *Config) {
		cfg.Position = func() (string, bool) { return "1795431293042-0", known }
	})
	resp := do(h, "GET", "/api/position", "")
	require.Equal(t, 503, resp.StatusCode)
	require.JSONEq(t, `{"error":"no position yet: this instance has not heard of Redis"}`, bodyOf(t, resp))
	known = true
	resp = do(h, "GET", "/api/position", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.JSONEq(t, `{"id":"1795431293042-0"}`, bodyOf(t, resp))
	require.Equal(t, 405, do(h, "POST", "/api/position", "").StatusCode)
}
