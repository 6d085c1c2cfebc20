package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/doctor"
	"ssed/internal/redistest"
	"ssed/rsub"
	"ssed/sseproto"
)

// diagnose runs ssed doctor and returns the checks by name.
func diagnose(t *testing.T, args ...string) (code int, checks map[string]doctor.Result) {
	t.Helper()
	code, stdout, stderr := runProgram(t, nil, append([]string{"doctor", "--json"}, args...)...)
	var d diagnosis
	require.NoError(t, json.Unmarshal([]byte(stdout), &d), "%s%s", stdout, stderr)
	require.Equal(t, code == exitOK, d.OK)
	checks = map[string]doctor.Result{}
	for _, r := range d.Checks {
		checks[r.Check] = r
	}
	return code, checks
}

func TestDoctorTriesAFleetByItsOwnConfiguration(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--patterns=user:*,news", "--heartbeat=1s")
	file := writeFile(t, "ssed.yaml", "redis-url: "+r.URL()+"\npatterns: [news, 'user:*']\nheartbeat: 1s\nmax-connections: 100\n")
	code, checks := diagnose(t, "--config", file, "--public-url", in.public, "--probe-time=2s")
	require.Equal(t, exitOK, code, "%v", checks)
	require.Contains(t, checks["open files"].Text, "100 connections")
	require.Contains(t, checks["fleet"].Text, "instances with the same patterns use")
	for _, check := range []string{"redis", "redis version", "redis role", "redis rights", "redis rights for --inbox", "redis rights for the admin listener", "fleet", "proxy: begin", "proxy: events", "proxy: resume", "proxy: request fields", "proxy: quiet stream"} {
		require.Equal(t, doctor.OK, checks[check].Status, "%s: %v", check, checks[check])
	}

	code, checks = diagnose(t, "--config", file, "--patterns=other:*")
	require.Equal(t, exitFailed, code)
	require.Equal(t, doctor.Fail, checks["fleet"].Status)
	require.Contains(t, checks["fleet"].Text, `patterns=["other:*"]`)
	// Envelopes are a rule of the fleet too.
	code, checks = diagnose(t, "--config", file, "--envelope=json")
	require.Equal(t, exitFailed, code)
	require.Equal(t, doctor.Fail, checks["fleet"].Status)
}

func TestDoctorCountsHeartbeatsThatAreEvents(t *testing.T) {
	t.Parallel()
	in := start(t, "--heartbeat=1s", "--heartbeat-event=ping")
	code, checks := diagnose(t, "--public-url", in.public, "--admin", strings.TrimPrefix(in.admin, "http://"),
		"--heartbeat=1s", "--heartbeat-event=ping", "--probe-time=2s")
	require.Equal(t, exitOK, code, "%v", checks)
	require.Contains(t, checks["proxy: quiet stream"].Text, "heartbeats")
}

func TestDoctorTriesAnEmbeddedInstance(t *testing.T) {
	t.Parallel()
	in := start(t, "--admin-token=0123456789abcdef")
	code, checks := diagnose(t, "--public-url", in.public, "--admin", strings.TrimPrefix(in.admin, "http://"), "--admin-token=0123456789abcdef")
	require.Equal(t, exitOK, code, "%v", checks)
	for _, check := range []string{"proxy: events", "proxy: resume", "proxy: request fields", "proxy: clients that leave"} {
		require.Equal(t, doctor.OK, checks[check].Status, "%s: %v", check, checks[check])
	}
	require.Equal(t, doctor.Skip, checks["redis"].Status)
	require.Contains(t, checks["redis"].Text, "no --redis-url")

	code, checks = diagnose(t, "--url", in.public, "--admin", strings.TrimPrefix(in.admin, "http://"), "--admin-token=0123456789abcdef", "--start-id=off", "--admin-url=http://127.0.0.1:1")
	require.Equal(t, exitOK, code, "%v", checks)
	require.Equal(t, doctor.Skip, checks["proxy: request fields"].Status)
	require.Equal(t, doctor.Skip, checks["proxy: clients that leave"].Status)
	require.Contains(t, checks["proxy: clients that leave"].Text, "--admin-url: ")

	code, checks = diagnose(t, "--public-url", in.public, "--admin", strings.TrimPrefix(in.admin, "http://"))
	require.Equal(t, exitFailed, code)
	require.Contains(t, checks["proxy: events"].Text, "401")
}

func TestDoctorPrintsALineForEachCheckAndFailsWithOne(t *testing.T) {
	code, stdout, _ := runProgram(t, nil, "doctor", "--max-connections=2000000000", "--redis-url=redis://user:s3cret@127.0.0.1:1")
	require.Equal(t, exitFailed, code)
	require.Regexp(t, `(?m)^fail  open files: the hard limit is \d+, 2000000000 connections need 2000000256`, stdout)
	require.Regexp(t, `(?m)^      fix: LimitNOFILE=2000000256 in the systemd unit`, stdout)
	require.Regexp(t, `(?m)^fail  memory: `, stdout)
	require.Regexp(t, `(?m)^fail  redis: 127\.0\.0\.1:1 does not answer: .*refused`, stdout)
	require.Regexp(t, `(?m)^\d+ ok, \d+ to think about, [345] failed, \d+ not known$`, stdout)
	require.NotContains(t, stdout, "s3cret")
}

func TestDoctorNamesEveryBadValue(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	code, _, stderr := readFlags(t, nil, "doctor", "--max-connections=x", "--drain=soon", "--public-url=nowhere", "--probe-time=x",
		"--token-file="+missing, "--config="+missing, "--admin=off")
	require.Equal(t, exitUsage, code)
	for _, name := range []string{"--max-connections", "--drain", "--public-url", "--probe-time", "--token-file", "--config", "--admin"} {
		require.Contains(t, stderr, "ssed: "+name+": ")
	}
	code, _, stderr = runProgram(t, nil, "doctor", "--redis-url=redis://127.0.0.1:1", "--patterns=news,a[bc]", "--public-url=http://127.0.0.1:1")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--probe-channel: ")
}

func TestChannelOfTheDoctorIsMatchedByThePatterns(t *testing.T) {
	f := func(want string, patterns ...string) {
		t.Helper()
		channel := channelFor(patterns)
		require.Regexp(t, "^"+want+"$", channel)
		matched := channel == ""
		for _, p := range patterns {
			matched = matched || sseproto.MatchGlob(p, channel)
		}
		require.True(t, matched)
		require.False(t, rsub.Reserved(channel))
	}
	const name = `ssed-doctor-[a-z2-7]{8}`
	f(name, "*")
	f("user:"+name, "user:*")
	f("user:"+name, "news", "user:*")
	f("a:"+name+":"+name, "a:*:*")
	f("ax"+name, "a?*")
	f("", "news")
	f("", "a[bc]", `x\*`)
}
