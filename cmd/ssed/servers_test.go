package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ssed/internal/redistest"
)

// notReady waits until the admin listener tells why the instance is not ready.
func (in *instance) notReady(why string) {
	in.t.Helper()
	in.eventually("not ready: "+why, func() bool {
		status, body := in.get(in.admin + "/ready")
		return status == http.StatusServiceUnavailable && strings.Contains(body, why)
	})
	status, _ := in.get(in.public + "/ready")
	require.Equal(in.t, http.StatusServiceUnavailable, status)
}

// disguised is a way to the server on which one text is another, as long as the first.
func disguised(t *testing.T, r *redistest.Server, text, as string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var relays sync.WaitGroup
	t.Cleanup(func() { // the instance has ended by now
		_ = ln.Close()
		relays.Wait()
	})
	relay := func(client net.Conn) {
		defer client.Close()
		server, err := net.Dial("tcp", r.Addr())
		if err != nil {
			return
		}
		defer server.Close()
		relays.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		copyDisguised(client, server, []byte(text), []byte(as))
	}
	relays.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			relays.Go(func() { relay(client) })
		}
	})
	return "redis://" + ln.Addr().String()
}

func copyDisguised(to io.Writer, from io.Reader, text, as []byte) {
	var held []byte // may be the beginning of the text
	for buf := make([]byte, 64<<10); ; {
		n, err := from.Read(buf)
		data := bytes.ReplaceAll(append(held, buf[:n]...), text, as)
		if err != nil {
			return
		}
		keep := min(len(text)-1, len(data))
		for !bytes.HasPrefix(text, data[len(data)-keep:]) {
			keep--
		}
		if _, err := to.Write(data[:len(data)-keep]); err != nil {
			return
		}
		held = bytes.Clone(data[len(data)-keep:])
	}
}

// TestServerThatIsTooOldIsNamed: it would fail with an error of a Lua compiler.
func TestServerThatIsTooOldIsNamed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	info, err := r.Do("INFO", "server")
	require.NoError(t, err)
	version := regexp.MustCompile(`redis_version:(\S+)`).FindStringSubmatch(info.(string))[1]
	url := disguised(t, r, "redis_version:"+version, "redis_version:"+"6.2.111111"[:len(version)])
	in := start(t, "--redis-url", url)
	in.notReady("needs Redis 7.0")
	in.eventually("told in the log", func() bool { return strings.Contains(in.Log(), "needs Redis 7.0") })
}

// TestNodeOfAClusterIsNamed, without the inbox, whose keys would fail first.
func TestNodeOfAClusterIsNamed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--cluster-enabled", "yes")
	_, err := r.Do("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	require.NoError(t, err)
	start(t, "--redis-url", r.URL(), "--inbox", "off").notReady("Cluster")
}

func TestProtocolTwoIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	code, _, stderr := runProgram(t, nil, "--redis-url", redistest.Start(t).URL()+"?protocol=2")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "protocol 2 is not supported")
}

// TestHistoryIsWrittenWithoutTheRightToScripts: hosted servers often take it away.
func TestHistoryIsWrittenWithoutTheRightToScripts(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	_, err := r.Do("ACL", "SETUSER", "ssed", "on", "nopass", "~*", "&*", "+@all", "-script")
	require.NoError(t, err)
	in := start(t, "--redis-url", strings.Replace(r.URL(), "redis://", "redis://ssed:x@", 1), "--gap-wait", "250ms")
	in.waitReady()
	in.publish("a", "kept")
	in.eventually("kept", func() bool { return len(historyData(t, r, "a")) == 1 })
	require.Zero(t, in.metric("ssed_history_errors_total"))
}

// TestSpoiledWatermarkIsRepaired, and who comes back from before it is told.
func TestSpoiledWatermarkIsRepaired(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	in := startRedis(t, r, "--gap-wait", "250ms")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	p.publish("a", "before")
	s.want("before")
	from := s.lastID
	in.written(r, from)
	_, err := r.Do("HSET", "{sse:stream:}:clock", "watermark", "x y")
	require.NoError(t, err)
	p.publish("a", "after")
	s.want("after")
	in.eventually("written again", func() bool { return len(historyData(t, r, "a")) == 2 })
	status, body := in.get(in.admin + "/ready")
	require.Equal(t, http.StatusOK, status)
	require.NotContains(t, body, "reason")
	connect(t, startRedis(t, r), from, "a").wantAfterGap("after")
}

// TestServerThatCannotSaveIsNamed: it refuses writes then. Open streams go on, and nothing is
// lost of what comes meanwhile.
func TestServerThatCannotSaveIsNamed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--save", "3600 1")
	in := startRedis(t, r, "--gap-wait", "250ms")
	p := newPublisher(t, r)
	s := connect(t, in, "", "a")
	saves := func(status string) {
		in.eventually("a save that is "+status, func() bool {
			_, _ = r.Do("BGSAVE") // an error: one is under way
			info, err := r.Do("INFO", "persistence")
			require.NoError(t, err)
			return strings.Contains(info.(string), "rdb_last_bgsave_status:"+status+"\r")
		})
	}
	p.publish("a", "before")
	dump := filepath.Join(r.Dir(), "dump.rdb")
	_ = os.Remove(dump)
	require.NoError(t, os.Mkdir(dump, 0o700)) // no file can take its place
	saves("err")
	p.publish("a", "meanwhile")
	s.want("before", "meanwhile")
	in.notReady("MISCONF")
	require.NoError(t, os.Remove(dump))
	saves("ok")
	in.waitReady()
	p.publish("a", "after")
	s.want("after")
	in.eventually("the history has it", func() bool { return len(historyData(t, r, "a")) == 3 })
	require.Equal(t, []string{"before", "meanwhile", "after"}, historyData(t, r, "a"))
}
