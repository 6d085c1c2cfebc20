package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPartitionsThatCannotBe are named by the flag, and where the value comes from.
func TestPartitionsThatCannotBe(t *testing.T) {
	const url = "--redis-url=redis://127.0.0.1:1"
	f := func(env []string, flags []string, want string) {
		t.Helper()
		code, _, stderr := runProgram(t, env, append([]string{"config"}, flags...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "ssed: --partitions: "+want)
	}
	f(nil, []string{url, "--feed=sharded", "--partitions=many"}, `"many" is not a whole number of at least 1`)
	f(nil, []string{url, "--feed=sharded", "--partitions=0"}, `"0" is not a whole number of at least 1`)
	f(nil, []string{url, "--feed=sharded", "--partitions=65"}, "65 is not 1 to 64")
	f(nil, []string{url, "--partitions=3"}, "3 of them take --feed=sharded: with patterns each would get the messages of all")
	f(nil, []string{"--feed=sharded", "--partitions=3"}, "3 of them take Redis: an embedded gateway has one")
	f([]string{"SSED_PARTITIONS=3"}, []string{url}, "3 of them take --feed=sharded: with patterns each would get the messages of all ($SSED_PARTITIONS)")
	file := filepath.Join(t.TempDir(), "ssed.yaml")
	require.NoError(t, os.WriteFile(file, []byte("feed: sharded\npartitions: 100\n"), 0o600))
	f(nil, []string{url, "--config", file}, "100 is not 1 to 64 (")
}

// TestPartitionsAreShownByConfig, whoever gave them.
func TestPartitionsAreShownByConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssed.yaml")
	require.NoError(t, os.WriteFile(file, []byte("redis-url: redis://127.0.0.1:1\nfeed: sharded\npartitions: 3\n"), 0o600))
	f := func(env, flags []string, want string) {
		t.Helper()
		code, stdout, stderr := runProgram(t, env, append([]string{"config", "--config", file}, flags...)...)
		require.Equal(t, exitOK, code, stderr)
		require.Contains(t, stdout, "\npartitions: "+want)
	}
	f(nil, nil, "3  # ssed.yaml line 3")
	f([]string{"SSED_PARTITIONS=4"}, nil, "4  # $SSED_PARTITIONS")
	f([]string{"SSED_PARTITIONS=4"}, []string{"--partitions=5"}, "5  # flag")
}
