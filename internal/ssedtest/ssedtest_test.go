package ssedtest

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ssedtest-")
	if err == nil {
		program = filepath.Join(dir, "ssed")
		err = Build(program)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func TestInstanceTellsItsAddressesMetricsAndEnd(t *testing.T) {
	in, err := Start(program, Options{}, "--drain", "10ms")
	require.NoError(t, err)
	require.NoError(t, in.AwaitReady(t.Context()))
	status, _, err := Get(t.Context(), "http://"+in.Public()+"/health")
	require.NoError(t, err)
	require.Equal(t, 200, status)
	streams, err := in.Metric(t.Context(), "ssed_streams")
	require.NoError(t, err)
	require.Zero(t, streams)
	_, err = in.Metric(t.Context(), "ssed_stream")
	require.ErrorContains(t, err, "no metric ssed_stream")
	require.NoError(t, in.Stop(syscall.SIGTERM, StopTimeout))
	require.Zero(t, in.Cmd.ProcessState.ExitCode())
	require.Contains(t, in.Log(), `"listener":"streams"`)
	require.ErrorContains(t, in.AwaitReady(context.Background()), "ssed ended")
}

func TestStartTellsWhyThereIsNoAddress(t *testing.T) {
	_, err := Start(program, Options{}, "--history-max", "many")
	require.ErrorContains(t, err, "--history-max")
}

func TestLogGoesWhereItShould(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	in, err := Start(program, Options{Log: file}, "--drain", "10ms")
	require.NoError(t, err)
	require.NoError(t, in.Stop(syscall.SIGTERM, StopTimeout))
	require.Empty(t, in.Log())
	require.ErrorIs(t, file.Close(), os.ErrClosed)
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	require.Contains(t, string(text), `"listener":"admin"`)
}

func TestSumAddsLabelsAndOnlyThatMetric(t *testing.T) {
	const text = "# HELP a b\na 1\na{x=\"y z\"} 2.5\na_total 7\nab 9\n"
	f := func(name string, want float64) {
		t.Helper()
		got, err := Sum(text, name)
		require.NoError(t, err)
		require.InDelta(t, want, got, 0)
	}
	f("a", 3.5)
	f("a_total", 7)
	_, err := Sum("a one\n", "a")
	require.ErrorContains(t, err, "metric a")
}
