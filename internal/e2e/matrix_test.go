//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// writeDocs makes a run write the tables and snippets of docs instead of comparing them.
var writeDocs = os.Getenv("SSED_E2E_WRITE_DOCS") != ""

// matrix is a table that tests fill. Every cell is one that a test has asserted.
type matrix struct {
	name    string // of its place in the document
	file    string
	columns []string
	rows    []string

	mu    sync.Mutex
	cells map[[2]string]string // guarded by mu: by row and column
}

func newMatrix(file, name string, rows []string, columns ...string) *matrix {
	return &matrix{file: file, name: name, columns: columns, rows: rows, cells: map[[2]string]string{}}
}

func (m *matrix) set(t testing.TB, row, column, cell string) {
	t.Helper()
	require.Contains(t, m.rows, row)
	require.Contains(t, m.columns, column)
	if t.Failed() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cells[[2]string{row, column}] = cell
}

// complete tells whether the tests of this run have filled every cell.
func (m *matrix) complete() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.cells) == len(m.rows)*len(m.columns)
}

// text is the table in Markdown. What is the same in all rows stands above it.
func (m *matrix) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var same, columns []string
	for _, column := range m.columns {
		first := m.cells[[2]string{m.rows[0], column}]
		if slices.ContainsFunc(m.rows, func(row string) bool { return m.cells[[2]string{row, column}] != first }) {
			columns = append(columns, column)
		} else {
			same = append(same, "* "+column+": "+first+"\n")
		}
	}
	var b strings.Builder
	if same != nil {
		fmt.Fprintf(&b, "All of them alike:\n\n%s\n", strings.Join(same, ""))
	}
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range m.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, column := range columns {
			fmt.Fprintf(&b, " %s |", m.cells[[2]string{row, column}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestMatrixTellsOnceWhatIsTheSameForAll(t *testing.T) {
	m := newMatrix("", "", []string{"one", "two"}, "lives", "sleeps", "speaks")
	for _, row := range m.rows {
		m.set(t, row, "lives", yes)
		m.set(t, row, "sleeps", "as "+row)
		m.set(t, row, "speaks", "no")
	}
	require.Equal(t, "All of them alike:\n\n* lives: yes\n* speaks: no\n\n| | sleeps |\n|---|---|\n| one | as one |\n| two | as two |\n", m.text())
}

// publish prints the table, and compares it with the document if it is whole.
func (m *matrix) publish() error {
	if len(m.cells) == 0 {
		return nil
	}
	fmt.Printf("%s:\n%s", m.name, m.text())
	if !m.complete() {
		return nil // some tests were not run
	}
	return document(m.file, map[string]string{m.name: m.text()})
}

// document compares places of a document with what they should have, or writes them.
func document(file string, places map[string]string) error {
	path := filepath.Join("../../docs", file)
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(raw)
	for name, want := range places {
		begin, end := "<!-- "+name+" -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(text, begin)
		have, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return fmt.Errorf("%s has no place for %q", path, name)
		}
		if have != want && !writeDocs {
			return fmt.Errorf("%s, %s: SSED_E2E_WRITE_DOCS=1 make e2e writes what this run has found:\n%s", path, name, want)
		}
		text = before + begin + want + end + after
	}
	if text == string(raw) {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// excerpt returns what a document shows of a file: the whole, or what stands between
// "snippet NAME" and "end".
func excerpt(t testing.TB, path, name string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	text := string(raw)
	if name == "" {
		return text
	}
	var lines []string
	inside := false
	for line := range strings.Lines(text) {
		mark := strings.TrimLeft(strings.TrimSpace(line), "/#<!- ")
		mark = strings.TrimRight(mark, " ->")
		switch {
		case mark == "snippet "+name || mark == name && name == "snippet":
			inside = true
		case inside && mark == "end":
			return undented(lines)
		case inside:
			lines = append(lines, line)
		}
	}
	t.Fatalf("%s has no snippet %q", path, name)
	return ""
}

// undented takes away the spaces that all lines begin with.
func undented(lines []string) string {
	margin := -1
	for _, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		indent := len(line) - len(strings.TrimLeft(line, " \t"))
		if margin < 0 || indent < margin {
			margin = indent
		}
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line[min(max(margin, 0), len(line)-1):])
	}
	return strings.Trim(b.String(), "\n") + "\n"
}

// shown is a file that a document shows, as a fenced block.
type shown struct{ path, snippet, language string }

func (s shown) block(t testing.TB) string {
	return "```" + s.language + "\n" + excerpt(t, s.path, s.snippet) + "```\n"
}

// shownInClients are the snippets of docs/CLIENTS.md, by the name of their place.
var shownInClients = map[string]shown{
	"EventSource":           {"clients/snippets/eventsource.js", "", "js"},
	"ssed.js":               {"clients/snippets/ssed.js", "", "js"},
	"fetch-event-source":    {"clients/snippets/fetch-event-source.js", "", "js"},
	"POST":                  {"clients/snippets/post-fetch-event-source.js", "", "js"},
	"sse.js":                {"clients/snippets/post-sse.js", "", "js"},
	"event-source-polyfill": {"clients/snippets/event-source-polyfill.js", "", "js"},
	"htmx-ext-sse":          {"clients/snippets/htmx-ext-sse.html", "", "html"},
	"service worker":        {"clients/snippets/service-worker.js", "", "js"},
	"npm eventsource":       {"clients/snippets/npm-eventsource.mjs", "", "js"},
	"undici":                {"clients/snippets/undici.mjs", "", "js"},
	"httpx-sse":             {"clients/snippets/httpx-sse.py", "", "python"},
	"sseclient-py, httpx":   {"clients/snippets/sseclient-httpx.py", "", "python"},
	"requests":              {"clients/snippets/sseclient-requests.py", "", "python"},
	"aiohttp":               {"clients/snippets/aiohttp.py", "", "python"},
	"r3labs/sse":            {"goclients_test.go", "r3labs", "go"},
	"tmaxmax/go-sse":        {"goclients_test.go", "go-sse", "go"},
	"OkHttp":                {"clients/java/clients/OkHttp.java", "snippet", "java"},
	"Java HttpClient":       {"clients/java/clients/JavaHttpClient.java", "snippet", "java"},
	"curl":                  {"clients/snippets/curl.sh", "", "bash"},
}

// TestDocumentsShowTheSnippetsThatRun: what stands in docs is what these tests start.
func TestDocumentsShowTheSnippetsThatRun(t *testing.T) {
	for file, all := range map[string]map[string]shown{"CLIENTS.md": shownInClients, "PROXIES.md": shownInProxies, "TOKENS.md": shownInTokens} {
		places := map[string]string{}
		for name, s := range all {
			places["snippet "+name] = s.block(t)
		}
		require.NoError(t, document(file, places))
	}
	for pattern, all := range map[string]map[string]shown{"clients/snippets/*": shownInClients, "proxies/*": shownInProxies, "clients/tokens/*": shownInTokens} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			require.True(t, slices.ContainsFunc(slices.Collect(maps.Values(all)), func(s shown) bool { return s.path == file }), "%s is shown nowhere", file)
		}
	}
}
