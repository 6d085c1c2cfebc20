package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func writeFile(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// effective is what ssed config prints: the values, and the comment on the line of each key.
func effective(t *testing.T, env []string, args ...string) (values map[string]any, from map[string]string) {
	t.Helper()
	code, stdout, stderr := readFlags(t, env, append([]string{"config"}, args...)...)
	require.Equal(t, exitOK, code, stderr)
	var nodes map[string]yaml.Node
	require.NoError(t, yaml.Unmarshal([]byte(stdout), &nodes))
	values = map[string]any{}
	for key, node := range nodes {
		values[key] = texts(&node)
	}
	from = map[string]string{}
	for line := range strings.Lines(stdout) {
		key, rest, _ := strings.Cut(line, ": ")
		if i := strings.LastIndex(rest, "# "); i >= 0 {
			from[key] = strings.TrimSpace(rest[i+2:])
		}
	}
	return values, from
}

// texts is a value as it is written.
func texts(node *yaml.Node) any {
	if node.Kind == yaml.ScalarNode {
		return node.Value
	}
	list := []any{}
	for _, item := range node.Content {
		list = append(list, item.Value)
	}
	return list
}

func TestFlagGoesBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "ssed.yaml", "drain: 3s\nlisten: [':1', ':2']\npprof: true\n")
	for _, c := range []struct {
		name, key string
		env, args []string
		want      any
		from      string
	}{
		{"flag over all", "drain", []string{"SSED_DRAIN=2s"}, []string{"--config", file, "--drain=1s"}, "1s", "flag"},
		{"flag over file", "drain", nil, []string{"--drain=1s", "--config", file}, "1s", "flag"},
		{"environment over file", "drain", []string{"SSED_DRAIN=2s"}, []string{"--config", file}, "2s", "$SSED_DRAIN"},
		{"flag over environment", "drain", []string{"SSED_DRAIN=2s"}, []string{"--drain=1s"}, "1s", "flag"},
		{"file over default", "drain", nil, []string{"--config", file}, "3s", "ssed.yaml line 1"},
		{"empty variable is none", "drain", []string{"SSED_DRAIN="}, []string{"--config", file}, "3s", "ssed.yaml line 1"},
		{"file by environment", "drain", []string{"SSED_CONFIG=" + file}, nil, "3s", "ssed.yaml line 1"},
		{"default", "drain", nil, nil, "10s", "default"},
		{"list: flag replaces", "listen", nil, []string{"--config", file, "--listen=:3"}, []any{":3"}, "flag"},
		{"list: environment replaces", "listen", []string{"SSED_LISTEN=:4,:5"}, []string{"--config", file}, []any{":4", ":5"}, "$SSED_LISTEN"},
		{"list: file replaces", "listen", nil, []string{"--config", file}, []any{":1", ":2"}, "ssed.yaml line 2"},
		{"list: default", "listen", nil, nil, []any{":8080"}, "default"},
		{"switch: flag turns off", "pprof", nil, []string{"--config", file, "--pprof=false"}, "false", "flag"},
		{"switch: file turns on", "pprof", nil, []string{"--config", file}, "true", "ssed.yaml line 3"},
	} {
		values, from := effective(t, c.env, c.args...)
		require.Equal(t, c.want, values[c.key], c.name)
		require.Equal(t, c.from, from[c.key], c.name)
	}
}

func TestFileTakesEveryFormOfAValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key, text string
		want      any
	}{
		{"history", "history: on", "on"},
		{"history", "history: 'off'", "off"},
		{"heartbeat", "heartbeat: 0", "0"},
		{"history-max", "history-max: 250", "250"},
		{"instance", "instance: 0660", "0660"},
		{"patterns", "patterns: a,b*", []any{"a", "b*"}},
		{"patterns", "patterns: [a, b*]", []any{"a", "b*"}},
		{"patterns", "patterns:\n  - a\n  - 'b,c'", []any{"a", "b,c"}},
		{"channels-deny", "channels-deny: []", []any{}},
		{"drain", "drain:", "10s"},
		{"drain", "drain: ~", "10s"},
		{"drain", "", "10s"},
		{"drain", "# nothing\n", "10s"},
		{"drain", "---\n", "10s"},
		{"drain", "heartbeat: &t 20s\ndrain: *t", "20s"},
		{"stream-prefix", `stream-prefix: "a:#b:"`, "a:#b:"},
	} {
		values, _ := effective(t, nil, "--config", writeFile(t, "ssed.yaml", c.text))
		require.Equal(t, c.want, values[c.key], c.text)
	}
}

