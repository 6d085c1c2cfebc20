package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	goversion "go/version"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"ssed/engine"
	"ssed/internal/redistest"
	"ssed/sseproto"
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

// TestExampleSecretsAreRefused: who applies the file as it is must not run with a token
// that everybody can read.
func TestExampleSecretsAreRefused(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes/secret.example.yaml")
	require.NoError(t, err)
	values := map[string]string{}
	for documents := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var secret struct {
			StringData map[string]string `yaml:"stringData"`
		}
		err := documents.Decode(&secret)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		maps.Copy(values, secret.StringData)
	}
	code, _, stderr := readFlags(t, []string{"SSED_REDIS_URL=" + values["url"]}, "config")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--redis-url: the password is left out")
	code, _, stderr = readFlags(t, nil, "config", "--admin-token-file", writeFile(t, "tokens", values["tokens"]))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--admin-token-file: ")
	require.Equal(t, "HIDDEN", values["prometheus"])
}

// readYAML reads the first document of a file of deploy.
func readYAML(t *testing.T, file string, to any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy", file))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, to), file)
}

// TestComposeTrustsTheProxyAlone: whoever is in a trusted network says who its client is,
// and the gateway of the bridge stands for every program of the machine.
func TestComposeTrustsTheProxyAlone(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Environment map[string]string
			Networks    map[string]struct {
				Address string `yaml:"ipv4_address"`
			}
		}
	}
	readYAML(t, "compose.yaml", &file)
	proxy := file.Services["haproxy"].Networks["default"].Address
	require.NotEmpty(t, proxy)
	for _, name := range []string{"ssed1", "ssed2"} {
		require.Equal(t, proxy, file.Services[name].Environment["SSED_TRUSTED_PROXIES"])
	}
}

// TestShippedFilesTrustNoNetwork: each proxy is named by its address.
func TestShippedFilesTrustNoNetwork(t *testing.T) {
	setting := regexp.MustCompile(`(?m)(?:SSED_TRUSTED_PROXIES: *|trusted-proxies[:=] *)([^\n]*)`)
	seen := 0
	err := filepath.WalkDir("../../deploy", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) == ".1" {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range setting.FindAllStringSubmatch(string(text), -1) {
			require.NotContains(t, m[1], "/", path)
			seen++
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, seen, 4)
}

// TestComposeAndKubernetesStartWithAToken: their admin listeners are reachable from
// other machines.
func TestComposeAndKubernetesStartWithAToken(t *testing.T) {
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	readYAML(t, "compose.yaml", &compose)
	require.Regexp(t, `^\$\{SSED_ADMIN_TOKEN:\?`, compose.Services["ssed1"].Environment["SSED_ADMIN_TOKEN"], "compose refuses to start without one")

	container := podOf(t).Containers[0]
	for _, e := range container.Env {
		if e.Name != "SSED_ADMIN_TOKEN_FILE" {
			continue
		}
		dir, key := filepath.Split(e.Value)
		for _, mount := range container.VolumeMounts {
			if mount.MountPath != filepath.Clean(dir) {
				continue
			}
			for _, v := range podOf(t).Volumes {
				if v.Name == mount.Name {
					require.False(t, v.Secret.Optional)
					require.Equal(t, key, v.Secret.Items[0].Path)
					return
				}
			}
		}
	}
	t.Fatal("no SSED_ADMIN_TOKEN_FILE from a Secret")
}

// TestProbesUseTheAdminPort: a flood of connections on the public one must not take the
// pod out of the Service, or restart it.
func TestProbesUseTheAdminPort(t *testing.T) {
	c := podOf(t).Containers[0]
	require.Equal(t, "admin", c.ReadinessProbe.HTTPGet.Port)
	require.Equal(t, "/ready", c.ReadinessProbe.HTTPGet.Path)
	require.Equal(t, "admin", c.LivenessProbe.HTTPGet.Port)
	require.Equal(t, "/health", c.LivenessProbe.HTTPGet.Path)
}

// pod is what the tests look at of the pod of Kubernetes.
type pod struct {
	Containers []struct {
		Image        string
		Env          []struct{ Name, Value string }
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
		ReadinessProbe probe `yaml:"readinessProbe"`
		LivenessProbe  probe `yaml:"livenessProbe"`
	}
	Volumes []struct {
		Name   string
		Secret struct {
			Optional bool
			Items    []struct{ Path string }
		}
	}
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

func podOf(t *testing.T) pod {
	t.Helper()
	var deployment struct {
		Spec struct{ Template struct{ Spec pod } }
	}
	readYAML(t, "kubernetes/deployment.yaml", &deployment)
	require.Len(t, deployment.Spec.Template.Spec.Containers, 1)
	return deployment.Spec.Template.Spec
}

// TestManifestsNameTheImageOfTheRelease: what "make image" makes of the newest version of the
// change log.
func TestManifestsNameTheImageOfTheRelease(t *testing.T) {
	changes, err := os.ReadFile("../../CHANGELOG.md")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^## \[(\d[^\]]*)\]`).FindSubmatch(changes)
	require.NotNil(t, version)
	release := string(version[1])

	var kustomization struct {
		Images []struct {
			Name   string
			NewTag string `yaml:"newTag"`
		}
	}
	readYAML(t, "kubernetes/kustomization.yaml", &kustomization)
	require.Len(t, kustomization.Images, 1)
	require.Equal(t, podOf(t).Containers[0].Image, kustomization.Images[0].Name)
	require.Equal(t, release, kustomization.Images[0].NewTag)

	named := regexp.MustCompile(`\bssed[:-]v?(\d+\.\d+\.\d+)`)
	for _, file := range []string{"kubernetes/kustomization.yaml", "compose.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy", file))
		require.NoError(t, err)
		all := named.FindAllSubmatch(text, -1)
		require.NotEmpty(t, all, file)
		for _, m := range all {
			require.Equal(t, release, string(m[1]), "%s: %s", file, m[0])
		}
	}
}

