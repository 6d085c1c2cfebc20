package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/admin"
	"ssed/internal/redistest"
)

// documentedCall is a command in docs/ADMIN.md and the answer that is shown for it.
type documentedCall struct{ command, answer string }

// documentedCalls reads the indented blocks that begin with "$ curl" or pipe into it.
func documentedCalls(t *testing.T, path string) (calls []documentedCall) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var call *documentedCall
	for line := range strings.Lines(string(text)) {
		line, indented := strings.CutPrefix(line, "    ")
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case !indented:
			call = nil
		case isCommand:
			calls = append(calls, documentedCall{command: strings.TrimSpace(command)})
			call = &calls[len(calls)-1]
		case call != nil:
			call.answer += line
		}
	}
	return calls
}

// TestDocumentedCallsAnswerAsShown runs the calls of docs/ADMIN.md in their order: the
// answers have the members that are shown, and no others.
func TestDocumentedCallsAnswerAsShown(t *testing.T) {
	t.Parallel()
	_, err := exec.LookPath("curl")
	require.NoError(t, err, "Debian: apt-get install curl")
	r := redistest.Start(t)
	in := startRedis(t, r, "--envelope", "json", "--instance", "one")
	connect(t, in, "not-an-id", "user123").wantGap("unknown-id")
	for _, call := range documentedCalls(t, "../../docs/ADMIN.md") {
		prepare(t, in, r, call.command)
		command := strings.ReplaceAll(call.command, "localhost:9090", strings.TrimPrefix(in.admin, "http://"))
		command = strings.ReplaceAll(command, "0-2a-1", onlyConnection(t, in))
		command = strings.ReplaceAll(command, "curl ", "curl -sS --max-time 2 ")
		out, err := exec.Command("sh", "-c", command).Output()
		if strings.Contains(command, " -N ") {
			requireSameEvent(t, call.answer, string(out))
			continue
		}
		require.NoError(t, err, command)
		want, got := json.NewDecoder(strings.NewReader(call.answer)), json.NewDecoder(strings.NewReader(string(out)))
		for want.More() {
			var wanted, given any
			require.NoError(t, want.Decode(&wanted), call.answer)
			require.NoError(t, got.Decode(&given), "%s\n%s", command, out)
			requireSameForm(t, call.command, wanted, given)
		}
		require.False(t, got.More(), "%s\n%s", command, out)
	}
}

// prepare waits for what the next call needs to have happened.
func prepare(t *testing.T, in *instance, r *redistest.Server, command string) {
	t.Helper()
	if strings.Contains(command, "/api/history/") {
		var channel admin.Channel
		in.api("GET", "/api/channels/user123", "", 200, &channel)
		in.written(r, channel.Newest)
	}
	if strings.Contains(command, "/api/partitions") {
		in.eventually("somebody leads and writes", func() bool {
			var answer struct{ Partitions []admin.Partition }
			in.api("GET", "/api/partitions", "", 200, &answer)
			return answer.Partitions[0].Leader != "" && answer.Partitions[0].Writer != ""
		})
	}
}

// onlyConnection is the ID of the open stream, "" when it was closed.
func onlyConnection(t *testing.T, in *instance) string {
	t.Helper()
	var page struct{ Connections []admin.Connection }
	in.api("GET", "/api/connections", "", 200, &page)
	if len(page.Connections) == 0 {
		return ""
	}
	return page.Connections[0].ID
}

// requireSameEvent compares the first event; its data is shown in part.
func requireSameEvent(t *testing.T, want, got string) {
	t.Helper()
	wantName, wantData, _ := strings.Cut(want, "\ndata: ")
	gotName, gotData, _ := strings.Cut(got, "\ndata: ")
	require.Equal(t, wantName, gotName)
	var wanted, given map[string]any
	require.NoError(t, json.Unmarshal([]byte(wantData), &wanted))
	gotData, _, _ = strings.Cut(gotData, "\n")
	require.NoError(t, json.Unmarshal([]byte(gotData), &given))
	for name := range wanted {
		require.Contains(t, given, name)
	}
}

// requireSameForm compares members and kinds, and the value of what is no measurement.
// Maps by reason are shown in part.
func requireSameForm(t *testing.T, where string, want, got any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		require.IsType(t, want, got, where)
		for name, member := range want {
			require.Contains(t, got, name, where)
			requireSameForm(t, where+" "+name, member, got.(map[string]any)[name])
		}
		if !strings.HasSuffix(where, " closed") && !strings.HasSuffix(where, " refused") {
			require.Len(t, got, len(want), "%s: %v", where, got)
		}
	case []any:
		require.IsType(t, want, got, where)
		require.Equal(t, len(want) == 0, len(got.([]any)) == 0, where)
		for i := range min(len(want), len(got.([]any))) {
			requireSameForm(t, where, want[i], got.([]any)[i])
		}
	case float64:
		require.IsType(t, want, got, where)
		if strings.HasSuffix(where, "%{http_code}") || strings.HasSuffix(where, "subscribers") {
			require.Equal(t, want, got, where)
		}
	case bool:
		require.Equal(t, want, got, where)
	default:
		require.IsType(t, want, got, where)
		require.Equal(t, want == "", got == "", "%s: %v", where, got)
	}
}
