//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// triedWith is a line of a document that names what a run tried, with versions. They do not
// decide whether the run is good: a newer version is no failure. A run prints them, and
// writes them together with the tables.
type triedWith struct {
	begin    string // of the line
	programs []triedProgram
}

// triedProgram is found in the ledger: its version is the first number behind the word after,
// or the first one at all.
type triedProgram struct{ shown, entry, after string }

var triedClients = []triedWith{
	{"* Browsers: ", []triedProgram{
		{"Chromium", "Chromium EventSource", ""},
		{"fetch-event-source", "npm @microsoft/fetch-event-source", ""},
		{"event-source-polyfill", "npm event-source-polyfill", ""},
		{"htmx", "npm htmx.org", ""},
		{"htmx-ext-sse", "npm htmx-ext-sse", ""},
	}},
	{"* ", []triedProgram{
		{"Node.js", "npm eventsource", "node"},
		{"eventsource", "npm eventsource", ""},
		{"undici", "npm undici", ""},
	}},
	{"* ", []triedProgram{
		{"Python", "PyPI httpx-sse", "python"},
		{"httpx", "PyPI httpx-sse", ", httpx"},
		{"httpx-sse", "PyPI httpx-sse", "httpx-sse"},
		{"sseclient-py", "PyPI sseclient-py", "sseclient-py"},
		{"requests", "Python requests iter_lines", "requests"},
		{"aiohttp", "PyPI aiohttp", "aiohttp"},
	}},
	{"* Others: ", []triedProgram{
		{"r3labs/sse", "Go r3labs/sse", ""},
		{"tmaxmax/go-sse", "Go tmaxmax/go-sse", ""},
		{"OkHttp", "OkHttp", ""},
		{"Java", "Java", ""},
		{"curl", "curl", ""},
	}},
}

var triedProxies = []triedWith{{"", []triedProgram{
	{"nginx", "nginx", ""},
	{"HAProxy", "HAProxy", ""},
	{"Caddy", "Caddy", ""},
	{"Apache", "Apache", ""},
	{"Varnish", "Varnish", ""},
	{"Squid", "Squid", ""},
	{"h2o", "h2o", ""},
	{"lighttpd", "lighttpd", ""},
	{"http-proxy", "npm http-proxy", ""},
	{"Vite", "npm vite", ""},
}}}

// triedBy has the lines of each document.
var triedBy = map[string][]triedWith{"CLIENTS.md": triedClients, "PROXIES.md": triedProxies}

// versionNumber is as much of a version as readers care for.
var versionNumber = regexp.MustCompile(`\d+(\.\d+){0,2}`)

// versionIn returns the version of a program from its line in the ledger; "" when there is none.
func (p triedProgram) versionIn(entry string) string {
	_, behind, found := strings.Cut(entry, p.after)
	if !found {
		return ""
	}
	return versionNumber.FindString(behind)
}

// text is what a document shows of lines; complete when every program was tried.
func (l *ledger) text(lines []triedWith) (text string, complete bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	complete = true
	var b strings.Builder
	for _, line := range lines {
		var names []string
		for _, p := range line.programs {
			version := p.versionIn(l.entries[p.entry])
			if version == "" {
				complete = false
				continue
			}
			names = append(names, p.shown+" "+version)
		}
		fmt.Fprintf(&b, "%s%s.\n", line.begin, strings.Join(names, ", "))
	}
	return b.String(), complete
}

// publishVersions prints what a run tried, and writes it when it writes the tables.
func publishVersions(file string, lines []triedWith) error {
	text, complete := tested.text(lines)
	if !complete {
		return nil // some tests were not run
	}
	fmt.Printf("versions, %s:\n%s", file, text)
	if !writeDocs {
		return nil
	}
	return document(file, map[string]string{"versions": text})
}

func TestVersionsAreFoundInWhatProgramsSay(t *testing.T) {
	said := ledger{entries: map[string]string{
		"Chromium EventSource": "HeadlessChrome/156.0.7000.1",
		"PyPI httpx-sse":       "httpx-sse 0.4.3, httpx 0.28.1, python 3.11.2",
	}}
	lines := []triedWith{{"* Some: ", []triedProgram{
		{"Chromium", "Chromium EventSource", ""}, {"httpx", "PyPI httpx-sse", ", httpx"}, {"Python", "PyPI httpx-sse", "python"},
	}}}
	text, complete := said.text(lines)
	require.True(t, complete)
	require.Equal(t, "* Some: Chromium 156.0.7000, httpx 0.28.1, Python 3.11.2.\n", text)
	lines[0].programs = append(lines[0].programs, triedProgram{"curl", "curl", ""})
	_, complete = said.text(lines)
	require.False(t, complete)
}

// TestDocumentsHaveAPlaceForVersions: a run that writes the tables must find it.
func TestDocumentsHaveAPlaceForVersions(t *testing.T) {
	for file, lines := range triedBy {
		raw, err := os.ReadFile("../../docs/" + file)
		require.NoError(t, err)
		_, rest, found := strings.Cut(string(raw), "<!-- versions -->\n")
		require.True(t, found, file)
		have, _, found := strings.Cut(rest, "<!-- end -->")
		require.True(t, found, file)
		for _, line := range lines {
			for _, p := range line.programs {
				require.Contains(t, have, p.shown+" ")
			}
		}
	}
}