// TestImageIsBuiltByADigest: a tag can be moved to another image. The Go of the builder
// fetches no other one (its image has GOTOOLCHAIN=local), so it is as new as go.mod asks.
func TestImageIsBuiltByADigest(t *testing.T) {
	text, err := os.ReadFile("../../deploy/Dockerfile")
	require.NoError(t, err)
	var from []string
	for _, m := range regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(\S+)`).FindAllSubmatch(text, -1) {
		from = append(from, string(m[1]))
	}
	require.Equal(t, []string{"$BUILDER", "scratch"}, from)
	builder := regexp.MustCompile(`(?m)^ARG BUILDER=golang:([0-9.]+)-[a-z]+@sha256:[0-9a-f]{64}$`).FindSubmatch(text)
	require.NotNil(t, builder)
	module, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	asked := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(module)
	require.NotNil(t, asked)
	require.GreaterOrEqual(t, goversion.Compare("go"+string(builder[1]), "go"+string(asked[1])), 0)
}

// TestReleaseRefusesWhatIsNotCommitted: files that git does not know are compiled too.
func TestReleaseRefusesWhatIsNotCommitted(t *testing.T) {
	repository := t.TempDir()
	command := func(name string, args ...string) (out string, err error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = repository
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	require.NoError(t, os.Mkdir(filepath.Join(repository, "deploy"), 0o755))
	script, err := os.ReadFile("../../deploy/release.sh")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(repository, "deploy/release.sh"), script, 0o755))
	for _, args := range [][]string{
		{"init", "-q"},
		{"add", "."},
		{"-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "first"},
	} {
		out, err := command("git", args...)
		require.NoError(t, err, out)
	}
	mine := filepath.Join(t.TempDir(), "mine")
	require.NoError(t, os.Mkdir(mine, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(mine, "file"), nil, 0o600))
	out, err := command("deploy/release.sh", mine)
	require.Error(t, err)
	require.Contains(t, out, "is not empty and no release")
	require.FileExists(t, filepath.Join(mine, "file"))

	require.NoError(t, os.WriteFile(filepath.Join(repository, "new.go"), nil, 0o600))
	out, err = command("deploy/release.sh")
	require.Error(t, err)
	require.Contains(t, out, "not committed")
}

// TestInternetProfileHolds starts the shipped file, with addresses and secrets of the test.
func TestInternetProfileHolds(t *testing.T) {
	t.Parallel()
	const file, token = "../../deploy/internet.yaml", "0123456789abcdef"
	r := redistest.Start(t)
	in := start(t, "--config", file, "--redis-url", r.URL(), "--admin-token-file", writeFile(t, "token", token), "--pprof=false")
	in.waitReady()
	ask := func(client string, change func(*http.Request)) *http.Response {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.public+"/sse/connect?channel_id=a", nil)
		require.NoError(t, err)
		req.Host = "sse.example.com"
		req.Header.Set("X-Forwarded-For", client)
		if change != nil {
			change(req)
		}
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	// Host names.
	require.Equal(t, 421, ask("192.0.2.1", func(r *http.Request) { r.Host = "evil.example" }).StatusCode)
	// Origins.
	for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.example": ""} {
		resp := ask("192.0.2.2", func(r *http.Request) { r.Header.Set("Origin", origin) })
		require.Equal(t, want, resp.Header.Get("Access-Control-Allow-Origin"))
	}
	// Channels.
	require.Equal(t, 400, ask("192.0.2.3", func(r *http.Request) {
		r.URL.RawQuery = "channel_id=1&channel_id=2&channel_id=3&channel_id=4&channel_id=5&channel_id=6&channel_id=7&channel_id=8&channel_id=9&channel_id=10&channel_id=11"
	}).StatusCode)
	require.Equal(t, 403, ask("192.0.2.3", func(r *http.Request) { r.URL.RawQuery = "channel_id=internal:x" }).StatusCode)
	// An address, as the proxy names it.
	statuses := map[int]int{}
	for range 101 {
		statuses[ask("192.0.2.4", nil).StatusCode]++
	}
	require.Equal(t, map[int]int{200: 100, 429: 1}, statuses)
	require.Equal(t, 200, ask("192.0.2.5", nil).StatusCode)
	// The admin listener.
	status, _ := in.get(in.admin + "/api/stats")
	require.Equal(t, 401, status)
	require.Contains(t, in.metricsWith(token), `ssed_refused_total{reason="address"} 1`)
	// What takes too long to try.
	code, stdout, stderr := readFlags(t, nil, "config", "--config", file, "--redis-url", r.URL(), "--admin-token", token)
	require.Equal(t, exitOK, code, stderr)
	for _, want := range []string{"max-age: 1h ", "handshake-timeout: 5s ", "connect-rate-per-ip: 10:100 ", "admin: 127.0.0.1:9090 "} {
		require.Contains(t, stdout, "\n"+want)
	}
}

// TestSecurityTellsTheDefaultsOfLimits: an item that names a flag has its default in
// brackets, "none" for 0, or the words of its help where the process finds it out.
func TestSecurityTellsTheDefaultsOfLimits(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	require.NoError(t, err)
	_, list, found := strings.Cut(string(text), "\n## What each limit protects\n")
	require.True(t, found)
	list, _, found = strings.Cut(list, "\nssed reads requests by RFC 9112")
	require.True(t, found)
	defaults := map[string]string{}
	for _, f := range allFlags(t) {
		defaults["--"+f.Name] = f.Default
	}
	flagName, seen := regexp.MustCompile("`(--[a-z-]+)`"), 0
	flagDefault := regexp.MustCompile("`(--[a-z-]+)` \\(([^)]+)\\)")
	for line := range strings.Lines(list) {
		limits, _, isItem := strings.Cut(line, ": ")
		if !isItem || !strings.HasPrefix(limits, "* ") {
			continue
		}
		told := flagDefault.FindAllStringSubmatch(limits, -1)
		require.Len(t, told, len(flagName.FindAllString(limits, -1)), line)
		for _, m := range told {
			value, known := defaults[m[1]]
			require.True(t, known, m[1])
			switch value {
			case "", "0":
				require.Contains(t, []string{"none", "limit of open files less 256"}, m[2], m[1])
			default:
				require.Equal(t, value, m[2], m[1])
			}
			seen++
		}
	}
	require.GreaterOrEqual(t, seen, 12)
	require.Contains(t, list, fmt.Sprintf("* Header fields (%d): ", sseproto.DefaultMaxFields))
	require.Equal(t, 256, engine.ReservedFiles)
}
