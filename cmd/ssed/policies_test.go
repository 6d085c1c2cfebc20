package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed"
	"ssed/internal/admin"
)

// policiesBy is what a command line, an environment and a file come to.
func policiesBy(t *testing.T, args ...string) []ssed.Policy {
	t.Helper()
	cfg, err := flagsOf(t, args...).config()
	require.NoError(t, err)
	return cfg.gateway.Policies
}

func TestPoliciesAreReadFromFlagsAndFile(t *testing.T) {
	want := []ssed.Policy{
		{Match: "chat:*", MaxLen: 10_000, TTL: 10 * time.Minute},
		{Match: "a=b:*", NoHistory: true},
		{Match: "win:*", Window: -1, Slow: ssed.SlowLatest},
		{Match: "strict", Slow: ssed.SlowClose},
	}
	require.Equal(t, want, policiesBy(t, "--policy=chat:*=history-max:10000,history-ttl:10m", "--policy=a=b:*=history:off", "--policy=win:*=history-window:0,slow:latest", "--policy=strict=slow:close"))
	require.Equal(t, want, policiesBy(t, "--policy=chat:*=history-max:10000,history-ttl:10m;a=b:*=history:off;win:*=history-window:0,slow:latest;strict=slow:close"))

	file := writeFile(t, "ssed.yaml", strings.Join([]string{
		"policies:",
		"  - match: 'chat:*'",
		"    history-max: 10000",
		"    history-ttl: 10m",
		"  - {match: 'a=b:*', history: off}",
		"  - {match: 'win:*', history-window: 0, slow: latest}",
		"  - {match: strict, slow: close}",
	}, "\n"))
	code, text, stderr := readFlags(t, nil, "config", "--config", file)
	require.Equal(t, exitOK, code, stderr)
	require.Regexp(t, `(?m)^policies: \[\{match: '?chat:\*'?, history-max: 10000, history-ttl: 10m\}, .*# ssed.yaml line 1$`, text)
	_, again, _ := readFlags(t, nil, "config", "--config", writeFile(t, "ssed.yaml", text))
	line := func(text string) string {
		_, rest, _ := strings.Cut(text, "\npolicies: ")
		line, _, _ := strings.Cut(rest, "  # ")
		return line
	}
	require.NotEmpty(t, line(text))
	require.Equal(t, line(text), line(again))

	_, text, _ = readFlags(t, []string{"SSED_POLICY=x:*=history:off;y:*=history-max:5"}, "config", "--config", file)
	require.Contains(t, text, "history-max: 5}]  # $SSED_POLICY")
}

func TestAPITellsThePolicyOfAChannel(t *testing.T) {
	in := start(t, "--policy=chat:*=history-max:7,history-ttl:1m;price*=slow:latest")
	connect(t, in, "", "chat:1")
	connect(t, in, "", "price")
	connect(t, in, "", "plain")
	var list struct{ Channels []admin.Channel }
	in.api("GET", "/api/channels", "", 200, &list)
	got := map[string]string{}
	for _, c := range list.Channels {
		got[c.Channel] = c.Policy
	}
	require.Equal(t, map[string]string{"chat:1": "chat:*=history-max:7,history-ttl:1m0s", "price": "price*=slow:latest", "plain": ""}, got)
	var one admin.Channel
	in.api("GET", "/api/channels/price", "", 200, &one)
	require.Equal(t, "price*=slow:latest", one.Policy)
}

func TestMistakesInPoliciesAreNamed(t *testing.T) {
	code, _, stderr := readFlags(t, nil, "--policy=a=history-max:many", "--policy=b=color:red", "--policy=c=history:maybe",
		"--policy=d=history-ttl:1ms", "--policy=e=history:off,history-max:5", "--policy=f=history-max:1", "--policy=f=history-max:2",
		"--policy=g=history-max:1,history-max:2", "--policy=i=slow:fast", "--policy==history:off", "--policy=h=")
	require.Equal(t, exitUsage, code)
	for _, want := range []string{
		`ssed: --policy: "a": history-max: "many" is not a whole number`,
		`ssed: --policy: "b": "color:red" is not one of history, history-max, history-ttl, history-window, slow`,
		`ssed: --policy: "c": history: "maybe" is not one of on, off`,
		`ssed: --policy: "d": history-ttl: 1ms is less than 1s`,
		`ssed: --policy: "e": history: off keeps nothing`,
		`ssed: --policy: "f": it is there twice`,
		`ssed: --policy: "g": history-max: it is there twice`,
		`ssed: --policy: "": the pattern is not 1 to 256 bytes`,
		`ssed: --policy: "h": "" is not one of history`,
		`ssed: --policy: "i": slow: "fast" is not one of all, latest, close`,
	} {
		require.Contains(t, stderr, want)
	}
	for text, want := range map[string]string{
		"policies: chat":                                "a list is expected",
		"policies: [chat]":                              "line 1: a list is expected",
		"policies:\n- {history: off}":                   "line 2: a policy needs match",
		"policies: [{match: a, color: red}]":            `"color" is not match or one of`,
		"policies: [{match: a, history-max: [1]}]":      "history-max: a single value is expected",
		"policies: [{match: a, history-ttl: '1s,x:1'}]": "history-ttl: a single value is expected",
		"policy: [x]":                                   `unknown key "policy"`,
	} {
		code, _, stderr := readFlags(t, nil, "--config", writeFile(t, "ssed.yaml", text))
		require.Equal(t, exitUsage, code, text)
		require.Contains(t, stderr, want, text)
	}
}
