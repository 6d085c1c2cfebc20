package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeployNamesOnlyVariablesThatExist: a variable that ssed does not know is ignored,
// by ssed and by whoever reads the file.
func TestDeployNamesOnlyVariablesThatExist(t *testing.T) {
	known := []string{envJWTSecret, "SSED_CONFIG"}
	for _, f := range allFlags(t) {
		known = append(known, f.Tag.Envs...)
	}
	var seen int
	err := filepath.WalkDir("../../deploy", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\bSSED_[A-Z_]+[A-Z]\b`).FindAllString(string(text), -1) {
			require.True(t, slices.Contains(known, name), "%s: %s", path, name)
			seen++
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, seen)
}

// exitGrace is what ssed may take beyond --drain, as --help promises.
const exitGrace = 5 * time.Second

// TestDeployWaitsForTheDrain: who kills earlier cuts off all that are left at once.
func TestDeployWaitsForTheDrain(t *testing.T) {
	duration := func(file, pattern, unit string) time.Duration {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../../deploy", file))
		require.NoError(t, err)
		m := regexp.MustCompile(`(?m)` + pattern).FindSubmatch(text)
		require.NotNil(t, m, "%s: %s", file, pattern)
		d, err := time.ParseDuration(string(m[1]) + unit)
		require.NoError(t, err)
		return d
	}
	drain := duration("ssed.yaml", `^drain: (\S+)$`, "")
	require.GreaterOrEqual(t, duration("ssed.service", `^TimeoutStopSec=(\S+)$`, ""), drain+exitGrace)
	require.GreaterOrEqual(t, duration("compose.yaml", `^  stop_grace_period: (\S+)$`, ""), drain+exitGrace, "it has no --drain of its own")

	before := duration("kubernetes/deployment.yaml", `sleep: \{seconds: (\d+)\}`, "s")
	drain = duration("kubernetes/configmap.yaml", `SSED_DRAIN: (\S+)$`, "")
	require.GreaterOrEqual(t, duration("kubernetes/deployment.yaml", `terminationGracePeriodSeconds: (\d+)$`, "s"), before+drain+exitGrace)
}
