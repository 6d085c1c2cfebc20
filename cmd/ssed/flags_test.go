package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite what docs/FLAGS.md, docs/COMMAND.md and docs/METRICS.md say of flags and metrics")

// runProgram runs ssed to its end. See readFlags for what only reads flags.
func runProgram(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runToTheEnd(t, program, env, args)
}

func runToTheEnd(t *testing.T, program string, env, args []string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = environment(env...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestBadValuesAreAllNamedAtOnce(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no-such-file")
	bad := map[string]string{
		"--listen":                      "8080",
		"--listen-mode":                 "rw",
		"--reuse-port":                  "maybe",
		"--max-connections":             "0",
		"--max-connections-per-ip":      "-1",
		"--max-connections-per-subject": "-1",
		"--connect-rate-per-ip":         "fast",
		"--trusted-proxies":             "10.0.0.0/33",
		"--proxy-protocol":              "v2",
		"--peer-timeout":                "1ms",
		"--heartbeat-event":             "message",
		"--max-age":                     "1ms",
		"--auth":                        "basic",
		"--auth-jwt-secret-file":        missing,
		"--auth-jwt-key-file":           missing,
		"--auth-jwks-url":               "keys",
		"--auth-jwt-audience":           "a",
		"--auth-jwt-issuer":             "b",
		"--auth-jwt-leeway":             "1h",
		"--auth-cookie":                 "a b",
		"--auth-query":                  "channel_id",
		"--auth-url":                    "ftp://host",
		"--auth-timeout":                "1h",
		"--auth-concurrency":            "0",
		"--auth-cache-ttl":              "2h",
		"--channels-allow":              strings.Repeat("a", 2000),
		"--channels-deny":               strings.Repeat("a", 2000),
		"--admin-token":                 "short",
		"--handshake-timeout":           "fast",
		"--drain":                       "10",
		"--cors-origins":                "https://a.example/path",
		"--cors-credentials":            "perhaps",
		"--retry":                       "5s-2s",
		"--start-id":                    "maybe",
		"--heartbeat":                   "1ms",
		"--max-channels-per-connection": "2000",
		"--max-head":                    "8KiB",
		"--broadcast-channel":           "__all",
		"--max-message-bytes":           "1MB",
		"--ring-bytes":                  "1KiB",
		"--shards":                      "x",
		"--redis-url-file":              missing,
		"--patterns":                    "",
		"--envelope":                    "xml",
		"--partitions":                  "0",
		"--stream-prefix":               "a b",
		"--instance":                    "two words",
		"--redis-feeds":                 "none",
		"--tick-interval":               "1us",
		"--probe-timeout":               "0",
		"--history":                     "maybe",
		"--history-max":                 "-1",
		"--inbox":                       "two words",
		"--history-ttl":                 "1",
		"--policy":                      "chat:*",
		"--batch-size":                  "1.5",
		"--flush-interval":              "0",
		"--gap-wait":                    "100ms",
		"--history-wait":                "x",
		"--history-readers":             "0",
		"--admin":                       "localhost",
		"--publish-listen":              "localhost",
		"--publish-jwt-secret-file":     missing,
		"--publish-jwt-key-file":        missing,
		"--auth-require-exp":            "often",
		"--auth-proxy-env":              "often",
		"--pprof":                       "sometimes",
		"--log-level":                   "loud",
		"--log-format":                  "xml",
	}
	var args []string
	for name, value := range bad {
		args = append(args, name+"="+value)
	}
	code, _, stderr := readFlags(t, nil, args...)
	require.Equal(t, exitUsage, code)
	for name := range bad {
		require.Contains(t, stderr, "ssed: "+name+": ", "not named in:\n%s", stderr)
	}
}

func TestUnknownFlagsAndArgumentsAreRefused(t *testing.T) {
	for _, arg := range []string{"--no-such-flag", "extra"} {
		code, _, stderr := readFlags(t, nil, arg)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, arg)
	}
}

func TestEveryFlagHasAnEnvironmentTwin(t *testing.T) {
	for _, f := range allFlags(t) {
		want := "SSED_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		require.Equal(t, []string{want}, f.Tag.Envs)
	}
	code, _, stderr := readFlags(t, []string{"SSED_DRAIN=soon", "SSED_PPROF=maybe", "SSED_LISTEN=a,b", "SSED_RETRY="}, "--history-max=x")
	require.Equal(t, exitUsage, code)
	for _, want := range []string{`--drain: "soon"`, `--pprof: "maybe"`, `--listen: "a"`, `--listen: "b"`, `--history-max: "x"`} {
		require.Contains(t, stderr, want)
	}
	require.NotContains(t, stderr, "--retry", "an empty variable is none")
}

// TestTextsOfFlagsHaveNoVariables: nothing would be put in their place, see newParser.
func TestTextsOfFlagsHaveNoVariables(t *testing.T) {
	var c commandLine
	parser, err := newParser(&c, io.Discard)
	require.NoError(t, err)
	texts := 0
	require.NoError(t, kong.Visit(parser.Model, func(v kong.Visitable, next kong.Next) error {
		list := []string{}
		switch v := v.(type) {
		case *kong.Node:
			list = append(list, v.Help, v.Detail)
		case *kong.Flag:
			list = append(list, v.PlaceHolder)
		case *kong.Value:
			list = append(list, v.Help, v.Default, v.Enum)
		}
		for _, text := range list {
			require.NotContains(t, text, "${")
			require.NotContains(t, text, "$$")
			texts++
		}
		return next(nil)
	}))
	require.Greater(t, texts, 1000)
}

func TestFlagsGoBeforeTheEnvironment(t *testing.T) {
	code, _, stderr := readFlags(t, []string{"SSED_DRAIN=bad"}, "--drain=5s", "--log-level=bad")
	require.Equal(t, exitUsage, code)
	require.NotContains(t, stderr, "--drain")
}

func TestPasswordsOfRedisAreNeverShown(t *testing.T) {
	for _, url := range []string{
		"http://user:s3cret@host", "redis://user:s3cret@host:port", "redis://user:12/s3cret@host",
		"redis://user:s3cret@host/db", "redis://user:%s3cret@host",
	} {
		code, stdout, stderr := readFlags(t, []string{"SSED_REDIS_URL=" + url})
		require.Equal(t, exitUsage, code, url)
		require.Contains(t, stderr, "--redis-url: ")
		require.NotContains(t, stdout+stderr, "cret")
	}
}

func TestDatabaseOfAClusterIsRefusedAtStart(t *testing.T) {
	for _, url := range []string{"redis://127.0.0.1:1/2?addr=127.0.0.1:2", "redis://127.0.0.1:1?addr=127.0.0.1:2&db=2"} {
		for _, command := range []string{"serve", "pub", "doctor"} {
			args := []string{command, "--redis-url", url}
			if command == "pub" {
				args = append(args, "a", "x")
			}
			code, _, stderr := readFlags(t, nil, args...)
			require.Equal(t, exitUsage, code)
			require.Contains(t, stderr, "--redis-url: a Redis Cluster has no numbered databases")
		}
	}
}

func TestOnlyOneRedisURLIsTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "url")
	require.NoError(t, os.WriteFile(file, []byte("redis://127.0.0.1:1\n"), 0o600))
	code, _, stderr := readFlags(t, nil, "--redis-url=redis://127.0.0.1:1", "--redis-url-file="+file)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--redis-url-file: ")
	require.NoError(t, os.WriteFile(file, []byte("\n"), 0o600))
	code, _, stderr = readFlags(t, nil, "--redis-url-file="+file)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "is empty")
}