func TestEveryMistakeInTheFileIsNamedWithItsLine(t *testing.T) {
	path := writeFile(t, "ssed.yaml", strings.Join([]string{
		"drain: soon",                 // 1
		"drian: 5s",                   // 2
		"listen: {host: x}",           // 3
		"heartbeat: [1s, 2s]",         // 4
		"patterns: [[a]]",             // 5
		"retry: 1s",                   // 6
		"retry: 2s",                   // 7
		"channels-allow: [a, ]",       // 8
		"cors-origins: [a, ~]",        // 9
		"config: other.yaml",          // 10
		"redis:\n  url: redis://host", // 11
		"max-connections: 999999999",  // 13
		"auth-url: nowhere",           // 14
		"history-max: 5",              // 15
	}, "\n"))
	code, _, stderr := readFlags(t, []string{"SSED_HISTORY_MAX=many"}, "--config", path, "--log-level=loud")
	require.Equal(t, exitUsage, code)
	for _, want := range []string{
		`ssed: --drain: "soon" is not a time such as 500ms, 10s or 1h (ssed.yaml line 1)`,
		`ssed: --log-level: "loud" is not one of debug, info, warn, error` + "\n",
		`ssed: --history-max: "many" is not a whole number of at least 1 ($SSED_HISTORY_MAX)`,
		`ssed: --config: ` + path + ` line 2: unknown key "drian"`,
		` line 3: listen: a list of values is expected`,
		` line 4: heartbeat: a single value is expected`,
		` line 5: patterns: a list of values is expected`,
		` line 7: "retry" is there already, in line 6`,
		` line 9: cors-origins: a value of the list is empty`,
		` line 10: unknown key "config"`,
		` line 11: unknown key "redis"`,
	} {
		require.Contains(t, stderr, want)
	}
	require.Regexp(t, `(?m)^ssed: --max-connections: .* \(ssed\.yaml line 13\)$`, stderr, "found by the engine")
	require.Regexp(t, `(?m)^ssed: --auth-url: .* \(ssed\.yaml line 14\)$`, stderr, "found by auth")
	require.NotContains(t, stderr, "line 8")
	for _, command := range [][]string{{"config"}, {"doctor"}, {"pub", "a", "x"}} {
		file := writeFile(t, "ssed.yaml", "redis-url: http://s3cret\n")
		code, _, stderr := readFlags(t, nil, append(command, "--config", file)...)
		require.Equal(t, exitUsage, code)
		require.Regexp(t, `(?m)^ssed: --redis-url: .* \(ssed\.yaml line 1\)$`, stderr)
		require.NotContains(t, stderr, "s3cret")
	}
}

func TestFileThatCannotBeReadEndsWithAUsageError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"drain: 'x", "unexpected end"},
		{"drain: 1s\n\tx: y", "line 2"},
		{"- drain", "not a list of keys with values"},
		{"just text", "not a list of keys with values"},
		{"drain: 1s\n---\ndrain: 2s", "more than one document"},
		{"# " + strings.Repeat("x", maxFileBytes), "larger than"},
	} {
		code, _, stderr := readFlags(t, nil, "--config", writeFile(t, "ssed.yaml", c.text))
		require.Equal(t, exitUsage, code, "%.50s", c.text)
		require.Contains(t, stderr, "ssed: --config: ")
		require.Contains(t, stderr, c.want)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "missing"), t.TempDir()} {
		code, _, stderr := readFlags(t, nil, "--config", path)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "ssed: --config: "+path+": ")
	}
}

