package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"ssed/internal/redistest"
	"ssed/sseproto"
)

// samples are the names of a scrape, for each the values of its labels.
type samples map[string]map[string][]string

func parseSamples(scrape string) samples {
	found := samples{}
	for _, line := range regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? `).FindAllStringSubmatch(scrape, -1) {
		if found[line[1]] == nil {
			found[line[1]] = map[string][]string{}
		}
		for _, pair := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(line[2], -1) {
			found[line[1]][pair[1]] = append(found[line[1]][pair[1]], pair[2])
		}
	}
	return found
}

// requireServed checks the names of metrics in a query, and the labels and values by
// which it selects. Labels that Prometheus adds are known to it alone.
func (s samples) requireServed(t *testing.T, where, query string) {
	t.Helper()
	metrics := regexp.MustCompile(`\b((?:ssed|process|go)_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(query, -1)
	require.NotEmpty(t, metrics, "%s: %s", where, query)
	for _, m := range metrics {
		labels, ok := s[m[1]]
		require.True(t, ok, "%s: no metric %s", where, m[1])
		for _, sel := range regexp.MustCompile(`(\w+)[=!][=~]?"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			if sel[1] == "job" || sel[1] == "instance" {
				continue
			}
			for _, value := range strings.Split(sel[2], "|") {
				require.True(t, slices.Contains(labels[sel[1]], value), "%s: %s has no %s=%q", where, m[1], sel[1], value)
			}
		}
	}
}

// TestAlertsAndDashboardAskForWhatIsServed: a metric that is renamed would silence an
// alert without a word.
func TestAlertsAndDashboardAskForWhatIsServed(t *testing.T) {
	in := startRedis(t, redistest.Start(t), "--gap-wait", "250ms")
	_, text := in.get(in.admin + "/metrics")
	served := parseSamples(text)
	for name, expr := range alertQueries(t) {
		served.requireServed(t, name, expr)
	}
	for _, query := range dashboardQueries(t) {
		served.requireServed(t, "grafana.json", query)
	}
}

func alertQueries(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	raw, err := os.ReadFile("../../deploy/alerts.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(raw, &file))
	queries := map[string]string{}
	for _, g := range file.Groups {
		for _, rule := range g.Rules {
			require.NotContains(t, queries, rule.Alert)
			queries[rule.Alert] = rule.Expr
		}
	}
	require.NotEmpty(t, queries)
	return queries
}

func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	var board struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
		Templating  struct {
			List []struct{ Type, Definition string }
		}
	}
	raw, err := os.ReadFile("../../deploy/grafana.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &board))
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	require.NotEmpty(t, queries)
	for _, a := range board.Annotations.List {
		queries = append(queries, a.Expr)
	}
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			queries = append(queries, v.Definition)
		}
	}
	return queries
}

// TestTroubleshootingTellsWhatToDoAboutEachAlert: whoever is woken up finds the alert there.
func TestTroubleshootingTellsWhatToDoAboutEachAlert(t *testing.T) {
	text, err := os.ReadFile("../../docs/TROUBLESHOOTING.md")
	require.NoError(t, err)
	for name := range alertQueries(t) {
		require.Contains(t, string(text), "`"+name+"`")
	}
	for _, m := range regexp.MustCompile("`(Ssed[A-Z]\\w+)`").FindAllStringSubmatch(string(text), -1) {
		require.Contains(t, alertQueries(t), m[1])
	}
	for _, reason := range sseproto.Reasons() {
		require.Contains(t, string(text), "`"+reason+"`", "a reason of a gap event")
	}
}