func TestSizesAndTimesAreRead(t *testing.T) {
	var p problems
	size := func(text string, want int64) {
		t.Helper()
		require.Equal(t, want, p.bytes("--x", text, 0, 1<<60))
	}
	size("0", 0)
	size("65536", 65536)
	size("512KiB", 512<<10)
	size("1 MiB", 1<<20)
	size("2GiB", 2<<30)
	retry := func(text, want string) {
		t.Helper()
		least, most := p.retry(text)
		require.Equal(t, want, fmt.Sprint(least, most))
	}
	retry("2s-5s", "2s 5s")
	retry("1500ms - 1m", "1.5s 1m0s")
	retry("3s", "3s 3s")
	require.Empty(t, p)
	for _, text := range []string{"", "1KB", "1kib", "-1", "1e6", "9999999999GiB", "KiB"} {
		p = nil
		p.bytes("--x", text, 0, 1<<60)
		require.Len(t, p, 1, text)
	}
	for _, text := range []string{"", "-", "2s-", "-2s", "2-5", "2s-5s-6s", "0s"} {
		p = nil
		p.retry(text)
		require.Len(t, p, 1, text)
	}
}

func TestNetworksAndRatesAreRead(t *testing.T) {
	var p problems
	networks := func(want string, list ...string) {
		t.Helper()
		require.Equal(t, want, fmt.Sprint(p.networks("--x", list)))
	}
	networks("[]")
	networks("[10.0.0.0/8 fd00::/8]", "10.1.2.3/8", "fd00::/8")
	networks("[192.0.2.1/32 2001:db8::1/128]", "192.0.2.1", "2001:db8::1")
	rate := func(text string, want ...int) {
		t.Helper()
		perSecond, burst := p.rate("--x", text)
		require.Equal(t, want, []int{perSecond, burst})
	}
	rate("0", 0, 0)
	rate("5", 5, 0)
	rate("5:200", 5, 200)
	require.Empty(t, p)
	for _, text := range []string{"", "10.0.0.0/33", "10.0.0", "host", "fe80::1%eth0", "10.0.0.1:80"} {
		p = nil
		p.networks("--x", []string{text})
		require.Len(t, p, 1, text)
	}
	for _, text := range []string{"", "-1", "5:", "5:0", "5/s", ":5"} {
		p = nil
		p.rate("--x", text)
		require.Len(t, p, 1, text)
	}
}

func TestTokenOfTheAdminListenerIsNeverShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	for _, args := range [][]string{
		{"--admin-token=s3cret"},
		{"--admin-token=s3cret s3cret s3cret"},
		{"--admin-token-file=" + file},
		{"--admin-token=s3cret", "--admin-token-file=" + file},
	} {
		code, stdout, stderr := readFlags(t, nil, args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "--admin-token")
		require.NotContains(t, stdout+stderr, "s3cret")
	}
}

func TestVersionAndHelpExitWithoutAnError(t *testing.T) {
	t.Parallel()
	code, stdout, _ := readFlags(t, nil, "--version")
	require.Equal(t, exitOK, code)
	require.Regexp(t, `^ssed v0\.0\.0-test go1\.\S+ \w+/\w+\n$`, stdout)
	code, again, _ := readFlags(t, nil, "version")
	require.Equal(t, exitOK, code)
	require.Equal(t, stdout, again)
	code, stdout, _ = readFlags(t, nil, "--help")
	require.Equal(t, exitOK, code)
	for _, command := range commands(t) {
		require.Contains(t, stdout, "\n  "+command.Name+" ")
		code, _, _ := readFlags(t, nil, command.Name, "--help")
		require.Equal(t, exitOK, code)
	}
	code, stdout, _ = readFlags(t, nil, "serve", "--help")
	require.Equal(t, exitOK, code)
	for _, f := range allFlags(t) {
		require.Contains(t, stdout, "--"+f.Name)
		for _, env := range f.Tag.Envs {
			require.Contains(t, stdout, "$"+env)
		}
	}
}

// TestUsageErrorsNameTheHelpOfTheirCommand: that of serve says nothing of the flags of tail.
func TestUsageErrorsNameTheHelpOfTheirCommand(t *testing.T) {
	t.Parallel()
	f := func(help string, args ...string) {
		t.Helper()
		code, _, stderr := runProgram(t, nil, args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "\"ssed "+help+" --help\" for the flags")
	}
	f("tail", "tail")                         // an argument is missing
	f("pub", "pub", "--nosuch", "a")          // no such flag
	f("tail", "tail", "--count", "many", "a") // a bad value
	f("doctor", "doctor", "--public-url", "ftp://x")
	f("partition", "partition")
	f("serve", "--drian", "5s")
	f("serve", "nosuch")
}

func TestFlagWithoutItsValueIsNamed(t *testing.T) {
	t.Parallel()
	f := func(want string, args ...string) {
		t.Helper()
		code, _, stderr := runProgram(t, nil, args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "ssed: "+want+"\nRun ")
	}
	f("--drain: its value is missing: --drain TIME", "--drain")
	f("--public-url: its value is missing: --public-url URL", "doctor", "--public-url")
	f("unknown flag --nosuch", "tail", "a", "--nosuch")
}

func commands(t *testing.T) []*kong.Node {
	t.Helper()
	var c commandLine
	parser, err := newParser(&c, io.Discard)
	require.NoError(t, err)
	return parser.Model.Children
}

// allFlags returns the flags of serve in the order of its help, without those for tests.
func allFlags(t *testing.T) []*kong.Flag {
	t.Helper()
	var c commandLine
	parser, err := newParser(&c, io.Discard)
	require.NoError(t, err)
	return slices.DeleteFunc(commandNode(parser, "serve").Flags, func(f *kong.Flag) bool { return f.Hidden })
}

// flagsList is what docs/FLAGS.md says of each flag.
func flagsList(t *testing.T) string {
	var b strings.Builder
	group := ""
	for _, f := range allFlags(t) {
		if f.Group == nil {
			continue
		}
		if f.Group.Title != group {
			group = f.Group.Title
			fmt.Fprintf(&b, "\n## %s\n\n", strings.TrimSuffix(group, ":"))
		}
		b.WriteString(flagItem(f, ""))
	}
	return b.String() + "\n"
}