// TestFileThatCannotBeReadIsNotRepeated: a value that was not quoted may be a secret.
func TestFileThatCannotBeReadIsNotRepeated(t *testing.T) {
	code, stdout, stderr := readFlags(t, nil, "config", "--config", writeFile(t, "ssed.yaml", "admin-token: *s3cret-s3cret-s3cret\n"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "a value that begins with * must be quoted")
	require.NotContains(t, stdout+stderr, "s3cret")
}

func TestConfigPrintsAFileThatGivesTheSameConfiguration(t *testing.T) {
	env := []string{"SSED_PATTERNS=a*,b:#c", "SSED_PPROF=yes"}
	args := []string{
		"--drain=7s", "--channels-allow=news:*", `--channels-allow=a\,b`, "--trusted-proxies=10.0.0.0/8,::1", "--heartbeat-event=ping",
		"--instance=" + strings.Repeat("long", 30), "--redis-url=redis://127.0.0.1:1/3?client_name=x",
	}
	want, _ := effective(t, env, args...)
	require.Equal(t, []any{"news:*", "a,b"}, want["channels-allow"])
	_, text, _ := readFlags(t, env, append([]string{"config"}, args...)...)
	got, from := effective(t, nil, "--config", writeFile(t, "ssed.yaml", text))
	require.Equal(t, want, got)
	require.Contains(t, from["drain"], "ssed.yaml line ")
	for _, f := range allFlags(t) {
		key := fileKey(f.Name)
		require.True(t, key == "config" || strings.Contains(text, "\n"+key+": ") || strings.Contains(text, "\n# "+key+":  # not set"), key)
	}
}

func TestConfigShowsNoSecrets(t *testing.T) {
	t.Parallel()
	file := writeFile(t, "ssed.yaml", "redis-url: redis://ssed:s3cret@127.0.0.1:6379/0\nadmin-token: s3cret-s3cret-s3cret\n")
	jwt := "SSED_AUTH_JWT_SECRET=s3cret" + strings.Repeat("s3cret", 10)
	for _, c := range []struct{ env, args []string }{
		{[]string{jwt}, []string{"--config", file, "--auth=jwt"}},
		{[]string{"SSED_REDIS_URL=redis://:s3cret@127.0.0.1:6379", "SSED_ADMIN_TOKEN=s3cret-s3cret-s3cret"}, nil},
		{nil, []string{"--redis-url=redis://s3cret@127.0.0.1:6379"}},
		{nil, []string{"--redis-url=unix://user:s3cret@/run/redis.sock?db=1"}},
		{nil, []string{"--redis-url=default:s3cret@redis:6379"}},
		{nil, []string{"--redis-url=redis://user:#s3cret@host"}},
		{nil, []string{"--redis-url=redis://user:12?s3cret@host"}},
		{nil, []string{"--auth-url=http://user:s3cret@127.0.0.1/check?key=s3cret"}},
		{nil, []string{"--auth-url=http://user:12/s3cret@127.0.0.1/check"}},
		{nil, []string{"--auth-url=http://s3cret@127.0.0.1/check"}},
		{nil, []string{"--auth=jwt", "--auth-jwks-url=https://127.0.0.1/keys?key=s3cret"}},
		// What is refused is printed too.
		{nil, []string{"--redis-url=redis://user:%s3cret@host"}},
		{nil, []string{"--redis-url=redis://user:12/s3cret@host"}},
		{nil, []string{"--admin-token=s3cret"}},
	} {
		_, stdout, stderr := readFlags(t, c.env, append([]string{"config"}, c.args...)...)
		require.NotContains(t, stdout+stderr, "3cret", "%v", c.args)
		require.Regexp(t, hidden+"|is not shown", stdout)
	}
}

func TestPrintedFileWithoutItsSecretsIsRefused(t *testing.T) {
	_, text, _ := readFlags(t, []string{"SSED_REDIS_URL=redis://u:s3cret@127.0.0.1:6379", "SSED_ADMIN_TOKEN=s3cret-s3cret-s3cret"}, "config")
	code, _, stderr := readFlags(t, nil, "--config", writeFile(t, "ssed.yaml", text))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--redis-url: the password is left out")
	require.Contains(t, stderr, "--admin-token: ")
}

func TestURLsOfAccessWithoutTheirSecretsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"--auth-url=http://127.0.0.1/check?a=b&key=s3cret"},
		{"--auth-jwks-url=https://127.0.0.1/keys?key=s3cret", "--auth=jwt"},
	} {
		flag, _, _ := strings.Cut(args[0], "=")
		code, text, stderr := readFlags(t, nil, append([]string{"config"}, args...)...)
		require.Equal(t, exitOK, code, stderr)
		code, _, stderr = readFlags(t, nil, "config", "--config", writeFile(t, "ssed.yaml", text))
		require.Equal(t, exitUsage, code, text)
		require.Contains(t, stderr, flag+": a secret is left out")
	}
}

