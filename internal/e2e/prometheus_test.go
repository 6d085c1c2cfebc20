//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("promtool", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestPrometheusTakesTheAlerts(t *testing.T) {
	tested.add("promtool", strings.Fields(versionOf(t, "promtool", "--version"))[2])
	promtool(t, "check", "rules", "../../deploy/alerts.yaml")
	promtool(t, "test", "rules", "../../deploy/alerts_test.yaml")
}

// TestPrometheusUnderstandsTheDashboard: each query as the expression of a rule, which
// promtool parses.
func TestPrometheusUnderstandsTheDashboard(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	raw, err := os.ReadFile("../../deploy/grafana.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &board))
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*")
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			rules = append(rules, rule{fmt.Sprint("panel:", len(rules)), variables.Replace(target.Expr)})
		}
	}
	require.NotEmpty(t, rules)
	group := map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}}
	text, err := json.Marshal(group) // which is YAML too
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	promtool(t, "check", "rules", path)
}