// flagItem is a list item: name and value, the variable if it is to be told, the default, the
// help.
func flagItem(f *kong.Flag, variable string) string {
	name := "--" + f.Name
	if !f.IsBool() {
		name += " " + f.PlaceHolder
	}
	item := "* `" + name + "`"
	if f.Short != 0 {
		item += ", `-" + string(f.Short) + "`"
	}
	var more []string
	if variable != "" {
		more = append(more, "`"+variable+"`")
	}
	if f.Default != "" {
		more = append(more, "default `"+f.Default+"`")
	}
	if len(more) > 0 {
		item += " (" + strings.Join(more, ", ") + ")"
	}
	return item + ": " + strings.ReplaceAll(f.Help, "*", `\*`) + "\n"
}

func TestDocsTellTheFlagsOfHelp(t *testing.T) {
	requireTable(t, "../../docs/FLAGS.md", "flags", flagsList(t))
}

func TestDocsTellTheCommandsOfHelp(t *testing.T) {
	const path = "../../docs/COMMAND.md"
	list := "\n"
	for _, command := range commands(t) {
		list += fmt.Sprintf("* `ssed %s`: %s\n", command.Name, command.Help)
	}
	requireTable(t, path, "commands", list+"\n")
	for _, command := range commands(t) {
		if own := ownFlagsList(command); own != "" {
			requireTable(t, path, command.Name+" flags", own)
		}
	}
}

// ownFlagsList is about the flags that no other document tells of.
func ownFlagsList(command *kong.Node) string {
	var items strings.Builder
	for _, f := range command.Flags {
		if f.Hidden || f.Group != nil {
			continue
		}
		variable := ""
		if len(f.Tag.Envs) > 0 {
			variable = f.Tag.Envs[0]
		}
		items.WriteString(flagItem(f, variable))
	}
	if items.Len() == 0 {
		return ""
	}
	return "\n" + items.String() + "\n"
}

// requireTable compares what a file has between its markers; go test -run DocsTell
// ./cmd/ssed -update writes it.
func requireTable(t *testing.T, path, marker, want string) {
	t.Helper()
	from, to := "<!-- "+marker+" -->\n", "<!-- /"+marker+" -->\n"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), from)
	require.True(t, ok)
	table, after, ok := strings.Cut(rest, to)
	require.True(t, ok)
	if *update {
		table = want
		require.NoError(t, os.WriteFile(path, []byte(before+from+table+to+after), 0o600))
	}
	require.Equal(t, want, table)
}

func TestDocsNameOnlyFlagsThatExist(t *testing.T) {
	names := []string{"--help", "--version"}
	for _, command := range commands(t) {
		for _, f := range command.Flags {
			names = append(names, "--"+f.Name)
		}
	}
	documents, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	documents = slices.DeleteFunc(documents, func(path string) bool {
		name := filepath.Base(path)
		return name == "LOADTEST.md" || name == "PERFORMANCE.md" // these name flags of loadtest too
	})
	for _, path := range append(documents, "../../README.md", "../../ARCHITECTURE.md", "../../SECURITY.md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile("`(--[a-z][a-z-]+)").FindAllStringSubmatch(string(text), -1) {
			require.True(t, slices.Contains(names, name[1]), "%s: %s", path, name[1])
		}
	}
}

// TestUnknownVariablesAreNamed: a typing error would be ignored in silence. Values may be
// secrets.
func TestUnknownVariablesAreNamed(t *testing.T) {
	env := []string{"SSED_DRIAN=s3cret", "SSED_PORT_8080_TCP=tcp://10.0.0.1:8080", "SSED_DRAIN=1s", "SSED_TOKEN=x", "SSED_PUBLIC_URL=http://x", "OTHER=x"}
	code, stdout, stderr := readFlags(t, env, "config")
	require.Equal(t, exitOK, code, "Kubernetes sets some for a Service of that name")
	require.Equal(t, "ssed: unknown variables are ignored, see ssed --help: SSED_DRIAN, SSED_PORT_8080_TCP\n", stderr)
	require.NotContains(t, stdout+stderr, "s3cret")
	taken, err := net.Listen("tcp", "127.0.0.1:0") // it ends at once
	require.NoError(t, err)
	defer taken.Close()
	code, _, stderr = runProgram(t, env, "--listen", taken.Addr().String(), "--admin", "off", "--log-format", "json")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, `"names":["SSED_DRIAN","SSED_PORT_8080_TCP"]`)
	require.NotContains(t, stderr, "s3cret")
}

// TestDurationsCanBeReadInJSON: they were numbers of nanoseconds.
func TestDurationsCanBeReadInJSON(t *testing.T) {
	in := start(t, "--drain", "1500ms")
	in.Signal(syscall.SIGTERM)
	in.wait()
	require.Contains(t, in.Log(), `"window":"1.5s"`)
}