// TestASecretAndItsFileAreOneSetting: whichever of the two comes from the source that
// goes before counts.
func TestASecretAndItsFileAreOneSetting(t *testing.T) {
	t.Parallel()
	urlFile, tokenFile := writeFile(t, "url", "redis://127.0.0.1:1\n"), writeFile(t, "token", "0123456789abcdef\n")
	yamlURL, yamlFile := writeFile(t, "ssed.yaml", "redis-url: redis://127.0.0.1:2\n"), writeFile(t, "ssed.yaml", "redis-url-file: "+urlFile+"\n")
	type setting = map[string]any
	f := func(env, args []string, want setting, absent string) {
		t.Helper()
		values, _ := effective(t, env, args...)
		for key, value := range want {
			require.Equal(t, value, values[key], key)
		}
		require.NotContains(t, values, absent)
	}
	const one, two = "redis://127.0.0.1:1", "redis://127.0.0.1:2"
	f([]string{"SSED_REDIS_URL_FILE=" + urlFile}, []string{"--redis-url=" + two}, setting{"redis-url": two}, "redis-url-file")
	f([]string{"SSED_REDIS_URL=" + two}, []string{"--redis-url-file=" + urlFile}, setting{"redis-url-file": urlFile}, "redis-url")
	f([]string{"SSED_REDIS_URL_FILE=" + urlFile}, []string{"--config", yamlURL}, setting{"redis-url-file": urlFile}, "redis-url")
	f([]string{"SSED_REDIS_URL=" + one}, []string{"--config", yamlFile}, setting{"redis-url": one}, "redis-url-file")
	f([]string{"SSED_REDIS_URL_FILE="}, []string{"--config", yamlURL}, setting{"redis-url": two}, "redis-url-file")
	f([]string{"SSED_REDIS_URL_FILE=" + urlFile}, []string{"--redis-url="}, setting{"redis-url": ""}, "redis-url-file")
	f([]string{"SSED_ADMIN_TOKEN_FILE=" + tokenFile}, []string{"--admin-token=fedcba9876543210"}, setting{"admin-token": hidden}, "admin-token-file")
	f([]string{"SSED_ADMIN_TOKEN=fedcba9876543210"}, []string{"--admin-token-file=" + tokenFile}, setting{"admin-token-file": tokenFile}, "admin-token")

	refused := func(env, args []string, want string) {
		t.Helper()
		code, _, stderr := readFlags(t, env, append([]string{"config"}, args...)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, want)
	}
	refused([]string{"SSED_REDIS_URL_FILE=" + urlFile, "SSED_REDIS_URL=" + one}, nil, "--redis-url-file: only one of it")
	refused(nil, []string{"--config", writeFile(t, "ssed.yaml", "admin-token: fedcba9876543210\nadmin-token-file: "+tokenFile)}, "--admin-token-file: only one of it")
}

// TestExampleFileIsTaken reads the file as it is shipped, and with what it only suggests.
func TestExampleFileIsTaken(t *testing.T) {
	const path = "../../deploy/ssed.yaml"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var keys map[string]yaml.Node
	require.NoError(t, yaml.Unmarshal(text, &keys))
	values, from := effective(t, nil, "--config", path)
	for key, node := range keys {
		require.Contains(t, from[key], "ssed.yaml line ", key)
		require.Equal(t, texts(&node), values[key], key)
	}

	suggested := regexp.MustCompile(`(?m)^#([a-z-]+: )`).ReplaceAllString(string(text), "$1")
	_, _, stderr := readFlags(t, nil, "config", "--config", writeFile(t, "ssed.yaml", suggested))
	require.NotContains(t, stderr, "--config: ")
	for line := range strings.Lines(stderr) { // files that are elsewhere
		require.True(t, regexp.MustCompile(`/etc/ssed/|/run/credentials/`).MatchString(line) || strings.HasPrefix(line, "Run "), line)
	}
}

func TestConfigPrintsWhatItRefuses(t *testing.T) {
	code, stdout, stderr := readFlags(t, []string{"SSED_DRAIN=soon"}, "config")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, `--drain: "soon"`)
	require.Contains(t, stdout, "drain: soon  # $SSED_DRAIN\n")
}
