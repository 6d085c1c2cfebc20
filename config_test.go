package ssed_test

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ssed"
)

// TestSettingsOfStreamsReachTheEngine: each field of StreamConfig has one of the same name
// there. A new field has to be added here, or the test fails.
func TestSettingsOfStreamsReachTheEngine(t *testing.T) {
	cfg := loopback()
	cfg.Streams = ssed.StreamConfig{
		SocketMode: 0o600, ReusePort: true, Shards: 3, RingBytes: 1 << 20, MaxMessageBytes: 1000, MaxConnections: 11,
		MaxPerAddress: 12, MaxPerSubject: 13, ConnectRate: 14, ConnectBurst: 15,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ProxyProtocol: true,
		PeerTimeout: 16 * time.Second, HandshakeTimeout: 17 * time.Second, AuthTimeout: 18 * time.Second, MaxAge: 19 * time.Second,
		MaxChannels: 20, MaxHeadBytes: 21 << 10, BroadcastChannel: "all", Heartbeat: 22 * time.Second, HeartbeatEvent: "beat",
		StartID: ssed.StartIDOn, Unchunked: true, RetryMin: 23 * time.Second, RetryMax: 24 * time.Second, Drain: 25 * time.Second,
		Hosts: []string{"example.com"}, CORSOrigins: []string{"https://app.example.com"}, CORSCredentials: true,
	}
	gateway, err := ssed.New(cfg)
	require.NoError(t, err)
	defer gateway.Close()
	there := reflect.ValueOf(gateway.Parts().Engine.Config())
	given := reflect.ValueOf(cfg.Streams)
	for i := range given.NumField() {
		name := given.Type().Field(i).Name
		require.False(t, given.Field(i).IsZero(), "%s is not tried", name)
		if name == "MaxMessageBytes" { // of the feed, and of Publish
			continue
		}
		field := there.FieldByName(name)
		require.True(t, field.IsValid(), "engine.Config has no %s", name)
		require.Equal(t, given.Field(i).Interface(), field.Interface(), name)
	}
}
