package admin

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// inline returns the text of the only element of that name.
func inline(t *testing.T, page, element string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(page, "<"+element+">"))
	require.Equal(t, 1, strings.Count(page, "</"+element+">"))
	_, rest, _ := strings.Cut(page, "<"+element+">")
	text, _, _ := strings.Cut(rest, "</"+element+">")
	return text
}

func TestPageRunsOnlyWhatItBroughtAlong(t *testing.T) {
	h, _ := handler(t, nil)
	r := do(h, "GET", "/", "")
	page := bodyOf(t, r)
	require.Equal(t, 200, r.StatusCode)
	require.NotContains(t, page, "{{")
	policy := r.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none';")
	require.Contains(t, policy, "; script-src "+inlineHash(inline(t, page, "script")))
	require.Contains(t, policy, "; style-src "+inlineHash(inline(t, page, "style")))
	require.NotContains(t, policy, "unsafe")
	require.NotRegexp(t, `(?i)<[^>]*\s(style|on\w+)\s*=`, strings.ReplaceAll(page, inline(t, page, "script"), ""),
		"the policy forbids them: they would do nothing")
}

func TestPageNeedsNothingFromElsewhere(t *testing.T) {
	h, _ := handler(t, nil)
	page := bodyOf(t, do(h, "GET", "/", ""))
	for _, text := range []string{"http://", "https://", "@import", "url(", "@font-face"} {
		require.NotContains(t, page, text)
	}
	for _, place := range regexp.MustCompile(`(?:href|src)="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		require.Regexp(t, `^(#|/[a-z]|data:,)`, place[1])
	}
}

// TestPageHasNoWayFromTextToMarkup: names, payloads and event types come from anyone.
func TestPageHasNoWayFromTextToMarkup(t *testing.T) {
	h, _ := handler(t, nil)
	script := inline(t, bodyOf(t, do(h, "GET", "/", "")), "script")
	for _, text := range []string{
		"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "createContextualFragment", "setHTML",
		"srcdoc", "eval(", "Function(", "javascript:", "import(",
	} {
		require.NotContains(t, script, text)
	}
}

func TestPageReachesItselfAndTheStreamsOnly(t *testing.T) {
	f := func(streams, want, settings string) {
		t.Helper()
		h, _ := handler(t, func(cfg *Config) { cfg.Streams = streams })
		r := do(h, "GET", "/", "")
		require.Contains(t, r.Header.Get("Content-Security-Policy"), "; connect-src "+want+";")
		require.Contains(t, bodyOf(t, r), `value="`+settings+`"`)
	}
	f(":8080", "'self' *:8080", `{&#34;host&#34;:&#34;&#34;,&#34;port&#34;:&#34;8080&#34;,&#34;heartbeat_event&#34;:&#34;&#34;,&#34;max_last&#34;:0}`)
	f("[::]:8080", "'self' *:8080", `{&#34;host&#34;:&#34;&#34;,&#34;port&#34;:&#34;8080&#34;,&#34;heartbeat_event&#34;:&#34;&#34;,&#34;max_last&#34;:0}`)
	f("127.0.0.2:81", "'self' *:81", `{&#34;host&#34;:&#34;127.0.0.2&#34;,&#34;port&#34;:&#34;81&#34;,&#34;heartbeat_event&#34;:&#34;&#34;,&#34;max_last&#34;:0}`)
	h, _ := handler(t, func(cfg *Config) { cfg.HeartbeatEvent = `"><b>` })
	require.Contains(t, bodyOf(t, do(h, "GET", "/", "")), `heartbeat_event&#34;:&#34;\&#34;\u003e\u003cb\u003e&#34;,&#34;max_last&#34;:0}"`)
	f("", "'self'", `{&#34;host&#34;:&#34;&#34;,&#34;port&#34;:&#34;&#34;,&#34;heartbeat_event&#34;:&#34;&#34;,&#34;max_last&#34;:0}`)
}

// TestPageIsMadeOfAllItsParts: a script that nobody joins would be dead text.
func TestPageIsMadeOfAllItsParts(t *testing.T) {
	files, err := fs.ReadDir(dashboard, "dashboard")
	require.NoError(t, err)
	var found []string
	for _, file := range files {
		if strings.HasSuffix(file.Name(), ".js") {
			found = append(found, file.Name())
		}
	}
	require.ElementsMatch(t, slices.Clone(scripts), found)
}
